"""What a network expects of an image: size, statistics and interpolation, bound to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from layergroups._from_dict import from_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How images must look for a set of weights.

    Attributes:
        size: height and width in pixels that the weights were trained for.
        mean: mean of each channel, for pixels scaled to 0..1.
        std: standard deviation of each channel, likewise.
        interpolation: "nearest", "bilinear" or "bicubic", for resizing.
        crop_pct: share of the resized image's side that the central validation crop keeps.
        source: where these figures come from, in words ("ResNet18_Weights.IMAGENET1K_V1").
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    source: str = "ImageNet defaults"

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.mean)

    def for_channels(self, channels: int) -> InputSpec:
        """The statistics for images of another number of channels.

        They follow what `change_input_channels` does to weights: for one channel they are the
        means over all channels; otherwise they are repeated in a cycle.
        """
        before = self.channels
        if channels == before:
            return self
        if channels == 1:
            mean, std = (sum(values) / before for values in (self.mean, self.std))
            how = f"mean of {before} channels"
            return replace(self, mean=(mean,), std=(std,), source=f"{self.source}, {how}")
        cycle = [i % before for i in range(channels)]
        return replace(
            self,
            mean=tuple(self.mean[i] for i in cycle),
            std=tuple(self.std[i] for i in cycle),
            source=f"{self.source}, {before} channels repeated for {channels}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is not known, or has another type.
        """
        return from_dict(cls, fields)
