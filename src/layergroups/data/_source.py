"""What the library needs of data (`DataSource`), and plain batches adapted to it.

Only this file reads optional attributes of data.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from layergroups._fingerprint import stable_text
from layergroups._formatting import count
from layergroups._forward import split_batch
from layergroups._random import private_randomness
from layergroups.data.image import Picture, Size, opened, size_of_image
from layergroups.errors import LayerGroupsError, TrainingError
from layergroups.input_spec import InputSpec
from layergroups.tasks import Task, checked_task

_LOG = logging.getLogger("layergroups")


class Batches(Protocol):
    """Batches (inputs, targets), and how many there are."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@runtime_checkable
class SeekableBatches(Batches, Protocol):
    """Batches with known items; the feature cache needs this.

    Two more methods make resuming and several processes quicker: `starting_at(batch)`, a pass
    without its first batches, and `shards(rank, world, min_items)`, the items of one process.
    """

    @property
    def n_items(self) -> int:
        """How many items there are."""

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch the next pass is."""

    def positions(self, epoch: int) -> list[list[int]]:
        """Which items are in each batch of an epoch."""


@runtime_checkable
class IndexedBatches(Protocol):
    """Batches in a fixed order, with access to single items."""

    @property
    def n_items(self) -> int:
        """How many items there are."""

    def at(self, positions: Sequence[int]) -> Any:
        """One batch of the items at these positions, in that order."""


class TrainValid(Protocol):
    """The least that a learner needs: batches to train on and batches to validate on."""

    @property
    def train(self) -> Batches:
        """Training batches; if they have `set_epoch(n)`, it is called before each pass."""

    @property
    def valid(self) -> Batches | None:
        """Validation batches."""


class View(NamedTuple):
    """Items as test time augmentation sees them, and how their predictions are put back.

    `restored` takes and returns predictions float (N, ...): those of masks are mirrored again.
    """

    batches: Batches
    restored: Callable[[Tensor], Tensor] = lambda predictions: predictions


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    name: str = ""  # of the folder
    train: int | None = None
    valid: int | None = None
    counts: tuple[tuple[str, int, int], ...] = ()  # of each class: name, training, validation
    facts: Mapping[str, str] = field(default_factory=dict)  # anything else, by name
    broken: tuple[tuple[str, str], ...] = ()  # path and reason


class DataSource:
    """The data interface of the library; derive from it for a new kind of data.

    The attributes, `train`, `valid` and `task` are required. The other methods have defaults, for
    data that cannot do more.

    Attributes:
        vocab: names of the classes, labels or numbers; empty if unknown.
        seed: decides order and augmentation.
        batch_size: items in a batch; 0 if unknown.
        input: the statistics by which images are normalised; None for inputs of other kinds.
        size: height and width of the images in pixels; None for inputs of other kinds.
    """

    vocab: tuple[str, ...]
    seed: int
    batch_size: int
    input: InputSpec | None
    size: Size | None

    @property
    def train(self) -> Batches:
        """Training batches."""
        raise NotImplementedError

    @property
    def valid(self) -> Batches | None:
        """Validation batches."""
        raise NotImplementedError

    @property
    def task(self) -> Task | None:
        """The task; None if only the loss defines it."""
        raise NotImplementedError

    @property
    def given(self) -> Any:
        """The object that the user gave: `learn.dls`."""
        return self

    @property
    def n_outputs(self) -> int:
        """Outputs that a model needs: classes, labels or numbers; 0 if unknown."""
        return len(self.vocab)

    @property
    def c(self) -> int:
        """The same as `n_outputs`, as fastai calls it."""
        return self.n_outputs

    @property
    def classes(self) -> tuple[str, ...]:
        """The same as `vocab`."""
        return self.vocab

    @property
    def augmentation(self) -> object:
        """How training items are augmented: settings, a function, or None."""
        return None

    @property
    def augmented(self) -> bool:
        """Whether a training item differs from epoch to epoch."""
        return True

    @property
    def mask_values(self) -> tuple[Any, ...]:
        """Value or colour of each class in the files of masks; empty if unknown."""
        return ()

    @property
    def sampling_weights(self) -> Tensor | None:
        """Each training item's share of an epoch, float64 (N,); None for equal shares."""
        return None

    @property
    def input_is_default(self) -> bool:
        """Whether the library chose the statistics, and not the user."""
        return True

    def targets(self) -> Tensor | None:
        """Targets of all training items, without opening one; None if unknown."""
        return None

    def example(self) -> Any | None:
        """A batch of inputs for a dry run; None if unknown."""
        if self.size is None or self.input is None:
            return None
        return torch.zeros(1, self.input.channels, *self.size)

    def load(self, item: Any) -> Any:
        """One item as the model takes it, without the batch dimension; an error by default."""
        if isinstance(item, Tensor):
            return item
        raise TrainingError(
            f"{self._name} has no load(item), so predict needs a tensor of one item, not "
            f"{type(item).__name__}."
        )

    def opened(self, item: Any) -> Picture:
        """An image at its full size; `load` takes parts of it too."""
        if self.input is None:
            raise TrainingError(
                f"{self._name} has no statistics `input` of images, so tile= cannot cut an image. "
                "Use SegmentationDataLoaders."
            )
        return opened(item, self.input.channels)

    def placed(self, prediction: Any, item: Any) -> Any:
        """The prediction of one item in the form of that item, such as a mask of its size."""
        if self.task is None or not self.task.per_pixel:
            return prediction
        channels = 3 if self.input is None else self.input.channels
        height, width = size_of_image(item, channels) or prediction.mask.shape[-2:]
        return self.task.placed(prediction, height, width, self.mask_values)

    def test_batches(self, items: Any) -> Any:
        """Batches of other items, such as paths, with `paths` in their order."""
        raise TrainingError(
            f"{self._name} has no test_dl(paths), so it cannot read images. Use ImageDataLoaders, "
            "or predict your own batches: learn.get_preds(batches)."
        )

    def views(self, epoch: int | None) -> Batches | None:
        """The training items in their order, augmented as in an epoch; None if not possible.

        With `epoch=None` they are as validation items are, without augmentation.
        """
        return None

    def tta_views(self, batches: Iterable[Any], n: int) -> Sequence[View]:
        """The items of some batches n times in their order, each time augmented differently."""
        raise TrainingError(
            f"Batches of the class {type(batches).__name__} cannot be augmented. Give images: "
            "learn.tta(), learn.tta(dls.test_dl(paths))."
        )

    def training(
        self,
        *,
        size: Size | None = None,
        batch_size: int = 0,
        left_out: Collection[int] = (),
        plain: bool = False,
    ) -> SeekableBatches | None:
        """Training batches that differ from `train`; None if that is not possible.

        Args:
            size: height and width of the images.
            batch_size: items in a batch; 0 as in `train`.
            left_out: positions of training items that are in no batch.
            plain: without augmentation.
        """
        return None

    def to(self, device: torch.device) -> Any:
        """Put the batches on a device, if the data can do that better than a copy."""
        return self

    def bind(self, spec: InputSpec) -> Any:
        """The same data, normalised by the statistics of the weights in use."""
        return self.given

    def inputs_are(self) -> str:
        """What a model gets, in words that differ where it needs a different one; "" if unknown."""
        return "" if self.input is None else f"images of {count(self.input.channels, 'channel')}"

    def fingerprint(self) -> str:
        """Everything that the items depend on, as text."""
        return stable_text((self.size, self.input, self.seed))

    def file_stamps(self) -> str:
        """Sizes and times of the files that are read; empty if there are none."""
        return ""

    def checksums(self) -> str:
        """Checksums of what the items are, by which two runs are compared; empty if unknown."""
        return ""

    def facts(self, *, read_files: bool = True) -> DataFacts:
        """The facts that reports show; `read_files` inspects every file, which takes a moment."""
        size, spec = self.size, self.input
        found = {
            "images": "" if size is None else f"{size[0]} × {size[1]} pixels (height × width)",
            "batch size": str(self.batch_size or ""),
            "augmentation": "" if self.augmented else "none",
            "statistics": "" if spec is None else f"mean {few(spec.mean)}, std {few(spec.std)}",
            "interpolation": "" if spec is None else spec.interpolation,
        }
        return DataFacts(
            train=_count(self, "train"),
            valid=_count(self, "valid"),
            facts={name: value for name, value in found.items() if value},
        )

    def transform_config(self) -> dict[str, Any]:
        """How items become inputs, JSON-ready, for an export."""
        raise TrainingError(
            f"export needs the transform of the images, but {self._name} has no "
            "transform_config(). Use ImageDataLoaders, or save the weights alone: "
            "learn.save(name)."
        )

    def token_spans(self, item: Any) -> Sequence[tuple[int, int]]:
        """Where each token of a text begins and ends in it; (0, 0) for special tokens."""
        raise LayerGroupsError(
            f"The data ({self._name}) are not texts, so no words can be marked. For images: "
            "learn.grad_cam(image)."
        )

    def save_transform(self, folder: Path) -> None:
        """Write the files that the transform needs, such as a tokenizer, into an export."""
        return

    @property
    def _name(self) -> str:
        return type(self.given).__name__


