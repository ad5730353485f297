"""What a network expects of an image: size, statistics and interpolation, bound to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_dict`; lists become tuples again."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)
