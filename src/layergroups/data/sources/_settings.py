"""The common arguments of the constructors of `ImageDataLoaders`, checked."""

from __future__ import annotations

import os
from collections.abc import Callable
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


class Settings:
    """The arguments of the constructor `way`, with their defaults, checked."""

    def __init__(self, options: Options, way: Callable[..., Any] | None = None) -> None:
        known = Options.__annotations__
        for name in options:
            if way is not None and name not in known:
                raise unknown_option(way, name, known)
        self.valid_pct = check_valid_pct(options.get("valid_pct", 0.2))
        self.seed = options.get("seed", 42)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # may be negative
            raise DataError(f"seed={self.seed!r}: expected a whole number, such as 42.")
        self.on_error = check_on_error(options.get("on_error", "raise"))
        bs = options.get("bs")
        self.batch_size = check_batch_size(options.get("batch_size", 64) if bs is None else bs)
        self.num_workers = checked_workers(options.get("num_workers"))
        spec = _input(options.get("normalize"), options.get("channels"))
        self.n_channels = spec.channels
        plain = EvalTransform(
            as_size(options.get("size", 224)), spec, options.get("crop_pct", CROP_PCT)
        )
        self._fields = {
            "size": plain.size,
            "augment": _augmentation(options.get("augment", True), spec.channels),
            "input": spec,
            "input_is_default": options.get("normalize") is None,
            "crop_pct": plain.crop_pct,
            "seed": self.seed,
            "on_error": self.on_error,
            "cache": _cache(options.get("cache", True)),
            "balance": options.get("balance", False),
        }

    def loading(self, train: Samples) -> dict[str, Any]:
        """The fields of `ImageDataLoaders` for how images become batches."""
        workers = default_workers(train) if self.num_workers is None else self.num_workers
        batch_size = min(self.batch_size, len(train))
        return self._fields | {"batch_size": batch_size, "num_workers": workers}


def check_batch_size(batch_size: int) -> int:
    return whole_number("batch_size", batch_size, 1, 64, DataError)


def _input(normalize: InputSpec | None, channels: int | None) -> InputSpec:
    """The statistics, for as many channels as the images have."""
    if channels is not None:
        whole_number("channels", channels, 1, 3, DataError)
    if normalize is None:
        return InputSpec().for_channels(channels or 3)
    if not isinstance(normalize, InputSpec):
        raise DataError(
            f"normalize={normalize!r}: expected statistics, such as "
            "InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))."
        )
    if channels not in (None, normalize.channels):
        raise DataError(
            f"channels={channels}, but normalize= has statistics for {normalize.channels}: "
            "expected a mean and a std for each channel."
        )
    return normalize


def _augmentation(
    augment: bool | str | Augmentation | Transform, channels: int
) -> Augmentation | Transform | None:
    if isinstance(augment, str):
        augment = Augmentation.named(augment)
    if isinstance(augment, bool):
        return Augmentation() if augment else None
    if not isinstance(augment, Augmentation):
        if callable(augment):
            return augment
        raise DataError(
            f'augment={augment!r}: expected True, False, a name such as "trivial", '
            "Augmentation(...), or a function of a Pillow image."
        )
    if channels != 3 and (augment.policy or augment.erase):
        raise DataError(
            f"augment={augment.policy or 'erase'!r} needs images of 3 channels, these have "
            f"{channels}: give augment=True, Augmentation(...) without policy and erase, or a "
            "function of an image."
        )
    return augment


def _cache(cache: Cache) -> DecodedCache | None:
    if isinstance(cache, bool):
        return DecodedCache() if cache else None
    return cache if isinstance(cache, DecodedCache) else DecodedCache(cache)
