"""Protocols of a learner: all that reports, which must not import training, know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from layergroups.groups import LayerGroups
from layergroups.tasks import Task


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of a fit.

    Attributes:
        epoch: counted from 0 over all fits of the learner.
        phase: the kind of fit, such as "fit" or "one cycle".
        train_loss: mean over the epoch's training items; None if there was no step.
        valid_loss: mean over the validation items; None if there was no validation.
        metrics: value of each metric on the validation items, by name.
        seconds: wall-clock time of training and validation.
        lrs: the highest rate of each layer group in the optimizer, in this epoch.
        frozen: for each layer group, whether it was frozen.
        note: empty, or what was unusual in the epoch.
        lr_profile: the rates within the epoch, at up to 16 evenly spaced steps, as fractions of
            `lrs`; the same for all groups.
        resources: resources other than time, by name: "memory" and "device_memory", the peak bytes
            of the process, and of its tensors on the accelerator; and with the feature cache,
            "passes" of the trained layers over the training items, "body_passes" of the frozen
            layers, and the "store_seconds" of the latter.
        plan: what `fine_tune` has decided, in the last row of each of its phases; see
            `FineTunePlan.to_dict`.
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
    lr_profile: tuple[float, ...] = field(default=(), repr=False, metadata={"was": "course"})
    resources: Mapping[str, float] = field(
        default_factory=dict, repr=False, metadata={"was": "cost"}
    )
    plan: Mapping[str, Any] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


class Answering(Protocol):
    """A `Learner` that predicts, without changing."""

    @property
    def dls(self) -> Any:
        """Its data."""

    @property
    def task(self) -> Task:
        """What its model predicts."""

    @property
    def thresh(self) -> Any:
        """The probability above which it predicts a label."""

    @property
    def model(self) -> nn.Module:
        """Its model."""

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups of the model."""

    def get_preds(
        self, dl: Any = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Probabilities (N, C) or numbers (N, K), targets, and losses (N,) if `with_loss`."""


class Trained(Answering, Protocol):
    """A `Learner` whose run can be recorded and exported."""

    @property
    def history(self) -> Any:
        """The training history."""

    @property
    def accelerator(self) -> Any:
        """Device and precision."""

    def export(self, folder: str | Path) -> Path:
        """Write a folder that `load_learner` reads."""
