"""What all pictures have in common: colours, titles, grids of images, files."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups._formatting import printable
from layergroups._paths import path_of
from layergroups.errors import LayerGroupsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:  # matplotlib is imported when something is drawn
    Axes = Figure = object

INK = "#1b2733"
GREY = "#66727f"
FAINT = "#dde3e8"
BLUE = "#0b559f"
ORANGE = "#d55e00"  # vermilion, which colour-blind eyes tell from that blue
_BODY = (BLUE, "#5aaedb")
RIGHT = "#00725a"
WRONG = "#c0440a"
_ENDINGS = (".png", ".svg", ".pdf")
_TITLE = 0.65  # inches
_MOST_IN_A_LEGEND = 24
_IMAGE = 1.8


def group_colours(n_body: int, has_head: bool) -> list[str]:
    """A colour for each layer group, nearest the input first; also for colour-blind readers.

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


def new_figure(width: float, height: float, title: str = "", note: str = "") -> Figure:
    """A white figure without any global state, which a notebook shows as the last value of a cell.

    What is drawn in it is moved so that no text is cut. The width is in inches, and so is the
    height, which is without the title. The note is a fainter line below the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    head = _TITLE if title else 0.0
    size = (width, height + head)
    figure = _shown_figure()(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.01, 0.01, 0.98, height / size[1] - 0.02), w_pad=0.08, h_pad=0.06)
    for words, top, letters, colour, weight in (
        (title, 0.15, 13, INK, "bold"),
        (note, 0.45, 9, GREY, "normal"),
    ):
        figure.text(
            0.15 / width, 1 - top / size[1], fitted(words, width - 0.3, letters * 1.06),
            fontsize=letters, color=colour, fontweight=weight, va="top", parse_math=False,
        )  # fmt: skip
    return figure


@cache
def _shown_figure() -> type[Figure]:
    """A figure that a notebook can show without the global state of pyplot."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            return png(self, dpi=100)

    return ShownFigure


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


def fitted(text: str, width: float, size: float) -> str:
    """The text, or as much of its two ends as fits into a width in inches, at a size in points."""
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in printable(text))
    if _text_width(text, size) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        left = keep // 3
        shorter = f"{text[:left]}…{text[len(text) - (keep - left) :]}"
        if _text_width(shorter, size) <= width:
            return shorter
    return "…"


def _text_width(text: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


@dataclass(frozen=True, eq=False)
class Tile:
    """One item: its image, optionally with a heat map beside it, and text below."""

    # one or two, each (H, W) or (H, W, 3), 0..1, of one shape in all tiles
    pictures: tuple[Any, ...]
    heading: str  # the prediction, or the label
    # whether the prediction is correct; None if unknown or not applicable
    right: bool | None = None
    lines: tuple[str, ...] = ()  # further text


def palette(n: int) -> list[tuple[int, int, int]]:
    """A colour (red, green, blue) for each of n classes, as in Pascal VOC and many tools."""
    colours = []
    for index in range(n):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((channels[0], channels[1], channels[2]))
    return colours


def under_mask(pixels: Any, mask: Any, colours: Sequence[tuple[int, int, int]]) -> Any:
    """An image (H, W) or (H, W, 3), 0..1, under the colours of a mask.

    Args:
        pixels: the image.
        mask: the class of every pixel (H, W), the image alone where it is negative; or whether each
            has each label, (C, H, W), in the mean colour of its labels.
        colours: of each class.
    """
    import numpy as np

    image = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    table = np.array(colours, dtype=np.float32) / 255
    if mask.ndim == 3:
        layers = mask > 0
        n = layers.sum(axis=0)[..., None]
        return np.where(
            n, 0.45 * image + 0.55 * np.einsum("chw,ck->hwk", layers, table) / n.clip(1), image
        )
    return np.where(mask[..., None] >= 0, 0.45 * image + 0.55 * table[mask.clip(min=0)], image)


def draw_images(
    tiles: Sequence[Tile],
    title: str = "",
    note: str = "",
    columns: int = 0,
    classes: Mapping[str, tuple[int, int, int]] | None = None,
) -> Figure:
    """Draw a grid of at least one tile, row by row; 0 columns are a nearly square grid.

    Below stand the classes of masks with their colours, if they are given.
    """
    pictures = len(tiles[0].pictures)
    most = 5 if pictures == 1 else 3
    square = math.ceil(math.sqrt(len(tiles) / pictures))
    columns = min(len(tiles), columns or min(most, square))
    rows = -(-len(tiles) // columns)
    high, wide = tiles[0].pictures[0].shape[:2]
    below = 0.5 + 0.15 * max(len(tile.lines) for tile in tiles)
    size = (columns * (pictures * _IMAGE + 0.2), rows * (_IMAGE * high / wide + below))
    figure = new_figure(max(size[0], 4.0), size[1], title, note)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(tiles) :]:
        axes.remove()
    for axes, tile in zip(grid, tiles, strict=False):
        _draw_tile(axes, tile, pictures * _IMAGE)
    if classes:
        _add_legend(figure, classes)
    return figure


def _add_legend(figure: Figure, classes: Mapping[str, tuple[int, int, int]]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color=[part / 255 for part in colour], label=fitted(name, 1.2, 9))
        for name, colour in islice(classes.items(), _MOST_IN_A_LEGEND)
    ]
    n = max(1, int(figure.get_figwidth() / 1.7))
    figure.legend(handles=patches, loc="outside lower left", ncols=n, frameon=False, fontsize=9)


def _draw_tile(axes: Axes, tile: Tile, width: float) -> None:
    import numpy as np

    first, *others = tile.pictures
    gap = np.ones((len(first), 1 + first.shape[1] // 32, *first.shape[2:]))
    row = np.concatenate([first, *(part for other in others for part in (gap, other))], axis=1)
    axes.imshow(row, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_anchor("NW")
    colour = INK if tile.right is None else RIGHT if tile.right else WRONG
    lines = "\n".join(fitted(line, width, 8.5) for line in tile.lines)
    for words, top, size, shade, weight in (
        (fitted(tile.heading, width, 11), -4, 10, colour, "bold"),
        (lines, -18, 8.5, GREY, "normal"),
    ):
        axes.annotate(
            words, (0, 0), (0, top), "axes fraction", "offset points", va="top", size=size,
            color=shade, weight=weight, parse_math=False,
        )  # fmt: skip
