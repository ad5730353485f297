"""What reports need of a learner; they lie below training, and know no more of it than this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.tasks import Task


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of one fit.

    Attributes:
        epoch: counted from 0 over the learner's whole life.
        phase: what kind of fit it belongs to, such as "fit" or "one cycle".
        train_loss: mean over the epoch's training items; None if no step was done.
        valid_loss: mean over the validation items; None if there was no validation.
        metrics: value of each metric on the validation items, by name.
        seconds: wall-clock time of training and validation.
        lrs: the rate of each layer group in the optimizer, where it was highest in this epoch.
        frozen: for each layer group, whether it was frozen.
        note: empty, or why the epoch was not an ordinary one.
        lr_profile: the rates within the epoch, at up to 16 evenly spaced steps, as parts of `lrs`;
            the same for all groups.
        resources: what it took beside time, by name: "memory" and "device_memory", the most bytes
            that the process, and its tensors on the accelerator, had held until then; and where
            outputs of frozen layers were stored, "passes" of what trains over the training items,
            "body_passes" of the frozen layers, and the "store_seconds" of the latter.
    """

    epoch: int
    phase: str
    train_loss: float | None
    valid_loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    lrs: tuple[float, ...] = ()
    frozen: tuple[bool, ...] = ()
    note: str = ""
    lr_profile: tuple[float, ...] = field(default=(), metadata={"was": "course"})
    resources: Mapping[str, float] = field(default_factory=dict, metadata={"was": "cost"})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        fields = asdict(self)
        return fields | {
            "metrics": dict(self.metrics),
            "lrs": list(self.lrs),
            "frozen": list(self.frozen),
            "lr_profile": list(self.lr_profile),
            "resources": dict(self.resources),
        }


class History(Protocol):
    """What happened in training, a row for each epoch."""

    def to_csv(self, path: Path) -> Any:
        """Write the rows as comma-separated values."""

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as JSON-ready values."""


class Answering(Protocol):
    """What can be asked of a `Learner` about its data; asking changes nothing."""

    @property
    def dls(self) -> Any:
        """Its data."""

    @property
    def task(self) -> Task:
        """What its model predicts."""

    @property
    def model(self) -> nn.Module:
        """Its model."""

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups, in step with the model."""

    def get_preds(
        self, dl: Any = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Probabilities (N, C) or numbers (N, K), targets, and losses (N,) if asked for."""


class Trained(Answering, Protocol):
    """A `Learner`, as the record of a run sees it."""

    @property
    def history(self) -> History:
        """What happened in training."""

    @property
    def accelerator(self) -> Any:
        """Device and precision."""


class Subject(Trained, Protocol):
    """A `Learner`, as the folder of a run sees it."""

    def export(self, folder: str | Path) -> Path:
        """Write a folder that predicts."""
