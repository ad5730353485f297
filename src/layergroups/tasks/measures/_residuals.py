"""How far predicted numbers are from the actual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from layergroups._formatting import html_table, plain_text

_HEADINGS = ("output", "mean error", "mean absolute", "root mean square", "largest", "R²")


@dataclass(frozen=True)
class OutputErrors:
    """The errors of one predicted number, each predicted minus actual.

    Attributes:
        name: of the number.
        mean: mean error: above 0 where it is predicted too high.
        mean_absolute: mean of the errors without their sign.
        root_mean_square: root of the mean of their squares.
        largest: the largest without its sign.
        r2: 1 - (sum of squared errors) / (sum of squared distances of the actual numbers from
            their mean); None where those are all equal.
    """

    name: str
    mean: float
    mean_absolute: float
    root_mean_square: float
    largest: float
    r2: float | None


@dataclass(frozen=True)
class Residuals:
    """The errors of a regression; prints as a table.

    Attributes:
        outputs: a row for each predicted number.
        values: the errors, (N, K): predicted minus actual, in the order of the items.
    """

    outputs: tuple[OutputErrors, ...]
    values: tuple[tuple[float, ...], ...]

    @classmethod
    def from_predictions(
        cls, predicted: Tensor, actual: Tensor, names: Sequence[str] = ()
    ) -> Residuals:
        """Of predicted and actual numbers, (N, K) each."""
        wrong = predicted.double() - actual.double()
        names = names if len(names) == wrong.shape[1] else _numbered(wrong.shape[1])
        rows = tuple(_row(name, wrong[:, k], actual[:, k].double()) for k, name in enumerate(names))
        return cls(rows, tuple(map(tuple, wrong.tolist())))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self)

    def __rich__(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "output" else "right")
        for row in self.outputs:
            name, *figures = _cells(row)
            table.add_row(Text(name), *figures)
        return table

    def __str__(self) -> str:
        return plain_text(self)

    def __repr__(self) -> str:
        return f"Residuals({len(self.values)} items, {self.outputs})"

    def _repr_html_(self) -> str:
        return html_table(_HEADINGS, map(_cells, self.outputs), "Predicted minus actual")


def _numbered(n: int) -> list[str]:
    return ["number"] if n == 1 else [f"number {k}" for k in range(n)]


def _row(name: str, wrong: Tensor, actual: Tensor) -> OutputErrors:
    spread = float(((actual - actual.mean()) ** 2).sum())
    return OutputErrors(
        name,
        float(wrong.mean()),
        float(wrong.abs().mean()),
        float((wrong**2).mean().sqrt()),
        float(wrong.abs().max()),
        1 - float((wrong**2).sum()) / spread if spread else None,
    )


def _cells(row: OutputErrors) -> tuple[str, ...]:
    figures = (row.mean, row.mean_absolute, row.root_mean_square, row.largest)
    return (row.name, *(f"{f:.4g}" for f in figures), "-" if row.r2 is None else f"{row.r2:.3f}")
