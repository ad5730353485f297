"""Transforms for training and evaluation: from an opened image to the input of a network.

An image becomes a tensor (height, width, channels), uint8 if it has 8 bits; normalisation is done
for a whole batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from layergroups.data.image._image_checks import BrokenImage, reason_of
from layergroups.data.image._opening import (
    Array,
    Picture,
    Size,
    for_torchvision,
    height_and_width,
    picture_of,
    pixels_of,
)
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

_POLICIES: Final = {
    "rand": v2.RandAugment,
    "trivial": v2.TrivialAugmentWide,
    "auto": v2.AutoAugment,
    "augmix": v2.AugMix,
}
_ERASE: Final = "erase"  # the name of random erasing alone
_DOCUMENT: Final = "document"  # the name of what mirrors and cuts nothing
_ERASED: Final = 0.25  # share of the images that it changes
_GREY: Final = 116  # nearly 0 after normalising, in images of any number of channels
Transform = Callable[[Any], Any]
ImageSource = str | os.PathLike[str] | Image.Image | Array | torch.Tensor
CROP_PCT = 0.95


# Tensors support fewer interpolations than Pillow; these are the closest.
_FOR_ARRAYS = {"box": "bilinear", "hamming": "bilinear", "lanczos": "bicubic"}
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly training images are augmented; the defaults fit transfer learning.

    A part of the image is cut out and resized (Szegedy et al. 2015, "Going deeper with
    convolutions", with a much milder cut than for training from scratch), perhaps mirrored, and its
    brightness and contrast are changed a little.

    Attributes:
        scale: smallest and largest share of the image's area that is cut out; (1, 1) keeps the
            image as validation sees it.
        ratio: smallest and largest width divided by height of that part.
        flip: probability of mirroring left and right.
        brightness: largest relative change of brightness; 0.1 means 0.9 to 1.1 times.
        contrast: largest relative change of contrast.
        policy: additional stronger augmentation: "rand" (RandAugment, Cubuk et al. 2019), "trivial"
            (TrivialAugment, Müller and Hutter 2021), "auto" (AutoAugment, Cubuk et al. 2018) or
            "augmix" (Hendrycks et al. 2019), of torchvision; None for none.
        erase: probability of filling a rectangle of the image with grey (Zhong et al. 2017).
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.1
    policy: str | None = None
    erase: float = 0.0

    @classmethod
    def named(cls, word: str) -> Augmentation:
        """The augmentation of a name: a policy instead of brightness and contrast, or "erase".

        "document" changes only brightness and contrast: a mirrored letter or sign has another
        meaning, and a part of a page or spectrogram is not the whole.
        """
        if word == _ERASE:
            return cls(erase=_ERASED)
        if word == _DOCUMENT:
            return cls(scale=(1.0, 1.0), flip=0.0, brightness=0.2, contrast=0.2)
        return cls(brightness=0.0, contrast=0.0, policy=word)

    def __post_init__(self) -> None:
        _expect(0 < self.scale[0] <= self.scale[1] <= 1, "scale", self.scale, "(0.5, 1.0)")
        _expect(0 < self.ratio[0] <= self.ratio[1], "ratio", self.ratio, "(0.75, 1.33)")
        if self.policy == _ERASE:
            raise DataError('"erase" is not a policy: Augmentation(erase=0.25).')
        if self.policy not in (None, *_POLICIES):
            known = ", ".join(f'"{name}"' for name in (_DOCUMENT, *_POLICIES, _ERASE))
            raise DataError(
                f"augment={self.policy!r} is not known; the names are {known}. Or give True, "
                'False, Augmentation(policy="trivial", erase=0.25), or a function of an image.'
            )
        for name in ("flip", "brightness", "contrast", "erase"):
            value = getattr(self, name)
            _expect(0 <= value <= 1, name, value, "a number from 0 to 1")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut out."""
        return self.scale[0] == 1

    def transform(self, size: Size, interpolation: str) -> Transform:
        """The torchvision transform, with results of `size`, or as the image if it is whole."""
        how = v2.InterpolationMode(interpolation)
        crop = v2.RandomResizedCrop(list(size), self.scale, self.ratio, interpolation=how)
        steps: list[Any] = [] if self.is_whole else [crop]
        steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.brightness or self.contrast:
            steps.append(_Light(self.brightness, self.contrast))
        if self.policy is not None:
            smooth = v2.InterpolationMode.BILINEAR
            steps.append(_POLICIES[self.policy](fill=_GREY, interpolation=smooth))
        if self.erase:  # works on tensors
            steps += [v2.PILToTensor(), _Erasing(self.erase)]
        return v2.Compose(steps)  # type: ignore[no-any-return] # torchvision, untyped

    def decode_size(self, size: Size) -> int:
        """The shorter side in pixels from which even the smallest cut fills `size`."""
        narrowest = min(self.ratio[0], 1 / self.ratio[1], 1.0)
        return math.ceil(max(size) / math.sqrt(self.scale[0] * narrowest))


