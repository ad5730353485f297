"""Grad-CAM of one image, with the image: what `learn.grad_cam` gives."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.errors import LayerGroupsError
from layergroups.reports import drawing
from layergroups.reports.answers import decided, threshold_of, words_of
from layergroups.reports.as_seen import as_pixels, overlay
from layergroups.reports.grad_cam import find_place, grad_cam
from layergroups.reports.photo_grid import Tile, draw_photos

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layergroups.reports.as_seen import Pixels
    from layergroups.reports.subject import Answering


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Which parts of an image spoke for a class.

    Attributes:
        heat: float32 (H, W), 0..1; 1 is what spoke most for it.
        pixels: the image as the model has seen it, float32 (H, W, 3), 0..1.
        target: name of the class.
        predicted: what the model says of the image, in words.
        probability: of the target; None for a regression.
        layer: path of the layer on whose output it was looked.
    """

    heat: Tensor
    pixels: Pixels
    target: str
    predicted: str
    probability: float | None
    layer: str

    def plot(self, path: str | Path | None = None) -> Path | Figure:
        """Draw the image, and beside it the heat map laid over it.

        Args:
            path: a file ending with .png, .svg or .pdf; None gives the figure of matplotlib.

        Raises:
            LayerGroupsError: another ending, or the file cannot be written.
        """
        return drawing.given(self._figure(), path)

    def _figure(self) -> Figure:
        sure = "" if self.probability is None else f"probability {self.probability:.2f}"
        where = f"looked at {self.layer}" if self.heat.any() else "nothing in it speaks for this"
        lines = (*((sure,) if sure else ()), where)
        tile = Tile((self.pixels, overlay(self.pixels, self.heat)), self.target, None, lines)
        return draw_photos([tile], f"What speaks for {self.target}", f"Predicted: {self.predicted}")

    def __repr__(self) -> str:
        height, width = self.heat.shape
        sure = "" if self.probability is None else f", probability {self.probability:.3f}"
        return f"HeatMap({height} x {width} for {self.target!r}{sure}, on {self.layer!r})"

    def _repr_html_(self) -> str:
        import base64

        content = base64.b64encode(drawing.png(self._figure(), dpi=100)).decode()
        return f'<img alt="{escape(repr(self), quote=True)}" src="data:image/png;base64,{content}">'


def heat_map(learn: Answering, image: Tensor, target: int | str | None = None) -> HeatMap:
    """What in an image spoke for a class; changes nothing.

    Args:
        learn: the learner.
        image: (C, H, W), as the model takes it.
        target: a class by name or number; None for the one that is predicted.

    Raises:
        AnatomyError: no part of the network knows where things are.
        LayerGroupsError: there is no such class.
    """
    task = str(getattr(learn.dls, "task", "single"))
    names = tuple(map(str, getattr(learn.dls, "vocab", ())))
    batch, anatomy = image[None], learn.layer_groups.anatomy
    predictions: Tensor = learn.get_preds([batch])[0]
    values = predictions.reshape(-1)
    number = int(values.argmax()) if target is None else _number(target, names, len(values))
    decision = decided(predictions.reshape(1, -1), task, threshold_of(learn))[0]
    said = words_of(decision, task, names or tuple(map(str, range(len(values)))))
    return HeatMap(
        heat=grad_cam(learn.model, batch, number, anatomy=anatomy)[0],
        pixels=as_pixels(image, getattr(learn.dls, "input", None)),
        target=names[number] if number < len(names) else str(number),
        predicted=said,
        probability=None if task == "regression" else float(values[number]),
        layer=find_place(learn.model, batch, anatomy).path,
    )


def _number(target: object, names: tuple[str, ...], n: int) -> int:
    """The number of a class that is given by name or by number."""
    if isinstance(target, str) and target in names:
        return names.index(target)
    if isinstance(target, Tensor) and target.numel() == 1:
        target = target.item()
    number = target if isinstance(target, int) and not isinstance(target, bool) else -1
    if not 0 <= number < n:
        known: Any = ", ".join(map(repr, names[:10])) or f"0 to {n - 1}"
        raise LayerGroupsError(
            f"target={target!r} is no class; the classes are {known}. Give a name or a number: "
            f"learn.grad_cam(item, target={names[0] if names else 0!r})."
        )
    return number
