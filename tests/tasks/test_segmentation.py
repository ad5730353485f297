"""Segmentation from two folders to a loaded export: the path of a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import NAMES, shapes

from layergroups import SegmentationDataLoaders, load_learner, segmentation_learner, unet_learner
from layergroups.tasks import MaskPrediction
from layergroups.training import Learner

SMALL: dict[str, Any] = {"size": (48, 64), "batch_size": 4, "num_workers": 0, "cache": False}
TINY = "timm:test_resnet"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def dls(folders: tuple[Path, Path]) -> SegmentationDataLoaders:
    return SegmentationDataLoaders.from_folders(*folders, classes=NAMES, **SMALL)


def learner(dls: SegmentationDataLoaders, **options: Any) -> Learner:
    return segmentation_learner(
        dls, TINY, pretrained=False, seed=1, progress=False, widths=(32, 16), **options
    )


@pytest.fixture(scope="module")
def trained(dls: SegmentationDataLoaders) -> Learner:
    learn = learner(dls)
    learn.fit_one_cycle(8, 1e-2)
    return learn


def test_it_learns_and_gives_a_mask_at_the_size_of_the_image(
    trained: Learner, dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    found = trained.validate()
    assert found["iou"] > 0.5
    assert found["dice"] > found["iou"]
    large = Image.open(dls.valid_images.files[0]).resize((150, 90))
    predicted = trained.predict(large)
    assert isinstance(predicted, MaskPrediction)
    assert predicted.mask.shape == (90, 150)
    assert predicted.probabilities.shape == (3, 48, 64)
    assert sum(predicted.shares.values()) == pytest.approx(1)
    written = Image.open(predicted.save(tmp_path / "mask.png"))
    assert written.mode == "P"
    assert torch.equal(torch.from_numpy(np.array(written)).long(), predicted.mask)
    ((path, other),) = trained.iter_preds([dls.valid_images.files[0]])
    assert other.mask.shape == (48, 64)
    assert path.name.endswith(".jpg")


def test_a_checkpoint_and_a_folder_come_back(
    trained: Learner, dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    trained.path = tmp_path
    trained.save("shapes")
    again = learner(dls, path=tmp_path).load("shapes")
    expected, _ = trained.get_preds()
    assert torch.equal(again.get_preds()[0], expected)
    image = dls.valid_images.files[0]
    loaded = load_learner(trained.export(tmp_path / "export"))
    assert torch.equal(loaded.predict(image).mask, trained.predict(image).mask)
    assert loaded.layer_groups.names == trained.layer_groups.names
    loaded.dls = dls
    assert loaded.validate()["iou"] == pytest.approx(trained.validate()["iou"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_a_single_file_gives_the_same_probabilities(
    trained: Learner, tmp_path: Path, ending: str
) -> None:
    trained.export(tmp_path / f"model.{ending}")  # which compares the file with the learner
    assert (tmp_path / f"model.{ending}.json").is_file()


def test_the_groups_are_those_of_the_body_and_the_new_layers(dls: SegmentationDataLoaders) -> None:
    learn = unet_learner(dls, TINY, pretrained=False, progress=False)
    assert learn.layer_groups.names == ("early", "late", "head")
    assert all(name.startswith("1.") for name, _ in learn.layer_groups[-1].named_parameters())
    assert all(learn.layer_groups.reasons)
