"""Writes the fixtures of format 2; it ran with the code of commit 648e7f2.

It needs that commit: `PYTHONPATH=src python make.py FOLDER` in a checkout of it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from layergroups import ImageDataLoaders, Learner, vision_learner

OUT = Path(sys.argv[1])
NAMES = ["cat", "dog", "owl"]
LABELS = {
    "multiclass": [NAMES[i % 3] for i in range(18)],
    "multilabel": [[NAMES[i % 3]] + (["even"] if i % 4 == 0 else []) for i in range(18)],
    "regression": [float(i) for i in range(18)],
}


def images(folder: Path) -> list[Path]:
    """18 images of 24 x 24 pixels, the same ones each time."""
    rng, paths = np.random.default_rng(0), []
    for i in range(18):
        pixels = rng.integers(0, 60, (24, 24, 3)).astype("uint8")
        pixels[..., i % 3] += 150
        paths.append(folder / f"{i:02}.png")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(paths[-1])
    return paths


def network(n_outputs: int) -> nn.Module:
    """A small network in three groups."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(
            nn.Conv2d(4, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        nn.Linear(8, n_outputs),
    )


def main() -> None:
    """Train, save, and write down what each learner predicts."""
    expected: dict[str, dict[str, object]] = {}
    paths = images(OUT / "images")
    for task, labels in LABELS.items():
        dls = ImageDataLoaders.from_lists(
            paths, labels, seed=1, size=24, batch_size=4, num_workers=0
        )
        learn = Learner(dls, network(dls.c), progress=False, path=OUT, seed=3)
        learn.freeze()
        learn.fit_one_cycle(2, 1e-2, checkpoint_dir=OUT / f"{task}-run", checkpoint_every=3)
        learn.save(task)
        expected[task] = {"task": dls.task, "vocab": list(dls.vocab), "labels": labels}
        expected[task]["checkpoint"] = learn.get_preds()[0].tolist()
        if task != "regression":
            torch.manual_seed(0)
            learn = vision_learner(
                dls,
                "timm:test_resnet",
                pretrained=False,
                lin_ftrs=[],
                concat_pool=False,
                progress=False,
                seed=3,
            )
            learn.fit(1, 1e-3)
            with torch.no_grad():
                for parameter in learn.model.parameters():
                    parameter.copy_((parameter * 16).round() / 16)  # git packs it smaller
            learn.export(OUT / f"{task}-export")
            expected[task]["export"] = learn.get_preds()[0].tolist()
    (OUT / "expected.json").write_text(json.dumps(expected))


main()
