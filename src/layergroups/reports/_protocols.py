"""What a report needs of a learner; reports lie below training and know no more of it than this.

Tables as plain text and as HTML for a notebook, where every text in them is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import RenderableType
from torch import Tensor, nn

from layergroups._formatting import plain_text

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups


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


def as_text(shown: RenderableType, width: int = 100) -> str:
    """A table as plain text, without empty lines around it."""
    return plain_text(shown, width).strip("\n")


def html_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    *,
    left: Sequence[str] = (),
) -> str:
    """A table on its own, with its styles inside.

    Args:
        headings: of the columns.
        rows: a cell for each column, shown as its `str`.
        caption: what the table shows.
        left: headings of the columns whose text begins at the left; the first does always.
    """
    sides = ["left" if i == 0 or h in left else "right" for i, h in enumerate(headings)]
    title = (
        f'<caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>'
        if caption
        else ""
    )
    head = _row("th", headings, sides)
    body = "".join(_row("td", row, sides) for row in rows)
    return (
        f'<table style="border-collapse:collapse;margin:0.5em 0">{title}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(tag: str, cells: Sequence[object], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    inside = "".join(
        f'<{tag} style="text-align:{side};padding:0.15em 0.6em">{escape(str(cell))}</{tag}>'
        for cell, side in pairs
    )
    return f"<tr>{inside}</tr>"