@dataclass(frozen=True)
class EvalTransform:
    """The transform for validation and prediction; nothing in it is random.

    The image is resized so that it just covers `size / crop_pct`, then cropped at the centre. The
    default keeps more of the image than the 0.875 that most weights come with: after training with
    the milder default augmentation a larger share of the image fits better.
    """

    size: Size  # height and width of the result in pixels
    # mean, standard deviation and interpolation in use; its own size and crop are not
    input: InputSpec = field(default_factory=InputSpec)
    crop_pct: float = CROP_PCT  # share of the resized image's side that is kept
    # resize the whole image to the size, whatever its aspect, and crop nothing
    squash: bool = False

    def __post_init__(self) -> None:
        _check_spec(self.input)
        _expect(0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "0.95")

    @property
    def channels(self) -> int:
        return self.input.channels

    @property
    def decode_size(self) -> int:
        """The minimum of the shorter side in decoding, in pixels."""
        return math.ceil(max(self.size) / self.crop_pct)

    @property
    def covering(self) -> Size:
        """Height and width in pixels that the resized image just covers, before the crop."""
        if self.squash:
            return self.size
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in self.size)
        return height, width

    def __call__(self, source: ImageSource) -> torch.Tensor:
        """One image as a network takes it: float32 (channels, height, width), normalised.

        Args:
            source: a path, a Pillow image, an array (H, W) or (H, W, 1 to 4), or a tensor (H, W) or
                (1 to 4, H, W); pixels are uint8, or fractions from 0 to 1, not yet normalised. If
                images are not RGB, arrays have their channels, first or last.
        """
        picture = opened(source, self.channels, self.decode_size)
        return normalise(self.pixels(picture)[None], self.input)[0]

    def pixels(self, image: Picture) -> torch.Tensor:
        """An image with its channels as (height, width, channels), uint8 or float32."""
        how = self.input.interpolation
        if not isinstance(image, Image.Image):
            how = _FOR_ARRAYS.get(how, how)
        mode = v2.InterpolationMode(how)
        given = for_torchvision(image)
        if self.squash:
            return pixels_of(v2.functional.resize(given, list(self.size), interpolation=mode))
        resized = v2.functional.resize(given, self._covering(image), interpolation=mode)
        return pixels_of(v2.functional.center_crop(resized, list(self.size)))

    def pair(self, image: Picture, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels as above, and a mask (H, W) or (C, H, W), both resized to the size."""
        return self.pixels(image), _resized_mask(mask, self.size)

    def _covering(self, image: Picture) -> list[int]:
        """Height and width to resize to: the least that covers, rounded as torchvision does."""
        height, width = self.covering
        high, wide = height_and_width(image)
        if height * wide >= width * high:
            return [height, max(width, height * wide // high)]
        return [max(height, width * high // wide), width]

    def to_config(self) -> dict[str, Any]:
        spec = replace(self.input, size=self.size, crop_pct=self.crop_pct)
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in spec.to_dict().items()}
        return config | ({"squash": True} if self.squash else {})


@dataclass(frozen=True)
class TrainTransform:
    """The transform of training images.

    Attributes:
        augment: an `Augmentation`, or any function of a Pillow image that gives a Pillow image or
            a tensor (3, H, W), uint8 or from 0 to 1; its result is resized if needed. Images
            opened as arrays are passed and returned as tensors (channels, H, W).
        plain: the transform for validation.
    """

    augment: Augmentation | Transform
    plain: EvalTransform
    _augment: Transform = field(init=False, repr=False, compare=False)
    _augment_array: Transform = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        vary = augment_array = self.augment
        if isinstance(vary, Augmentation):
            how = self.plain.input.interpolation
            augment_array = vary.transform(self.plain.size, _FOR_ARRAYS.get(how, how))
            vary = vary.transform(self.plain.size, how)
        object.__setattr__(self, "_augment", vary)
        object.__setattr__(self, "_augment_array", augment_array)

    @property
    def decode_size(self) -> int | None:
        if isinstance(self.augment, Augmentation):
            return self.augment.decode_size(self.plain.size)
        return None

    def pixels(self, image: Picture) -> torch.Tensor:
        """An image as (height, width, channels), augmented by the global random generators."""
        is_array, channels = isinstance(image, np.ndarray), self.plain.channels
        augmented = (self._augment_array if is_array else self._augment)(for_torchvision(image))
        if not isinstance(augmented, torch.Tensor | Image.Image):
            raise DataError(
                f"augment= returned a {type(augmented).__name__} for an image; expected a Pillow "
                f"image or a tensor ({channels}, height, width), not yet normalised."
            )
        augmented = picture_of(augmented, channels, strict=not is_array)
        whole = isinstance(self.augment, Augmentation) and self.augment.is_whole
        if whole or height_and_width(augmented) != self.plain.size:
            return self.plain.pixels(augmented)
        return pixels_of(for_torchvision(augmented))

    def pair(self, image: Picture, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels as above, and a mask (H, W) or (C, H, W), varied in the same way."""
        is_array = isinstance(image, np.ndarray)
        whole = tv_tensors.Mask(_resized_mask(mask, height_and_width(image)))
        augment = self._augment_array if is_array else self._augment
        try:
            varied, same = augment(for_torchvision(image), whole)  # type: ignore[call-arg] # both
        except (TypeError, ValueError) as cause:
            raise DataError(
                "augment= must vary an image and its mask together, as transforms of "
                f"torchvision.transforms.v2 do: {cause}. Or give augment=True."
            ) from cause
        varied = picture_of(varied, self.plain.channels, strict=not is_array)
        if height_and_width(varied) != self.plain.size:
            return self.plain.pair(varied, torch.as_tensor(same))
        return pixels_of(for_torchvision(varied)), same.as_subclass(torch.Tensor)


def _resized_mask(mask: torch.Tensor, size: Size) -> torch.Tensor:
    """A mask (H, W) or (C, H, W) at a size, without interpolation."""
    if tuple(mask.shape[-2:]) == size:
        return mask
    nearest = v2.InterpolationMode.NEAREST_EXACT
    resized = v2.functional.resize(tv_tensors.Mask(mask), list(size), interpolation=nearest)
    return resized.as_subclass(torch.Tensor)  # type: ignore[no-any-return] # torchvision, untyped


class _Erasing:
    """Random erasing of an image, not of its mask, about which torchvision would warn."""

    def __init__(self, probability: float) -> None:
        self._erase = v2.RandomErasing(probability, value=_GREY)

    def __call__(self, image: Any, *masks: Any) -> Any:
        return (self._erase(image), *masks) if masks else self._erase(image)


class _Light:
    """Random brightness and contrast: torchvision's for images, this one for arrays."""

    def __init__(self, brightness: float, contrast: float) -> None:
        self._jitter = v2.ColorJitter(brightness=brightness, contrast=contrast)
        self._by = torch.tensor([brightness, contrast])

    def __call__(self, image: Any, *masks: Any) -> Any:
        return (self._changed(image), *masks) if masks else self._changed(image)

    def _changed(self, image: Any) -> Any:
        if isinstance(image, Image.Image):
            return self._jitter(image)
        bright, contrast = (1 + self._by * (2 * torch.rand(2) - 1)).tolist()
        values = image.to(torch.float32) * bright
        mean = values.mean()
        augmented = (values - mean) * contrast + mean
        if image.is_floating_point():
            return augmented
        return augmented.round_().clamp_(0, 255).to(image.dtype)


def transform_from_config(config: Mapping[str, Any]) -> EvalTransform:
    """The inverse of `EvalTransform.to_config`, to predict without the training images."""
    expected = EvalTransform((1, 1)).to_config()
    squash = config.get("squash", False)
    try:
        spec = InputSpec.from_dict({name: config[name] for name in expected})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"This does not describe a transform: expected the entries {', '.join(expected)}; "
            f"got {dict(config)}."
        ) from error
    return EvalTransform(spec.size, spec, spec.crop_pct, squash is True)


