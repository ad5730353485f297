"""Draw the pictures of the README and the site.

    PYTHONPATH=. .venv/bin/python scripts/docs_images.py

It runs the program of docs/tutorial.md, and needs Chromium for the pictures of the report.
"""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from tests.reports.browser import browser

from layergroups import ImageDataLoaders, LayerGroups, load_model, vision_learner
from layergroups.demo import PHOTOS, efficientnet_lite0_weights
from layergroups.reports import curves_png, network_picture
from layergroups.training import FitContext

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
WIDTH = 1000  # of the pictures of the report, in pixels
CHOOSE_AN_ERROR = """
[...document.querySelectorAll(".matrix [data-cell]")].find((cell) => {
  const [actual, predicted] = cell.dataset.cell.split("-");
  return actual !== predicted && cell.textContent.trim();
}).click();
"""
PLACE_OF_THE_MATRIX = """
const box = document.querySelector(".matrix").closest("section").getBoundingClientRect();
return [box.top + window.scrollY, box.height];
"""


class Losses:
    """The loss of each step, over the epochs of the whole run."""

    def __init__(self) -> None:
        self.places: list[float] = []
        self.losses: list[float] = []
        self.before = 0.0

    def after_step(self, run: FitContext) -> None:
        run.losses.read()
        self.places.append(self.before + run.step / run.steps * run.epochs)
        self.losses.append(run.losses.latest)

    def after_fit(self, run: FitContext) -> None:
        self.before += run.epochs


def network_and_run(network: Path, curves: bytes) -> Image.Image:
    """The network at the left, the panels of the curves one below the other at the right."""
    left, strip = Image.open(network).convert("RGB"), Image.open(io.BytesIO(curves)).convert("RGB")
    panel = strip.width // 3
    scale = left.height / 3 / strip.height
    size = round(panel * scale), left.height // 3
    whole = Image.new("RGB", (left.width + size[0], left.height), "white")
    whole.paste(left, (0, 0))
    for i in range(3):
        part = strip.crop((i * panel, 0, (i + 1) * panel, strip.height)).resize(size)
        whole.paste(part, (left.width, i * size[1]))
    return whole


def draw_report(report: Path, folder: Path) -> None:
    with browser(folder / "profile") as opened:
        opened.look(WIDTH)
        opened.open(report)
        shot = Image.open(opened.shot(folder / "page.png"))
        shot.crop((0, 0, WIDTH, 1250)).save(IMAGES / "report-top.png", optimize=True)
        opened.run(CHOOSE_AN_ERROR)
        top, high = opened.run(PLACE_OF_THE_MATRIX)
        shot = Image.open(opened.shot(folder / "page.png"))
        box = (0, round(top), WIDTH, round(top + min(high, 800)))
        shot.crop(box).save(IMAGES / "report-confusion.png", optimize=True)


def main() -> None:
    resnet = LayerGroups(load_model("resnet18", pretrained=False).model)
    network_picture(resnet, IMAGES / "resnet18.png", "resnet18")
    losses = Losses()
    learn = vision_learner(
        ImageDataLoaders.from_folder(PHOTOS, size=128),
        "timm:tf_efficientnet_lite0",
        weights=efficientnet_lite0_weights(),
        metrics=["accuracy"],
        callbacks=[losses],
    )
    learn.fine_tune(3)
    with TemporaryDirectory() as name:
        folder = Path(name)
        network = network_picture(learn.layer_groups, folder / "network.png", "EfficientNet-Lite0")
        curves = curves_png(
            learn.history.rows, losses.places, losses.losses, learn.layer_groups.names
        )
        network_and_run(network, curves).save(IMAGES / "network-and-run.png", optimize=True)
        learn.report(folder / "report.html", title="Six kinds of clothes")
        draw_report(folder / "report.html", folder)


if __name__ == "__main__":
    main()
