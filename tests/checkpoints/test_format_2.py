"""What release 648e7f2 wrote (format 2) can still be loaded, and answers as it did then.

`format_2/make.py` made the files; `format_2/expected.json` holds what the learners predicted.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from layergroups import ImageDataLoaders, Learner, load_learner

FILES = Path(__file__).parent / "format_2"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text())


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """The 18 images of `make.py`."""
    rng, paths = np.random.default_rng(0), []
    for i in range(18):
        pixels = rng.integers(0, 60, (24, 24, 3)).astype("uint8")
        pixels[..., i % 3] += 150
        paths.append(tmp_path / f"{i:02}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def loaders(task: str, images: list[Path]) -> ImageDataLoaders:
    return ImageDataLoaders.from_lists(
        images, EXPECTED[task]["labels"], seed=1, size=24, batch_size=4, num_workers=0
    )


def learner(task: str, dls: ImageDataLoaders, path: Path) -> Learner:
    """The small network of `make.py`, with other first weights."""
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(
            nn.Conv2d(4, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        nn.Linear(8, dls.c),
    )
    return Learner(dls, network, progress=False, path=path, seed=3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_an_export_predicts_as_it_did(task: str, images: list[Path]) -> None:
    learn = load_learner(FILES / f"{task}-export")
    expected = torch.tensor(EXPECTED[task]["export"])
    assert str(learn.task) == task  # written as "single" and "multi"
    assert list(learn.dls.vocab) == EXPECTED[task]["vocab"]
    predictions = [learn.predict(path) for path in loaders(task, images).valid_images.paths]
    found = torch.stack([prediction.probabilities for prediction in predictions])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    vocab = EXPECTED[task]["vocab"]
    for prediction, row in zip(predictions, expected.tolist(), strict=True):
        if task == "multiclass":
            assert prediction.label == vocab[row.index(max(row))]
        else:
            above = {name for name, chance in zip(vocab, row, strict=True) if chance > 0.5}
            assert set(prediction.labels) == above


@pytest.mark.parametrize("task", EXPECTED)
def test_a_checkpoint_loads_and_predicts_as_it_did(
    task: str, images: list[Path], tmp_path: Path
) -> None:
    shutil.copy(FILES / f"{task}.safetensors", tmp_path)
    learn = learner(task, loaders(task, images), tmp_path)
    learn.load(task)
    found = learn.get_preds()[0]
    expected = torch.tensor(EXPECTED[task]["checkpoint"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert learn.epochs_done == len(learn.history) == 2
    assert learn.layer_groups.frozen.count(False) == 1


@pytest.mark.parametrize("task", EXPECTED)
def test_a_finished_run_is_resumed_as_finished(
    task: str, images: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(FILES / f"{task}-run", tmp_path / "run")
    learn = learner(task, loaders(task, images), tmp_path)
    learn.freeze()
    history = learn.fit_one_cycle(
        2, 1e-2, checkpoint_dir=tmp_path / "run", checkpoint_every=3, resume=True
    )
    assert len(history) == 2
    expected = torch.tensor(EXPECTED[task]["checkpoint"])
    torch.testing.assert_close(learn.get_preds()[0], expected, rtol=1e-4, atol=1e-5)
