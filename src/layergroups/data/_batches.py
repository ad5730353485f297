"""Batches of images, whose order and augmentation depend only on explicit seeds.

A *plan* lists the images of each batch, with the seed of the augmentation of each, or None for no
augmentation. The main process makes plans from (seed, epoch, image), so they do not depend on the
number of workers or the global random state, and do not change that state.
"""

from __future__ import annotations

import copy
import logging
import math
import multiprocessing
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from layergroups._formatting import memory
from layergroups._random import derived_seed, private_randomness
from layergroups.data._samples import Samples
from layergroups.data._shards import Shard, check_of, shard_positions
from layergroups.data.image import (
    BrokenImage,
    DecodedCache,
    EvalTransform,
    Picture,
    TrainTransform,
    available_cores,
    broken_images_error,
    normalise,
    open_picture,
    quiet,
    reason_of,
)
from layergroups.errors import DataError, TrainingError
from layergroups.input_spec import InputSpec

_LOG = logging.getLogger("layergroups")
_SHARED_MEMORY = "/dev/shm"
Balance = bool | Mapping[str, float] | Sequence[float]


def item_weights(balance: Any, samples: Samples, vocab: Sequence[str]) -> Tensor | None:
    """Each item's share of an epoch, float64 (N,), summing to 1; None for equal shares."""
    if balance is False or balance is None:
        return None
    try:
        if balance is True or isinstance(balance, Mapping):
            weights = _class_weights(balance, samples, vocab)
        elif isinstance(balance, str):
            weights = [-1.0]  # a word: refused below
        elif len(balance) == len(samples):
            weights = [float(weight) for weight in balance]
        else:
            raise DataError(
                f"balance= has {len(balance)} weights for {len(samples)} training items; give one "
                "for each, in their order, or balance=True."
            )
        if min(weights) >= 0 and 0 < sum(weights) < math.inf:
            return torch.tensor(weights, dtype=torch.float64) / sum(weights)
        cause = None
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        cause = error
    raise DataError(
        f"balance={str(balance)[:80]}: expected True for all classes equally often, numbers from "
        '0 by class ({"cat": 1, "dog": 2}), or one number from 0 for each training item.'
    ) from cause


def _class_weights(balance: Any, samples: Samples, vocab: Sequence[str]) -> list[float]:
    labels = samples.classes()
    if not labels:
        raise DataError(
            "balance= by class needs items of one class each; for several labels or numbers give "
            "a weight for each training item: balance=[1.0, 2.5, …]."
        )
    wanted = dict.fromkeys(vocab, 1.0) if balance is True else balance
    if set(map(str, wanted)) != set(vocab):
        raise DataError(
            f"balance= names {', '.join(map(str, wanted))}; give the relative frequency of "
            f"each class, for all of {', '.join(vocab)}."
        )
    n = Counter(labels)
    return [float(wanted[vocab[label]]) / n[label] for label in labels]


