"""What an export holds of a learner, and what it says it leaves out."""

import logging
from pathlib import Path

import numpy
import pytest
from PIL import Image
from torch import Tensor

from layergroups.data import ImageDataLoaders
from layergroups.errors import CheckpointError
from layergroups.training import load_learner, vision_learner


@pytest.fixture
def photos(tmp_path: Path) -> ImageDataLoaders:
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(numpy.full((32, 32, 3), number * 20, dtype=numpy.uint8)).save(files[-1])
    labels = ["cat", "dog"] * 6
    return ImageDataLoaders.from_lists(files, labels, size=32, batch_size=4, num_workers=0)


def share_of_first(probabilities: Tensor, targets: Tensor) -> float:
    return float(probabilities[:, 0].mean())


@pytest.mark.parametrize(
    ("metrics", "named"),
    [(["accuracy"], False), (["accuracy", share_of_first], True), ([share_of_first], True)],
)
def test_metrics_that_an_export_cannot_hold_are_named(
    photos: ImageDataLoaders, tmp_path: Path, caplog: pytest.LogCaptureFixture, metrics, named
) -> None:
    learn = vision_learner(
        photos, "timm:test_resnet", pretrained=False, metrics=metrics, progress=False
    )
    with caplog.at_level(logging.WARNING, logger="layergroups"):
        folder = learn.export(tmp_path / "model")
    assert any("share_of_first" in line for line in caplog.messages) == named
    assert load_learner(folder).metrics == [m for m in metrics if isinstance(m, str)]


@pytest.mark.parametrize("pretrained", [True, False, None])
def test_a_loaded_learner_knows_whether_its_first_weights_were_pretrained(
    photos: ImageDataLoaders, tmp_path: Path, pretrained: bool | None
) -> None:
    learn = vision_learner(photos, "timm:test_resnet", pretrained=False, progress=False)
    learn.pretrained = pretrained
    assert load_learner(learn.export(tmp_path / "model")).pretrained is pretrained
    learn.save(tmp_path / "saved")
    other = vision_learner(photos, "timm:test_resnet", pretrained=False, progress=False)
    other.load(tmp_path / "saved")
    assert other.pretrained is pretrained


def test_a_loaded_learner_is_in_eval_mode(photos: ImageDataLoaders, tmp_path: Path) -> None:
    learn = vision_learner(photos, "timm:test_resnet", pretrained=False, progress=False)
    learn.fit(1)
    learn.model.train()
    loaded = load_learner(learn.export(tmp_path / "model"))
    assert not any(module.training for module in loaded.model.modules())
    found = loaded.predict(photos.valid_images.files[0])
    assert found.label == learn.predict(photos.valid_images.files[0]).label


def test_an_export_with_tied_weights_needs_the_model(
    photos: ImageDataLoaders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learn = vision_learner(photos, "timm:test_vit", pretrained=False, img_size=32, progress=False)
    first, second = learn.model.get_submodule("0.body.blocks")[:2]
    second.mlp.fc1.weight = first.mlp.fc1.weight
    folder = learn.export(tmp_path / "model")
    assert any("model=" in record.getMessage() for record in caplog.records)
    with pytest.raises(CheckpointError, match="model="):
        load_learner(folder)
    again = load_learner(folder, model=learn.model)
    assert again.predict(tmp_path / "1.png").label == learn.predict(tmp_path / "1.png").label
