"""Progressive resizing: small images first, large ones last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from layergroups.data import Size, as_size, set_epoch
from layergroups.errors import DataError, TrainingError
from layergroups.training.loop import FitContext
from layergroups.training.state import evaluating


class ProgressiveSizes:
    """Trains on images that grow over the fit; validation always uses the size of the data.

    The epochs of a fit are divided among the sizes as evenly as possible; the last epoch has the
    last size. Order and augmentation follow the data's seed at every size. Early epochs cost less:
    half the side is a quarter of the work. Outputs of frozen layers are not cached; the first phase
    of `fine_tune` uses the size of the data.

    Source: Howard, fast.ai course 2018; Tan and Le 2021, «EfficientNetV2».

    Args:
        sizes: sides, or (height, width), in pixels; the last one is the size of the data.

    Raises:
        TrainingError: there are no sizes; or at the start of a fit, the last one is not the size of
            the data, the data cannot change theirs, or the network cannot take one of them.
    """

    def __init__(self, sizes: Sequence[int | Size]) -> None:
        given: Any = sizes
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise TrainingError(
                f"sizes={sizes!r} must be a list of sides in pixels, such as "
                "ProgressiveSizes([128, 160, 224])."
            )
        try:
            self.sizes = tuple(as_size(size) for size in given)
        except (DataError, TypeError) as cause:
            raise TrainingError(
                f"sizes={sizes!r}: {cause} Use for example ProgressiveSizes([128, 160, 224])."
            ) from cause
        self._size: Size | None = None
        self._run: FitContext | None = None

    def before_fit(self, run: FitContext) -> None:
        self._run, self._size = run, None
        if run.needs_features:
            return
        _check_data(run, self.sizes[-1])
        for size in dict.fromkeys(self.sizes):
            _check_network(run, size)
        run.use_no_features("the size of the images changes")

    def before_epoch(self, run: FitContext) -> None:
        if not run.needs_features:
            self._take(run, self.size_of(run.epoch, run.epochs))

    def size_of(self, epoch: int, epochs: int) -> Size:
        """The size in an epoch of a fit, counted from 0."""
        before_last = (epochs - 1 - epoch) * len(self.sizes) // epochs
        return self.sizes[len(self.sizes) - 1 - before_last]

    def state_dict(self) -> dict[str, Any]:
        return {"size": None if self._size is None else list(self._size)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["size"] is not None and self._run is not None:
            self._take(self._run, as_size(tuple(state["size"])))

    def _take(self, run: FitContext, size: Size) -> None:
        if size != self._size:
            data = run.learner.data
            run.train = data.training(size=size, **run.varied) or data.train
            run.batches = run.train
            self._size = size
        set_epoch(run.train, run.learner.epochs_done)


def _check_data(run: FitContext, last: Size) -> None:
    data = run.learner.data
    own = data.size
    if own is None or data.training(size=last) is None:
        raise TrainingError(
            f"ProgressiveSizes needs data that can change their size, such as ImageDataLoaders; "
            f"{type(data.given).__name__} cannot."
        )
    if tuple(own) != last:
        raise TrainingError(
            f"The last of the progressive sizes is {last[0]} x {last[1]}, but data and validation "
            f"are {own[0]} x {own[1]}. End the list with that size, or make the data with "
            f"size={last}."
        )


def _check_network(run: FitContext, size: Size) -> None:
    spec = run.learner.data.input
    channels = 3 if spec is None else spec.channels
    image = torch.zeros(1, channels, *size, device=run.accelerator.device)
    try:
        with evaluating(run.model), run.accelerator.autocast():
            run.model(image)
    except Exception as cause:
        raise TrainingError(
            f"The network cannot take images of {size[0]} x {size[1]} pixels: {cause}. Leave this "
            "size out, or use a network that takes images of any size."
        ) from cause