def weighted_order(weights: Tensor, labels: Sequence[Any] | None, seed: int) -> Tensor:
    """Images of an epoch, int64 (N,): N of them, in random order; some come repeatedly.

    Systematic sampling: a class with an expected count of k gets k images, within one, and each of
    its images comes equally often, within one. Sampling with replacement would draw some images
    five times and others never, by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(weights)
    order = torch.randperm(n, generator=generator)
    if labels is not None and all(isinstance(label, int) for label in labels):
        order = order[torch.tensor(labels)[order].argsort(stable=True)]
    ends = weights[order].cumsum(0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    points = (torch.arange(n, dtype=torch.float64) + start) / n * ends[-1]
    chosen = order[torch.searchsorted(ends, points, right=True).clamp(max=n - 1)]
    return chosen[torch.randperm(n, generator=generator)]


Item = tuple[int, int | None]
Plan = Iterable[list[Item]]
One = tuple[Tensor, int | Tensor]
Raw = tuple[Tensor, Tensor] | BrokenImage
_WORTH_WORKERS = 2.0  # seconds of reading in a pass from which workers save time
_SLOW_TO_READ = 0.005  # seconds
_SECONDS_PER_IMAGE = 0.0007  # measured: JPEGs of 12 kB to 1 MB on one core
_SECONDS_PER_BYTE = 1 / 45e6
_SAMPLE = 100  # files whose size is read
CPU = torch.device("cpu")


def default_workers(samples: Samples) -> int:
    """The default number of processes that prepare batches.

    See `ImageDataLoaders.from_folder`. Several training processes on one machine divide its cores.
    """
    per_image = _reading_seconds(samples)
    if per_image * len(samples) < _WORTH_WORKERS:
        return 0
    cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    if torch.accelerator.is_available():
        return min(8, cores - 1)
    return min(8, cores // 2) if per_image > _SLOW_TO_READ else 0


def checked_workers(n: object) -> int | None:
    """A number of processes that this machine can run, or None."""
    most = max(32, 4 * available_cores())
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= most):
        raise DataError(
            f"num_workers={n!r}: expected a number from 0 to {most} (this machine has "
            f"{available_cores()} cores), or None to choose."
        )
    return n


def _reading_seconds(samples: Samples) -> float:
    """Estimated time to read and resize one image, from the sizes of some of the files."""
    if samples.items is not None:  # unknown: as an image of 200 kB
        return _SLOW_TO_READ
    sample = samples.files[:: max(1, len(samples) // _SAMPLE)]
    sizes = [os.path.getsize(file) for file in sample]
    return _SECONDS_PER_IMAGE + _SECONDS_PER_BYTE * sum(sizes) / max(1, len(sizes))


class ImageDataset(Dataset[Any]):
    """Images as pixels (height, width, channels) with targets, or as a broken image."""

    def __init__(
        self,
        samples: Samples,
        plain: EvalTransform,
        augmented: TrainTransform | None = None,
        cache: DecodedCache | None = None,
    ) -> None:
        self.samples = samples
        self.plain = plain
        self.augmented = augmented
        self._open: Callable[..., Picture] = open_picture if cache is None else cache.open
        if samples.items is not None:
            self._open = samples.items.open

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: Item) -> One | BrokenImage:
        position, seed = item
        if self.samples.items is None and seed is None:
            return self._made(position, None)
        # A custom dataset may draw random numbers too: without augmentation always the same.
        fixed = zlib.crc32(self.samples.files[position].encode(errors="surrogateescape"))
        with private_randomness(fixed if seed is None else seed):
            return self._made(position, seed)

    def _made(self, position: int, seed: int | None) -> One | BrokenImage:
        file = self.samples.files[position]
        augmented = None if seed is None else self.augmented
        try:
            with quiet():
                decoded = (augmented or self.plain).decode_size
                image = self._open(file, min_size=decoded, channels=self.plain.channels)
                mask = self.samples.mask(position)
        except Exception as error:  # the file changed since it was checked: reported by its path
            return BrokenImage(Path(file), reason_of(error, file))
        transform = augmented or self.plain
        if mask is not None:
            return transform.pair(image, mask)
        return transform.pixels(image), self.samples.target(position)


def stack(items: Sequence[One | BrokenImage]) -> Raw:
    """Items as one batch: pixels, uint8, or float32 if some are, and targets; or a broken item."""
    pixels, targets = [], []
    for item in items:
        if isinstance(item, BrokenImage):
            return item
        pixels.append(item[0])
        targets.append(torch.as_tensor(item[1]))
    if any(image.is_floating_point() for image in pixels):
        pixels = [image if image.is_floating_point() else image / 255 for image in pixels]
    return torch.stack(pixels), torch.stack(targets)


class BatchMaker:
    """Makes the batches of any plan over a set of images, in this process or by workers.

    The workers start with the first plan and are reused. Plans that run at the same time get their
    own workers. Workers send bytes; they are normalised here, on the device.
    """

    def __init__(self, dataset: ImageDataset, num_workers: int, device: torch.device = CPU) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.device = device
        self.batch_size = 1  # the largest of the loaders that use it
        self._pool: DataLoader[Any] | None = None
        self._busy = False

    def to(self, device: torch.device) -> None:
        if device != self.device:
            self.device, self._pool = device, None  # the memory of other workers is not pinned

    def follow(self, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x, y): float32 (N, channels, height, width), normalised, and the targets."""
        if self._busy or self.num_workers == 0:
            yield from map(self._finished, self._new_loader(plan, stay=False))
            return
        if self._pool is None:
            self._pool = self._new_loader((), stay=True)
        self._pool.batch_sampler.batches = plan  # type: ignore[union-attr] # a _PlanSampler
        self._busy = True
        try:
            yield from map(self._finished, self._pool)
        except RuntimeError as error:
            raise _workers_error(error) from error
        finally:
            self._busy = False

    def batch(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        return self._finished(stack([self.dataset[item] for item in items]))

    def _finished(self, raw: Raw) -> tuple[Tensor, Tensor]:
        if isinstance(raw, BrokenImage):
            raise broken_images_error([raw])
        # A quarter of the bytes of normalised pixels goes to the device.
        pixels, targets = (torch.as_tensor(part).to(self.device, non_blocking=True) for part in raw)
        # Masks travel in two bytes for a pixel; in one for each label where these may overlap.
        if targets.dtype in (torch.int16, torch.int8):
            targets = targets.long() if targets.dtype == torch.int16 else targets.float()
        return normalise(pixels, self.dataset.plain.input), targets

    def _new_loader(self, plan: Plan, *, stay: bool) -> DataLoader[Any]:
        collate: Callable[[Sequence[One | BrokenImage]], Any] = stack
        if self.num_workers and not self._fits_shared_memory():
            collate = _piped
        return DataLoader(
            self.dataset,
            batch_sampler=_PlanSampler(plan),
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=stay and self.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else each pass would draw from the global one
        )

    def _fits_shared_memory(self) -> bool:
        """Whether the batches that workers prepare fit; without shared memory there are none."""
        if not sys.platform.startswith("linux"):
            return True
        if not os.access(_SHARED_MEMORY, os.W_OK):
            _LOG.warning("%s cannot be written to, so there are no workers.", _SHARED_MEMORY)
            self.num_workers = 0
            return True
        plain = self.dataset.plain
        image = plain.size[0] * plain.size[1] * plain.channels * (1 if plain.channels == 3 else 4)
        needed = image * self.batch_size * (2 * self.num_workers + 2)  # two batches of each worker
        free = shutil.disk_usage(_SHARED_MEMORY).free
        if needed <= free:
            return True
        _LOG.warning(
            "%s has %s free, but %d workers need up to %s: they send batches through pipes, which "
            "is slower. Give the container more (docker run --shm-size=2g), or fewer num_workers=.",
            _SHARED_MEMORY, memory(free), self.num_workers, memory(needed),
        )  # fmt: skip
        return False


def _piped(items: Sequence[One | BrokenImage]) -> Any:
    """As `stack`; a worker sends arrays through its pipe, but tensors through shared memory."""
    made = stack(items)
    return made if isinstance(made, BrokenImage) else tuple(part.numpy() for part in made)


def _workers_error(error: RuntimeError) -> Exception:
    if "DataLoader worker" not in str(error):
        return error
    method = multiprocessing.get_start_method()
    cause = (
        "Perhaps memory ran out: give fewer, or num_workers=0."
        if method == "fork"
        else f'They start by "{method}", which runs your script again: put what it does under '
        'if __name__ == "__main__":, or give num_workers=0.'
    )
    return TrainingError(f"The processes that prepare batches ended. {cause} ({error})")


class _PlanSampler:
    """Gives a DataLoader a plan, which may be replaced between passes."""

    def __init__(self, batches: Plan) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)


