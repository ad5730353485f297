"""What the numbers of a model say in words, by the task: a class, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

TASKS: Final = ("single", "multi", "regression")


@dataclass(frozen=True)
class TopLoss:
    """One item of which the loss is among the largest.

    Attributes:
        index: its position in the batches, and in `Interpretation.predictions`.
        path: its file; None where the batches do not know it.
        actual: its class; its labels, or its numbers, with commas between.
        predicted: likewise what the model says.
        probability: of the predicted class, 0..1; of several labels, that of the likeliest; None
            for numbers.
        loss: its loss.
    """

    index: int
    path: Path | None
    actual: str
    predicted: str
    probability: float | None
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self) | {"path": None if self.path is None else str(self.path)}


def decided(predictions: Tensor, task: str, threshold: float) -> Tensor:
    """What a model decides: int (N,); for several labels bool (N, C); else the numbers (N, K)."""
    if task == "single":
        return predictions.argmax(dim=1)
    return predictions > threshold if task == "multi" else predictions


def threshold_of(learn: object) -> float:
    """The probability above which a learner counts a label as there."""
    return float(getattr(learn, "thresh", 0.5))


def words_of(value: Tensor, task: str, classes: Sequence[str]) -> str:
    """A class, labels or numbers as a person writes them.

    Args:
        value: one row of `decided`, or of the targets.
        task: one of `TASKS`.
        classes: their names.
    """
    if task == "single":
        return classes[int(value)]
    if task == "multi":
        has = [name for name, yes in zip(classes, value.tolist(), strict=True) if yes]
        return ", ".join(has) or "none"
    return ", ".join(f"{number:.4g}" for number in value.reshape(-1).tolist())
