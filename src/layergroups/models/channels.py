"""A loaded network for images of another number of channels: grey ones, or of many bands."""

from __future__ import annotations

from dataclasses import replace

import torch

from layergroups.anatomy import trace
from layergroups.errors import AnatomyError
from layergroups.models.catalog import LoadedModel
from layergroups.models.input_surgery import InputChange, change_input_channels


def with_channels(
    loaded: LoadedModel, channels: int, *, size: tuple[int, int]
) -> tuple[LoadedModel, InputChange | None]:
    """The network for images of so many channels; its first convolution is changed if need be.

    Args:
        loaded: the network, which is changed in place, with what its weights expect.
        channels: of the images that will come.
        size: their height and width, in pixels.

    Returns:
        The network with statistics for these channels, and what `change_input_channels` did; None
        where the network takes as many channels as it is.

    Raises:
        ModelError: the network cannot be changed so.
        AnatomyError: it cannot be run.
    """
    if channels == loaded.input.channels:
        return loaded, None
    spec = loaded.input.for_channels(channels)
    try:
        trace(loaded.model, torch.zeros(2, channels, *size))
    except AnatomyError:
        example = torch.zeros(2, loaded.input.channels, *size)
        change = change_input_channels(loaded.model, channels, example_input=example)
        return replace(loaded, input=spec), change
    return replace(loaded, input=spec), None