def few(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _count(source: DataSource, part: str) -> int | None:
    try:
        batches = getattr(source, part)
        known = items_in(batches)
        return len(batches.dataset) if known is None else known
    except (LayerGroupsError, AttributeError, TypeError):
        return None


def data_source(dls: Any) -> DataSource:
    """Any data as a `DataSource`: itself where it is one, else adapted by `PlainSource`."""
    if isinstance(dls, DataSource):
        return dls
    # On the type and in the instance, since a property may raise.
    own = getattr(dls, "__dict__", {})
    missing = [n for n in ("train", "valid") if not hasattr(type(dls), n) and n not in own]
    if missing:
        raise TrainingError(
            f"The data ({type(dls).__name__}) have no {' and no '.join(missing)}. Give "
            "ImageDataLoaders.from_folder(...), or an object with batches `train` and `valid`."
        )
    return PlainSource(dls)


class PlainSource(DataSource):
    """Any object with batches `train` and `valid`, such as a pair of torch DataLoaders.

    It may have more: `vocab` (or its dataset has `classes`), `c` (number of outputs), `task`,
    `seed`, `batch_size`, `input` and `size` (of images), `augment`, `load(item)`, `test_dl(items)`,
    `views(epoch)`, `bind(spec)`, `transform_config()`.
    """

    def __init__(self, dls: Any) -> None:
        self._dls = dls

    def _get(self, name: str, default: Any = None) -> Any:
        return getattr(self._dls, name, default)

    @property
    def given(self) -> Any:
        return self._dls

    @property
    def train(self) -> Batches:
        batches: Batches = self._dls.train
        return batches

    @property
    def valid(self) -> Batches | None:
        batches: Batches | None = self._dls.valid
        return batches

    @property
    def task(self) -> Task | None:
        task = self._get("task")
        return None if task is None else checked_task(task)

    @property
    def n_outputs(self) -> int:
        return int(self._get("c") or len(self.vocab))

    @property
    def vocab(self) -> tuple[str, ...]:  # type: ignore[override] # as it is in the object now
        dataset: Any = getattr(self._dls.train, "dataset", None)
        while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):  # a Subset
            dataset = dataset.dataset
        return tuple(map(str, self._get("vocab") or getattr(dataset, "classes", None) or ()))

    # As they are in the object now.
    seed: Any = property(lambda self: int(self._get("seed", 0)))
    input: Any = property(lambda self: self._get("input"))
    augmentation: Any = property(lambda self: self._get("augment"))
    size: Any = property(lambda self: self._get("size"))

    @property
    def batch_size(self) -> int:  # type: ignore[override] # as vocab
        return int(self._get("batch_size") or getattr(self.train, "batch_size", None) or 0)

    @property
    def augmented(self) -> bool:
        return self._get("augment", True) is not None and bool(
            getattr(self.train, "augmented", True)
        )

    @property
    def sampling_weights(self) -> Tensor | None:
        weights: Tensor | None = getattr(self.train, "weights", None)
        return weights

    @property
    def input_is_default(self) -> bool:
        return bool(self._get("input_is_default", True))

    def example(self) -> Any | None:
        known = super().example()
        return _first_inputs(self.train) if known is None else known

    def targets(self) -> Tensor | None:
        dataset = getattr(self.train, "dataset", None)
        tensors: tuple[Any, ...] = getattr(dataset, "tensors", ())
        found = [tensors[1]] if len(tensors) == 2 else []  # a torch TensorDataset
        found += [getattr(owner, at, None) for owner in (self.train, dataset) for at in _TARGETS]
        labels: Any = next((f for f in found if f is not None and hasattr(f, "__len__")), None)
        if labels is None or isinstance(labels, Tensor):
            return None if labels is None else labels.cpu()
        if self.vocab and isinstance(labels[0], str):
            labels = [self.vocab.index(label) for label in labels]
        return torch.as_tensor(labels)

    def load(self, item: Any) -> Any:
        load = self._get("load")
        return load(item) if callable(load) else super().load(item)

    def test_batches(self, items: Any) -> Any:
        test_dl = self._get("test_dl")
        return test_dl(items) if callable(test_dl) else super().test_batches(items)

    def views(self, epoch: int | None) -> Batches | None:
        views = self._get("views")
        return views(epoch=epoch) if callable(views) and epoch is not None else None

    def bind(self, spec: InputSpec) -> Any:
        bind = self._get("bind")
        return bind(spec) if callable(bind) else self._dls

    def fingerprint(self) -> str:
        names = ("size", "input", "augment", "crop_pct", "seed")
        return stable_text(tuple(self._get(name, "") for name in names))

    def transform_config(self) -> dict[str, Any]:
        config = self._get("transform_config")
        return dict(config()) if callable(config) else super().transform_config()


