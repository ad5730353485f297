"""Labels, numbers, grey images and images of many channels: from files to a loaded learner."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from layergroups.data import ImageDataLoaders
from layergroups.errors import ModelError, TrainingError
from layergroups.models import SigmoidRange, TargetUnits, load_model
from layergroups.training import Learner, load_learner, vision_learner

TINY = "timm:test_resnet"
SMALL: dict[str, Any] = {"size": 32, "batch_size": 8, "num_workers": 0, "cache": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy photos, reddish or not, bright or dark; arrays of five channels beside them."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    labels, numbers, classes = [], [], []
    for number in range(24):
        red, bright = number % 2, number // 2 % 2
        pixels = random.integers(0, 60, (36, 40, 3), dtype=np.uint8) + np.uint8(100 * bright)
        pixels[..., 0] += np.uint8(80 * red)
        Image.fromarray(pixels).save(root / f"{number}.png")
        np.save(root / f"{number}.npy", np.dstack([pixels, pixels[..., :2]]))
        words = " ".join(word for word, on in (("red", red), ("bright", bright)) if on)
        labels.append([f"{number}.png", words])
        numbers.append([f"{number}.png", float(pixels.mean()) * 10])
        classes.append([f"{number}.npy", "red" if red else "grey"])
    for name, rows in (("labels", labels), ("numbers", numbers), ("classes", classes)):
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "light" if name == "numbers" else "label"], *rows])
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model(TINY, pretrained=False).model.train()
        for _ in range(3):
            model(torch.rand(8, 3, 32, 32))
    save_file(model.state_dict(), path)
    return path


def learner(dls: ImageDataLoaders, weights: Path, **options: Any) -> Learner:
    return vision_learner(dls, TINY, weights=weights, seed=1, progress=False, **options)


def answers(found: Any) -> torch.Tensor:
    return found.numbers if hasattr(found, "numbers") else found.probabilities


def comes_back_the_same(learn: Learner, photo: Path, target: Path) -> Learner:
    expected = learn.predict(photo)
    learn.export(target)
    again = load_learner(target)
    found = again.predict(photo)
    assert torch.allclose(answers(found), answers(expected), rtol=1e-5, atol=1e-5)
    assert type(found) is type(expected)
    return again


def test_several_labels_from_a_table(folder: Path, weights: Path, tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_table(folder / "labels.csv", label_delim=" ", **SMALL)
    learn = learner(dls, weights, thresh=0.4)
    before = learn.validate()["valid_loss"]
    learn.fine_tune(2, 1e-2)
    assert learn.validate()["valid_loss"] < before
    again = comes_back_the_same(learn, folder / "3.png", tmp_path / "export")
    assert (again.task, again.thresh) == ("multilabel", 0.4)
    assert type(again.loss_func) is nn.BCEWithLogitsLoss
    assert again.predict(folder / "3.png").names == ("bright", "red")
    again.dls = dls
    assert again.validate()["valid_loss"] == pytest.approx(learn.validate()["valid_loss"], rel=1e-4)


def test_numbers_from_a_table(folder: Path, weights: Path, tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_table(folder / "numbers.csv", augment=False, **SMALL)
    learn = learner(dls, weights)
    units = learn.model[1][-1]
    assert isinstance(units, TargetUnits)
    labels = torch.tensor([label[0] for label in dls.train_images.labels])
    assert units.mean.item() == pytest.approx(labels.mean().item(), rel=1e-5)
    first, targets = learn.get_preds()
    assert (first - labels.mean()).abs().max() < labels.std()  # it begins near the mean
    learn.fine_tune(3, 1e-2)
    found, _ = learn.get_preds()
    spread = (targets - labels.mean()).abs().mean()
    assert (found - targets).abs().mean() < 0.7 * spread
    again = comes_back_the_same(learn, folder / "3.png", tmp_path / "export")
    assert list(again.predict(folder / "3.png").by_name) == ["light"]
    assert isinstance(again.model[1][-1], TargetUnits)


def test_numbers_between_two_bounds(folder: Path, weights: Path, tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_table(folder / "numbers.csv", **SMALL)
    learn = learner(dls, weights, y_range=(0, 2600))
    assert isinstance(learn.model[1][-1], SigmoidRange)
    found, _ = learn.get_preds()
    assert 0 < found.min() < found.max() < 2600
    comes_back_the_same(learn, folder / "3.png", tmp_path / "export")


@pytest.mark.parametrize("name", [pytest.param("labels", marks=pytest.mark.slow), "numbers"])
def test_a_file_that_runs_alone_answers_the_task(
    folder: Path, weights: Path, tmp_path: Path, name: str
) -> None:
    options = {"label_delim": " "} if name == "labels" else {}
    dls = ImageDataLoaders.from_table(folder / f"{name}.csv", **options, **SMALL)
    learn = learner(dls, weights)
    file = learn.export(tmp_path / "m.pt2")
    pixels = dls.transform.pixels(Image.open(folder / "3.png"))
    (found,) = torch.export.load(file).module()(pixels[None])
    expected = answers(learn.predict(folder / "3.png"))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    said = json.loads((tmp_path / "m.pt2.json").read_text(encoding="utf-8"))
    assert said["task"] == dls.task
    assert said["output"]["name"] == ("probabilities" if name == "labels" else "numbers")
    assert ("threshold" in said) == (name == "labels")


@pytest.mark.parametrize(("channels", "column"), [(1, "png"), (5, "npy")])
def test_images_of_other_channels(
    folder: Path,
    weights: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    channels: int,
    column: str,
) -> None:
    files = [folder / f"{number}.{column}" for number in range(24)]
    names = ["red" if number % 2 else "grey" for number in range(24)]
    dls = ImageDataLoaders.from_lists(files, names, channels=channels, **SMALL)
    with caplog.at_level(logging.WARNING, logger="layergroups"):
        learn = learner(dls, weights)
    said = [line for line in caplog.messages if "input channels" in line]
    assert len(said) == 1
    assert f"3 → {channels} input channels" in said[0]
    assert "frozen with the group of the first layers" in said[0]
    assert learn.dls.input.channels == channels
    first = next(m for m in learn.model.modules() if isinstance(m, nn.Conv2d))
    old = next(m for m in load_model(TINY, weights=weights).model.modules()
               if isinstance(m, nn.Conv2d))  # fmt: skip
    assert first.weight.shape[1] == channels
    if channels == 1:
        assert torch.allclose(first.weight, old.weight.sum(1, keepdim=True), atol=1e-6)
    kept = first.weight.detach().clone()
    learn.fit(1)
    assert torch.equal(first.weight, kept)
    learn.unfreeze()
    learn.fit(1, 1e-2)
    assert not torch.equal(first.weight, kept)
    comes_back_the_same(learn, files[3], tmp_path / "export")


def test_a_file_that_runs_alone_takes_the_channels(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    files = [folder / f"{number}.npy" for number in range(24)]
    dls = ImageDataLoaders.from_lists(files, ["red", "grey"] * 12, channels=5, **SMALL)
    learn = learner(dls, weights)
    file = learn.export(tmp_path / "m.pt2")
    said = json.loads((tmp_path / "m.pt2.json").read_text(encoding="utf-8"))
    assert said["input"]["shape"] == ["batch", 32, 32, 5]
    (found,) = torch.export.load(file).module()(torch.rand(1, 32, 32, 5))
    assert found.shape == (2,)


def test_photos_of_three_channels_change_nothing(
    folder: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dls = ImageDataLoaders.from_table(folder / "labels.csv", label_delim=" ", **SMALL)
    learner(dls, weights)
    assert not caplog.messages


def test_bounds_that_do_not_fit_are_explained(folder: Path, weights: Path) -> None:
    labels = ImageDataLoaders.from_table(folder / "labels.csv", label_delim=" ", **SMALL)
    numbers = ImageDataLoaders.from_table(folder / "numbers.csv", **SMALL)
    with pytest.raises(ModelError, match=r"'multilabel'.*numbers as targets"):
        learner(labels, weights, y_range=(0, 1))
    for wrong in ((1, 0), 5, (0, "a"), (0, float("inf"))):
        with pytest.raises(ModelError, match=r"y_range=.*the lower one first"):
            learner(numbers, weights, y_range=wrong)
    with pytest.raises(ModelError, match="SigmoidRange"):
        learner(numbers, weights, y_range=(0, 1), custom_head=nn.Flatten())


def test_data_of_other_channels_are_refused(folder: Path, weights: Path) -> None:
    table = folder / "labels.csv"
    learn = learner(ImageDataLoaders.from_table(table, label_delim=" ", **SMALL), weights)
    with pytest.raises(TrainingError, match=r"1 channel, the model takes images of 3"):
        learn.dls = ImageDataLoaders.from_table(table, label_delim=" ", channels=1, **SMALL)
