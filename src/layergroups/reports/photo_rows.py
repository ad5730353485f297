"""What a model says of one photo, as a row: of labels, or of numbers. One class: see `tables`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_WIDEST = 40  # columns for the names of labels; longer ones push their row to the right


@dataclass(frozen=True)
class Column:
    """A column of a table of text.

    Attributes:
        heading: above it.
        width: of its cells, in characters.
        right: whether cells stand at its right.
    """

    heading: str
    width: int = 0
    right: bool = False


class PhotoRow(Protocol):
    """What is written of one photo, in every format."""

    @property
    def path(self) -> Path:
        """The photo."""

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Those of a table, after the photo's; `names` are those of the outputs."""

    def cells(self) -> tuple[str, ...]:
        """For each of these columns."""

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Headings of comma-separated values, after the photo's."""

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """For each of these headings."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


@dataclass(frozen=True)
class PhotoLabels:
    """Several labels of one photo, or none.

    Attributes:
        path: the photo.
        labels: those whose probability is above the threshold, the likeliest first.
        probabilities: of every label, by name.
    """

    path: Path
    labels: tuple[str, ...]
    probabilities: dict[str, float]

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Labels, and the likeliest of all with their probabilities."""
        width = min(_WIDEST, len(", ".join(names)))
        return Column("labels", max(width, len("labels"))), Column("probabilities")

    def cells(self) -> tuple[str, ...]:
        """Labels with commas, "-" where there are none; the first three probabilities."""
        ranking = sorted(self.probabilities.items(), key=lambda pair: -pair[1])
        shown = ranking[: max(3, len(self.labels))]
        return ", ".join(self.labels) or "-", "  ".join(f"{name} {p:.3f}" for name, p in shown)

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Labels, and a column for the probability of each."""
        return ("labels", *names)

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """Labels with semicolons between them, and the probability of each."""
        return (";".join(self.labels), *(self.probabilities[name] for name in names))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {
            "path": str(self.path),
            "labels": list(self.labels),
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True)
class PhotoNumbers:
    """Numbers that a model tells of one photo.

    Attributes:
        path: the photo.
        numbers: by name.
    """

    path: Path
    numbers: dict[str, float]

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """A column for each number."""
        return tuple(Column(name, max(10, len(name)), right=True) for name in names)

    def cells(self) -> tuple[str, ...]:
        """Each number with five digits."""
        return tuple(f"{value:.5g}" for value in self.numbers.values())

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """A column for each number."""
        return tuple(names)

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """The numbers in full."""
        return tuple(self.numbers[name] for name in names)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {"path": str(self.path), "numbers": self.numbers}