def _first_inputs(batches: Any) -> Any | None:
    """Inputs of some training items; None for images, whose form the model shows, or if unknown.

    Order, random state and counters of the batches stay as they are. Data that fail here fail in
    the first step too, with their own error.
    """
    generators = generators_of(batches)
    states = {name: generator.get_state() for name, generator in generators.items()}
    try:
        with private_randomness(0):
            inputs = split_batch(_some_batch(batches))[0]
    except Exception:
        return None
    finally:
        for name, generator in generators.items():
            generator.set_state(states[name])
    return None if isinstance(inputs, Tensor) and inputs.ndim == 4 else inputs


def _some_batch(batches: Any) -> Any:
    dataset, collate = getattr(batches, "dataset", None), getattr(batches, "collate_fn", None)
    if collate is None or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        if iter(batches) is batches:
            raise TypeError("these batches can be read only once")
        return next(iter(copy.copy(batches)))  # a copy, which may count its passes
    if getattr(batches, "batch_size", None) is None and batches.batch_sampler is None:
        return collate(dataset[0])
    return collate([dataset[i] for i in range(min(2, len(dataset)))])


_TARGETS = ("labels", "targets", "y")  # where batches and datasets have them


def bound_to(source: DataSource, spec: InputSpec | None) -> DataSource:
    """The data normalised as the weights need it; statistics that the user gave stay."""
    own = source.input
    if spec is None or own is None:
        return source
    if source.input_is_default:
        return data_source(source.bind(spec))
    if (own.mean, own.std) != (spec.mean, spec.std):
        _LOG.warning(
            "The images are normalised by the given mean %s and std %s, but the weights were "
            "trained with mean %s and std %s.", own.mean, own.std, spec.mean, spec.std,
        )  # fmt: skip
    return source