def opened(source: ImageSource, channels: int, min_size: int | None = None) -> Picture:
    """An image of a file or in memory; a file may be decoded at a smaller size, see `open_image`.

    Raises:
        DataError: it is not an image; `BrokenImagesError` if the file cannot be read.
    """
    try:
        return picture_of(source, channels, min_size=min_size)
    except Exception as error:  # whatever Pillow's readers meet: the file is broken
        if isinstance(error, DataError) or not isinstance(source, str | os.PathLike):
            raise
        broken = BrokenImage(Path(source), reason_of(error, source))
        raise BrokenImagesError(f"Cannot read the image {broken}.") from error


def normalise(pixels: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Scale pixels (N, height, width, channels) to 0..1 and normalise them.

    float32 is scaled already. The result is float32 (N, channels, height, width) in channels-last
    memory format, in which convolutions on a CPU are up to 1.8 times as fast.
    """
    n, height, width, channels = pixels.shape
    mean, std = (torch.tensor(v, device=pixels.device) for v in (spec.mean, spec.std))
    # Whole rows of pixels at a time: many times faster than broadcasting along three channels.
    rows = pixels.reshape(n * height, width * channels).to(torch.float32, copy=True)
    largest = 1 if pixels.is_floating_point() else 255
    rows.mul_((1 / (largest * std)).repeat(width)).sub_((mean / std).repeat(width))
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def as_size(size: int | Size, name: str = "size") -> Size:
    """A side, or height and width, as height and width."""
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    whole = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
    _expect(whole and min(pair) > 0, name, size, "224, or (height, width)")
    return pair[0], pair[1]


def _check_spec(spec: InputSpec) -> None:
    if spec.interpolation not in _INTERPOLATIONS:
        raise DataError(
            f"interpolation={spec.interpolation!r} is not known; expected one of "
            f"{', '.join(_INTERPOLATIONS)}."
        )
    if not spec.mean or len(spec.mean) != len(spec.std) or min(spec.std) <= 0:
        raise DataError(
            f"mean={spec.mean}, std={spec.std}: expected a number for each channel in both, three "
            "for RGB, and none of std zero."
        )


def _expect(holds: bool, name: str, value: object, example: str) -> None:
    if not holds:
        raise DataError(f"{name}={value!r} does not work; expected for example {example}.")
