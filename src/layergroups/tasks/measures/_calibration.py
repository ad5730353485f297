"""Whether a model is right as often as it says that it is.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from layergroups._formatting import html_table, plain_text
from layergroups.errors import LayerGroupsError

_HEADINGS = ("probability", "said", "right", "count")
BINS: Final = 15  # as many as in the source, and in most libraries


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of about the same probability.

    Attributes:
        low: they have a probability above this (or equal, in the first bin).
        high: and not above this.
        count: how many they are.
        said: their mean probability; None where there are none.
        right: the part of them that is right; None where there are none.
    """

    low: float
    high: float
    count: int
    said: float | None
    right: float | None

    @property
    def apart(self) -> float | None:
        """How far said and right are from each other; None where there are no predictions."""
        return None if self.said is None or self.right is None else abs(self.said - self.right)


@dataclass(frozen=True)
class Calibration:
    """How often predictions of each probability are right; prints as a table.

    For one class an item, a prediction is its likeliest class. For several labels, every label of
    every item is one, and "right" is how often the item has it.

    Attributes:
        bins: of equal width, from 0 to 1.
        error: the expected calibration error: the mean distance of said and right over all
            predictions, 0..1; None where there are none.
        worst: the largest distance of a bin ("maximum calibration error"); None likewise.
        count: number of predictions.
    """

    bins: tuple[CalibrationBin, ...]
    error: float | None
    worst: float | None
    count: int

    @classmethod
    def from_predictions(cls, said: Tensor, right: Tensor, bins: int = BINS) -> Calibration:
        """Of probabilities (M,) and whether each was right (M,).

        Raises:
            LayerGroupsError: there is not at least one bin.
        """
        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
            raise LayerGroupsError(
                f"bins={bins!r} must be a whole number from 1: calibration(bins={BINS})."
            )
        said, right = said.double(), right.double()
        index = (said * bins).ceil().long().sub(1).clamp(0, bins - 1)
        made = tuple(_bin(i, bins, said[index == i], right[index == i]) for i in range(bins))
        apart = [(b.count, b.apart) for b in made if b.apart is not None]
        error = sum(n * d for n, d in apart) / len(said) if apart else None
        return cls(made, error, max((d for _, d in apart), default=None), len(said))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self)

    @property
    def caption(self) -> str:
        """What it comes to, in a line."""
        if self.error is None:
            return "No predictions"
        return f"Expected calibration error {self.error:.3f} of {self.count:,d} predictions"

    def __rich__(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "probability" else "right")
        for cells in self._rows():
            table.add_row(*cells)
        return Group(Text(self.caption), table)

    def __str__(self) -> str:
        return plain_text(self)

    def _repr_html_(self) -> str:
        return html_table(_HEADINGS, self._rows(), self.caption)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (f"{b.low:.2f} to {b.high:.2f}", f"{b.said:.3f}", f"{b.right:.3f}", f"{b.count:,d}")
            for b in self.bins
            if b.count
        ]


def _bin(i: int, bins: int, said: Tensor, right: Tensor) -> CalibrationBin:
    low, high, n = i / bins, (i + 1) / bins, len(said)
    if not n:
        return CalibrationBin(low, high, 0, None, None)
    means = torch.stack([said.mean(), right.mean()]).tolist()
    return CalibrationBin(low, high, n, *means)
