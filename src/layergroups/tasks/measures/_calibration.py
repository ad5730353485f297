"""Calibration: whether predictions of confidence 0.8 are right in 80 % of cases.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

_HEADINGS = ("probability", "confidence", "accuracy", "count")
BINS: Final = 15  # as many as in the source, and in most libraries


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of about the same probability.

    Attributes:
        low: they have a probability above this (or equal, in the first bin).
        high: and not above this.
        count: number of predictions.
        confidence: their mean probability; None where there are none.
        accuracy: the part of them that is right; None where there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None

    @property
    def gap(self) -> float | None:
        """Distance of confidence and accuracy; None where there are no predictions."""
        if self.confidence is None or self.accuracy is None:
            return None
        return abs(self.confidence - self.accuracy)


@dataclass(frozen=True)
class Calibration:
    """How often predictions of each probability are right; prints as a table.

    For one class an item, a prediction is its likeliest class. For several labels, every label of
    every item is one, and its accuracy is how often the item has it.

    Attributes:
        bins: of equal width, from 0 to 1.
        error: the expected calibration error: the mean gap over all predictions, 0..1; None where
            there are none.
        max_error: the largest gap of a bin ("maximum calibration error"); None likewise.
        count: number of predictions.
    """

    bins: tuple[CalibrationBin, ...]
    error: float | None
    max_error: float | None
    count: int

    @classmethod
    def from_predictions(cls, confidence: Tensor, correct: Tensor, bins: int = BINS) -> Calibration:
        """Of probabilities (M,) and whether each was right (M,).

        Raises:
            LayerGroupsError: there is not at least one bin.
        """
        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
            raise LayerGroupsError(
                f"bins={bins!r} must be a whole number from 1: calibration(bins={BINS})."
            )
        confidence, correct = confidence.double(), correct.double()
        index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
        sums = [torch.bincount(index, v, minlength=bins).tolist() for v in (confidence, correct)]
        counts = torch.bincount(index, minlength=bins).tolist()
        made = [
            CalibrationBin(i / bins, (i + 1) / bins, n, c / n if n else None, r / n if n else None)
            for i, (c, r, n) in enumerate(zip(*sums, counts, strict=True))
        ]
        return cls._from_bins(made)

    @classmethod
    def from_means(cls, means: Sequence[tuple[float, float, int]], bins: int = BINS) -> Calibration:
        """Of (confidence, accuracy, count) of the bins that are not empty."""
        by_bin = {min(bins - 1, max(0, math.ceil(m[0] * bins) - 1)): m for m in means}
        found = [(i, *by_bin.get(i, (None, None, 0))) for i in range(bins)]
        return cls._from_bins(
            [CalibrationBin(i / bins, (i + 1) / bins, n, c, a) for i, c, a, n in found]
        )

    @classmethod
    def _from_bins(cls, bins: Sequence[CalibrationBin]) -> Calibration:
        gaps = [(each.count, each.gap) for each in bins if each.gap is not None]
        total = sum(n for n, _ in gaps)
        error = sum(n * gap for n, gap in gaps) / total if total else None
        return cls(tuple(bins), error, max((gap for _, gap in gaps), default=None), total)

    @property
    def known(self) -> list[tuple[CalibrationBin, float, float]]:
        """Each bin that is not empty, with its confidence and accuracy."""
        return [
            (each, each.confidence, each.accuracy)
            for each in self.bins
            if each.confidence is not None and each.accuracy is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self)

    @property
    def caption(self) -> str:
        """The error, in a line."""
        if self.error is None:
            return "No predictions"
        return f"Expected calibration error {self.error:.3f} over {self.count:,d} predictions"

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
            (
                f"{b.low:.2f} to {b.high:.2f}",
                f"{mean:.3f}",
                f"{accuracy:.3f}",
                f"{b.count:,d}",
            )
            for b, mean, accuracy in self.known
        ]
