"""What a model says of one item: a class, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from layergroups.training.tasks import Task, by_name, chosen_labels


class Prediction(NamedTuple):
    """One class.

    Attributes:
        label: name of the likeliest class.
        index: its position in the classes.
        probabilities: of all classes, float (C,), on the CPU.
    """

    label: str
    index: int  # type: ignore[assignment]  # hides tuple.index
    probabilities: Tensor


class LabelsPrediction(NamedTuple):
    """Several labels, or none.

    Attributes:
        labels: names of the labels whose probability is above the threshold, the likeliest first.
        indices: their positions in all labels.
        probabilities: of all labels, each by itself, float (C,), on the CPU.
        names: of all labels.
    """

    labels: tuple[str, ...]
    indices: tuple[int, ...]
    probabilities: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """The probability of every label."""
        return by_name(self.probabilities, self.names)

    def __str__(self) -> str:
        likeliest = sorted(self.by_name.items(), key=lambda pair: -pair[1])
        rest = ", ".join(f"{name} {chance:.3f}" for name, chance in likeliest[:8])
        return f"{', '.join(self.labels) or 'no label'} ({rest}{', …' * (len(likeliest) > 8)})"


class NumbersPrediction(NamedTuple):
    """Numbers.

    Attributes:
        numbers: float (K,), on the CPU.
        names: of the numbers.
    """

    numbers: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """Each number by its name."""
        return by_name(self.numbers, self.names)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.5g}" for name, value in self.by_name.items())


AnyPrediction = Prediction | LabelsPrediction | NumbersPrediction


def answer(found: Tensor, task: Task, names: Sequence[str], thresh: float = 0.5) -> AnyPrediction:
    """What the answers (C,) of a model for one item say.

    Args:
        found: probabilities or numbers (C,), on the CPU.
        task: what was asked.
        names: of classes, labels or numbers; positions where there is not one for each.
        thresh: the probability above which a label counts as there.
    """
    known = tuple(names)
    if len(known) != len(found):
        known = tuple(str(position) for position in range(len(found)))
    if task == "multi":
        chosen = tuple(chosen_labels(found, thresh))
        return LabelsPrediction(tuple(known[i] for i in chosen), chosen, found, known)
    if task == "regression":
        return NumbersPrediction(found, known)
    index = int(found.argmax())
    return Prediction(known[index], index, found)
