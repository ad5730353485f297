"""Decoders of masks: what they can be made of."""

from __future__ import annotations

import pytest
import torch
from tests.models.test_segmenter import segmenter

from layergroups.errors import ModelError


@pytest.mark.parametrize(
    ("decoder", "widths"), [("fpn", (16,)), ("unet", (0,)), ("unet", ("a",)), ("plain", (8,) * 6)]
)
def test_widths_that_a_decoder_cannot_have_are_refused(
    decoder: str, widths: tuple[object, ...]
) -> None:
    """Six doublings of maps of 1/32 would give masks larger than the image."""
    with pytest.raises(ModelError, match="widths="):
        segmenter("torchvision:resnet18", decoder=decoder, widths=widths)
    if decoder == "plain":
        made = segmenter("torchvision:resnet18", decoder=decoder, widths=widths[1:])
        assert made(torch.rand(1, 3, 72, 100)).shape == (1, 4, 72, 100)
