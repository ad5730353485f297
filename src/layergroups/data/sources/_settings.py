"""The common arguments of the constructors of `ImageDataLoaders`, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from layergroups._checks import whole_number
from layergroups._suggestions import unknown_option
from layergroups.data._batches import Balance, checked_workers, default_workers
from layergroups.data._samples import Samples, check_valid_pct
from layergroups.data.image import (
    CROP_PCT,
    Augmentation,
    DecodedCache,
    EvalTransform,
    OnError,
    Size,
    Transform,
    as_size,
    check_on_error,
)
from layergroups.errors import DataError
from layergroups.input_spec import InputSpec

Cache = bool | str | os.PathLike[str] | DecodedCache


class Options(TypedDict, total=False):
    """The names of these arguments, for type checkers; `ImageDataLoaders.from_folder` explains."""

    valid_pct: float
    seed: int
    size: int | Size
    batch_size: int
    bs: int | None
    augment: bool | str | Augmentation | Transform
    normalize: InputSpec | None
    crop_pct: float
    channels: int | None
    num_workers: int | None
    on_error: OnError
    cache: Cache
    balance: Balance


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments with their defaults; creating it checks them."""

    valid_pct: float = 0.2
    seed: int = 42
    size: int | Size = 224
    batch_size: int = 64
    bs: int | None = None
    augment: bool | str | Augmentation | Transform = True
    normalize: InputSpec | None = None
    crop_pct: float = CROP_PCT
    channels: int | None = None
    num_workers: int | None = None
    on_error: OnError = "raise"
    cache: Cache = True
    balance: Balance = False

    @classmethod
    def of(cls, options: Mapping[str, Any], way: Callable[..., Any]) -> Settings:
        """From the given arguments; `way` is the constructor that was called."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown_option(way, name, known)
        return cls(**options)

    def __post_init__(self) -> None:
        check_valid_pct(self.valid_pct)
        check_batch_size(self.wanted)
        _augmentation(self.augment)
        check_on_error(self.on_error)
        _check_channels_of_words(_augmentation(self.augment), self.n_channels)
        self.transform  # noqa: B018 - its making checks size, statistics and crop
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # may be negative
            raise DataError(f"seed={self.seed!r}: expected a whole number, such as 42.")
        checked_workers(self.num_workers)

    @property
    def wanted(self) -> int:
        """The requested batch size."""
        return self.batch_size if self.bs is None else self.bs

    @property
    def transform(self) -> EvalTransform:
        """The transform for validation and prediction."""
        return EvalTransform(as_size(self.size), self._input(), self.crop_pct)

    @property
    def n_channels(self) -> int:
        """Channels of the images."""
        return self._input().channels

    def loading(self, train: Samples) -> dict[str, Any]:
        """The fields of `ImageDataLoaders` for how images become batches."""
        workers = default_workers(train) if self.num_workers is None else self.num_workers
        return {
            "size": as_size(self.size),
            "batch_size": min(self.wanted, len(train)),
            "augment": _augmentation(self.augment),
            "input": self._input(),
            "input_is_default": self.normalize is None,
            "crop_pct": self.crop_pct,
            "seed": self.seed,
            "num_workers": workers,
            "on_error": self.on_error,
            "cache": _cache(self.cache),
            "balance": self.balance,
        }

    def _input(self) -> InputSpec:
        """The statistics, for as many channels as the images have."""
        if self.normalize is None:
            return InputSpec().for_channels(
                _channels(3 if self.channels is None else self.channels)
            )
        if not isinstance(self.normalize, InputSpec):
            raise DataError(
                f"normalize={self.normalize!r}: expected statistics, such as "
                "InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))."
            )
        if self.channels is not None and self.normalize.channels != _channels(self.channels):
            raise DataError(
                f"channels={self.channels}, but normalize= has statistics for "
                f"{self.normalize.channels}: expected a mean and a std for each channel."
            )
        return self.normalize


def check_batch_size(batch_size: int) -> int:
    """The number, if it can be a batch size."""
    return whole_number("batch_size", batch_size, 1, 64, DataError)


def _channels(channels: int) -> int:
    return whole_number("channels", channels, 1, 3, DataError)


def _augmentation(
    augment: bool | str | Augmentation | Transform,
) -> Augmentation | Transform | None:
    if isinstance(augment, str):
        return Augmentation.named(augment)
    if isinstance(augment, bool):
        return Augmentation() if augment else None
    if not callable(augment) and not isinstance(augment, Augmentation):
        raise DataError(
            f'augment={augment!r}: expected True, False, a name such as "trivial", '
            "Augmentation(...), or a function of a Pillow image."
        )
    return augment


def _check_channels_of_words(augment: Augmentation | Transform | None, channels: int) -> None:
    if isinstance(augment, Augmentation) and channels != 3 and (augment.policy or augment.erase):
        raise DataError(
            f"augment={augment.policy or 'erase'!r} needs images of 3 channels, these have "
            f"{channels}: give augment=True, Augmentation(...) without policy and erase, or a "
            "function of an image."
        )


def _cache(cache: Cache) -> DecodedCache | None:
    if isinstance(cache, bool):
        return DecodedCache() if cache else None
    return cache if isinstance(cache, DecodedCache) else DecodedCache(cache)
