"""Whether a picture can be read."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def assert_readable(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    width, height = canvas.get_width_height()
    for words, box in boxes:
        assert min(box.x0, box.y0) >= 0, words
        assert max(box.x1 - width, box.y1 - height) <= 0, words
    for (words, box), (other, place) in combinations(boxes, 2):
        across = min(box.x1, place.x1) - max(box.x0, place.x0)
        along = min(box.y1, place.y1) - max(box.y0, place.y0)
        assert across <= 1 or along <= 1, f"{words!r} meets {other!r}"
