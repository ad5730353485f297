"""The picture of the photos of which a model's answers are furthest off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layergroups.errors import LayerGroupsError
from layergroups.reports.as_seen import overlay
from layergroups.reports.photo_grid import Tile, draw_photos

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layergroups.reports.answers import TopLoss
    from layergroups.reports.as_seen import Pixels
    from layergroups.reports.interpretation import Interpretation


def draw_top_losses(interp: Interpretation, k: int, *, cam: bool, largest: bool) -> Figure:
    """The figure of `Interpretation.plot_top_losses`.

    Raises:
        LayerGroupsError: k asks for no photo.
    """
    items = interp.top_losses(k, largest=largest)
    if not items:
        raise LayerGroupsError(f"k={k!r} asks for no photo: plot_top_losses(9).")
    indices = [item.index for item in items]
    photos: list[tuple[Pixels, ...]] = [(pixels,) for pixels in interp.images(indices)]
    if cam:
        heat = interp.grad_cam(indices)
        photos = [(p[0], overlay(p[0], h)) for p, h in zip(photos, heat, strict=True)]
    tiles = [_tile(interp, item, shown) for item, shown in zip(items, photos, strict=True)]
    note = "Beside each photo: what spoke for the prediction (Grad-CAM)" if cam else ""
    return draw_photos(tiles, f"The {'largest' if largest else 'smallest'} losses", note)


def _tile(interp: Interpretation, item: TopLoss, photos: tuple[Pixels, ...]) -> Tile:
    sure = "" if item.probability is None else f", probability {item.probability:.2f}"
    name = () if item.path is None else (item.path.name,)
    right = None if interp.task == "regression" else bool(interp.correct[item.index])
    lines = (f"is {item.actual}", f"loss {item.loss:.3g}{sure}", *name)
    return Tile(photos, item.predicted, right, lines)
