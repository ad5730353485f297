"""What a report needs of a learner; reports lie below training and know no more of it than this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.tasks import Task


class Rows(Protocol):
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
    def history(self) -> Rows:
        """What happened in training."""

    @property
    def accelerator(self) -> Any:
        """Device and precision."""


class Subject(Trained, Protocol):
    """A `Learner`, as the folder of a run sees it."""

    def export(self, folder: str | Path) -> Path:
        """Write a folder that predicts."""