def batches_of(source: DataSource, dl: object) -> Iterable[Any]:
    if dl is None:
        return source.valid or ()
    if not isinstance(dl, Iterable) or isinstance(dl, str | bytes | Mapping | Tensor):
        what = "a tensor" if isinstance(dl, Tensor) else f"{dl!r:.60}"
        raise TrainingError(
            f"dl={what} must give batches (inputs, targets), or inputs only: dls.test_dl(paths), a "
            "DataLoader, or a list such as [inputs]. Without dl= the validation images are used; "
            "dls.train_eval has the training images."
        )
    # The learner has a copy of the data, with the statistics of the weights; these may be batches
    # of the data as they were given.
    normalised = getattr(dl, "normalised", None)
    if source.input is None or not callable(normalised):
        return dl
    found: Iterable[Any] = normalised(source.input)
    return found


def batch_count(batches: Iterable[Any]) -> int:
    """How many batches there are; 0 if unknown."""
    return len(batches) if isinstance(batches, Sized) else 0


def set_epoch(batches: object, epoch: int) -> None:
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(epoch)


def starting_at(batches: Iterable[Any], batch: int) -> Iterator[Any]:
    """A pass without its first batches, which are not read if the loader can seek."""
    seek = getattr(batches, "starting_at", None)
    rest: Iterator[Any] = islice(iter(batches), batch, None) if seek is None else seek(batch)
    return rest


def can_start_later(batches: object) -> bool:
    return hasattr(batches, "starting_at")


def generators_of(batches: object) -> dict[str, torch.Generator]:
    owners = {"loader": batches, "sampler": getattr(batches, "sampler", None)}
    found = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
    return {name: g for name, g in found.items() if isinstance(g, torch.Generator)}


def own_shards(batches: object, rank: int, world: int, min_items: int) -> Iterator[Any] | None:
    """The shards of one process, if the batches can load shards; else None."""
    for held in (batches, *(getattr(batches, key, None) for key in ("sampler", "batch_sampler"))):
        if type(held).__name__ in {"DistributedSampler", "BatchSamplerShard", "DataLoaderShard"}:
            raise TrainingError(
                f"{type(held).__name__} already divides these batches among processes. Give every "
                "process the whole data, with batch_size the number of items over all processes: "
                "the Learner divides them."
            )
    load = getattr(batches, "shards", None)
    shards: Iterator[Any] | None = None if load is None else load(rank, world, min_items)
    return shards


def paths_of(batches: object) -> tuple[Path, ...]:
    """The files of the items in their order; empty if unknown."""
    return tuple(map(Path, getattr(batches, "paths", None) or ()))


def order_of(batches: object) -> list[int] | None:
    """Positions of the items in the order of the batches, where that is not their own order.

    Such batches put items of similar size together, to save padding.
    """
    order: list[int] | None = getattr(batches, "order", None)
    return order


def texts_of(batches: object) -> tuple[str, ...]:
    """The texts of the items in their order; empty if they are not texts."""
    return tuple(getattr(batches, "texts", None) or ())


def items_in(batches: Iterable[Any]) -> int | None:
    """How many items there are; None if unknown."""
    if isinstance(batches, IndexedBatches | SeekableBatches):
        return batches.n_items
    return None
