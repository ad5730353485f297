"""What all pictures have in common: colours, letters, and how a figure becomes a file."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from layergroups._formatting import printable
from layergroups._paths import path_of
from layergroups.errors import LayerGroupsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK = "#1b2733"
GREY = "#66727f"
FAINT = "#dde3e8"
BLUE = "#0b559f"
ORANGE = "#d55e00"  # vermilion, which colour-blind eyes tell from that blue
_BODY = (BLUE, "#5aaedb")
_ENDINGS = (".png", ".svg", ".pdf")


def group_colours(n_body: int, has_head: bool) -> list[str]:
    """A colour for each layer group, nearest the input first; told apart by colour-blind eyes too.

    The body goes from dark to light, the head is vermilion (Okabe and Ito's).
    """
    head = [ORANGE] if has_head else []
    if n_body <= len(_BODY):
        return [*_BODY[:n_body], *head]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ramp = colormaps["viridis"]
    return [*(to_hex(ramp(0.08 + 0.77 * i / (n_body - 1))) for i in range(n_body)), *head]


def check_ending(path: str | Path) -> Path:
    """The path, if a picture of its kind can be made."""
    path = path_of(path, LayerGroupsError, "'picture.png'")
    if path.suffix.lower() not in _ENDINGS:
        raise LayerGroupsError(
            f"{path} does not end like a picture; end it with {', '.join(_ENDINGS)}, for example "
            f"{path.stem or 'picture'}.png."
        )
    return path


def new_figure(width: float, height: float) -> Figure:
    """A white figure, width and height in inches, without any global state.

    A notebook shows it where it is the last value of a cell.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _shown_figure()(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


@cache
def _shown_figure() -> type[Figure]:
    """A figure that a notebook can show without the global state of pyplot."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            return png(self, dpi=100)

    return ShownFigure


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the top left corner of the figure."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def add_title(figure: Figure, title: str, note: str = "") -> None:
    """A title at the top left, and a fainter line below it."""
    width, height = figure.get_size_inches()
    for words, top, size, colour, weight in (
        (title, 0.22, 13, INK, "bold"),
        (note, 0.5, 9, GREY, "normal"),
    ):
        figure.text(
            0.3 / width, 1 - top / height, printable(words), fontsize=size, color=colour,
            fontweight=weight, va="top", parse_math=False,
        )  # fmt: skip


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """A faint grid, lines at the left and below only, small labels."""
    axes.set_xlabel(x_label, fontsize=9.5, color=GREY)
    axes.set_ylabel(y_label, fontsize=9.5, color=GREY)
    axes.tick_params(length=3, color=FAINT, labelcolor=INK, labelsize=8.5, which="both")
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_color(FAINT)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure, dpi: int = 160) -> bytes:
    """A figure as the content of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def save(figure: Figure, path: Path, dpi: int = 160) -> Path:
    """Write a figure in the form that the path's ending names; missing folders are made."""
    from matplotlib import rc_context

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Letters as outlines look the same everywhere; a fixed salt and no date give the same file.
        with rc_context({"svg.hashsalt": "layergroups"}):
            dated = path.suffix.lower() == ".svg"
            figure.savefig(path, dpi=dpi, metadata={"Date": None} if dated else None)
    except OSError as cause:
        raise LayerGroupsError(f"Could not write {path}: {cause}") from cause
    return path


def save_or_return(figure: Figure, path: str | Path | None) -> Path | Figure:
    """The figure itself; with a path, the file that it was written to."""
    if path is None:
        return figure
    if not isinstance(path, str | Path):
        raise LayerGroupsError(f"path={path!r} is not a path; give one such as 'picture.png'.")
    return save(figure, check_ending(path))


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text in inches, at a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def fitted(text: str, width: float, size: float) -> str:
    """The text, or as much of its two ends as fits into a width in inches."""
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        left = keep // 3
        shorter = f"{text[:left]}…{text[len(text) - (keep - left) :]}"
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The text in lines, none wider than a width in inches unless one word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