class _Loader:
    def __init__(self, maker: BatchMaker, batch_size: int) -> None:
        self.maker = maker
        self.batch_size = batch_size
        maker.batch_size = max(maker.batch_size, batch_size)

    @property
    def samples(self) -> Samples:
        return self.maker.dataset.samples

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.samples.paths

    @property
    def n_items(self) -> int:
        """How many images there are."""
        return len(self.samples)

    def normalised(self, spec: InputSpec) -> Self:
        """The same images with the statistics and the interpolation of a network."""
        images = self.maker.dataset
        if images.plain.input == spec or images.plain.channels != spec.channels:
            return self
        other, images = copy.copy(self), copy.copy(images)
        images.plain = replace(images.plain, input=spec)
        other.maker = BatchMaker(images, self.maker.num_workers, self.maker.device)
        other.maker.batch_size = self.maker.batch_size
        return other

    def _shards(
        self, plan: Iterable[list[Item]], rank: int, world: int, min_items: int
    ) -> Iterator[Shard]:
        """The shard of one process of each batch of a plan; it opens no other image."""
        work, shards = [], []
        for items in plan:
            mine, counted = shard_positions(len(items), rank, world, min_items)
            work.append([items[i] for i in mine])
            shards.append(Shard(None, counted, len(items), mine, check_of(items)))
        for shard, batch in zip(shards, self.maker.follow(work), strict=True):
            yield replace(shard, batch=batch)


class EvalLoader(_Loader):
    """All images in their order, any number of times.

    Iterating yields (x, y): float32 (N, channels, height, width), normalised, and the targets; or x
    alone if the images have no labels. `seed_of` gives the seed of an image's augmentation.
    """

    def __init__(
        self, maker: BatchMaker, batch_size: int, seed_of: Callable[[int], int] | None = None
    ) -> None:
        super().__init__(maker, batch_size)
        self._seed_of = seed_of

    def __len__(self) -> int:
        return math.ceil(self.n_items / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return map(self._labelled, self.maker.follow(self._plan()))

    def at(self, positions: Sequence[int]) -> Any:
        """One batch of the images at these positions, in that order; it opens no others."""
        return self._labelled(self.maker.batch(self._items(positions)))

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        """The shard of one process of each batch; it opens no other image."""
        for shard in self._shards(self._plan(), rank, world, min_items):
            yield replace(shard, batch=self._labelled(shard.batch))

    keyword = ""  # the argument of the network, where it takes the images by name

    def _labelled(self, batch: tuple[Tensor, Tensor]) -> Any:
        inputs = {self.keyword: batch[0]} if self.keyword else batch[0]
        return inputs if self.samples.labels is None else (inputs, batch[1])

    def _plan(self) -> Iterator[list[Item]]:
        for start in range(0, self.n_items, self.batch_size):
            yield self._items(range(start, min(start + self.batch_size, self.n_items)))

    def _items(self, positions: Iterable[int]) -> list[Item]:
        seed_of = self._seed_of
        return [(i, None if seed_of is None else seed_of(i)) for i in positions]


class TrainLoader(_Loader):
    """Shuffled, augmented training images; order and augmentation differ from epoch to epoch.

    Iterating runs the epoch `epoch` and increases that number by one, so a plain loop gets new
    batches in each pass; `set_epoch` sets it, to repeat or to resume. Yields (x, y) as
    `EvalLoader`. The last batch is smaller where the images do not fill it, and is left out if
    it would hold a single image, for which batch norm has no statistics. With `weights`, shares of
    the images, an epoch has as many images as the dataset, some of them repeatedly. The images at
    the positions `left_out` are in no batch.
    """

    def __init__(
        self,
        maker: BatchMaker,
        batch_size: int,
        seed: int,
        weights: Tensor | None = None,
        left_out: Collection[int] = (),
    ) -> None:
        super().__init__(maker, batch_size)
        self.seed = seed
        self.weights = weights
        self.epoch = 0
        self._used = torch.ones(self.n_items, dtype=torch.bool)
        self._used[list(left_out)] = False

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch the next pass is."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(int(self._used.sum()), self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass without its first batches, which are not read."""
        return self.maker.follow(islice(self._next_plan(), batch, None))

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        """The shard of one process of each batch; it opens no other image."""
        return self._shards(self._next_plan(), rank, world, min_items)

    def positions(self, epoch: int) -> list[list[int]]:
        """Which images are in each batch of an epoch."""
        return [[position for position, _ in items] for items in self.plan(epoch)]

    def plan(self, epoch: int) -> Iterator[list[Item]]:
        """The batches of an epoch, as positions of images and seeds."""
        order = self._order(derived_seed(self.seed, epoch))
        augmented, times = self.maker.dataset.augmented is not None, [0] * self.n_items
        for number in range(len(self)):
            items: list[Item] = []
            for i in order[number * self.batch_size : (number + 1) * self.batch_size].tolist():
                repeat = (times[i],) if times[i] else ()
                items.append((i, derived_seed(self.seed, epoch, i, *repeat) if augmented else None))
                times[i] += 1
            yield items

    def _next_plan(self) -> Iterator[list[Item]]:
        plan = self.plan(self.epoch)
        self.epoch += 1
        return plan

    def _order(self, seed: int) -> Tensor:
        if self.weights is not None:
            weights = self.weights * self._used
            return weighted_order(weights, self.samples.labels, seed)[: int(self._used.sum())]
        order = torch.randperm(self.n_items, generator=torch.Generator().manual_seed(seed))
        return order[self._used[order]]
