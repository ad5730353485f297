"""Large images by tiles: as the whole image where that fits, in strips of a tile."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import NAMES, shapes
from torch import nn

from layergroups import Learner, SegmentationDataLoaders, load_learner, segmentation_learner
from layergroups.data import EvalTransform
from layergroups.errors import TrainingError
from layergroups.tasks import TASKS
from layergroups.training._tiles import _starts, _strips


@pytest.fixture(scope="module")
def dls(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataLoaders:
    folders = shapes(tmp_path_factory.mktemp("shapes"), n=8)
    return SegmentationDataLoaders.from_folders(
        *folders, classes=NAMES, size=(48, 64), batch_size=4, num_workers=0, cache=False
    )


@pytest.fixture(scope="module")
def learn(dls: SegmentationDataLoaders) -> Learner:
    made = segmentation_learner(
        dls, "timm:test_resnet", pretrained=False, widths=(32, 16), seed=0, progress=False
    )
    made.fit_one_cycle(8, 1e-2)
    return made


@pytest.fixture(scope="module")
def large(dls: SegmentationDataLoaders) -> Image.Image:
    """Twelve images side by side."""
    pictures = [np.array(Image.open(file)) for file in (dls.train_images.files * 2)[:12]]
    return Image.fromarray(np.concatenate([np.concatenate(pictures[i::3], 1) for i in range(3)]))


def test_an_image_of_one_tile_is_predicted_as_without_tiles(
    learn: Learner, dls: SegmentationDataLoaders
) -> None:
    file = dls.valid_images.files[0]
    whole, tiled = learn.predict(file), learn.predict(file, tile=(48, 64))
    assert torch.equal(tiled.mask, whole.mask)
    assert torch.allclose(tiled.probabilities, whole.probabilities, atol=1e-6)


def test_a_tile_larger_than_the_image_is_the_whole_image(
    learn: Learner, dls: SegmentationDataLoaders
) -> None:
    file = dls.valid_images.files[0]
    whole = learn.predict(file)
    for tile in (64, 1000, (48, 1000)):
        assert torch.equal(learn.predict(file, tile=tile).mask, whole.mask)


def test_tiles_give_the_mask_of_the_whole_image(learn: Learner, large: Image.Image) -> None:
    inputs = EvalTransform((large.height, large.width), learn.dls.input, squash=True)
    whole = learn.get_preds([(inputs(large)[None], None)])[0][0].argmax(0)
    tiled = learn.predict(large, tile=(48, 64), overlap=0.5)
    assert (tiled.mask == whole).float().mean() > 0.95
    assert whole.flatten().bincount().min() > 100  # it has learned all classes
    assert abs(sum(tiled.shares.values()) - 1) < 1e-6
    assert max(tiled.probabilities.shape[1:]) <= 512


def test_overlaps_are_blended_to_exactly_the_function_of_the_pixel(
    dls: SegmentationDataLoaders,
) -> None:
    """A network that looks at one pixel gives the same with any tiles, padding and batches."""
    torch.manual_seed(0)
    learn = Learner(dls, nn.Conv2d(3, 3, 1), progress=False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (131, 40, 3), np.uint8))
    pixels = EvalTransform((131, 40), dls.input, squash=True)(image)
    expected = learn.get_preds([(pixels[None], None)])[0][0]
    for overlap in (0, 0.25, 0.7):
        strips = list(_strips(learn, image, (48, 64), overlap))
        assert torch.allclose(torch.cat(strips, 1), expected, atol=1e-5)
        assert max(strip.shape[1] for strip in strips) <= 48


def test_tiles_cover_a_side_and_overlap() -> None:
    for length in range(1, 300):
        for overlap in (0.0, 0.25, 0.9):
            starts = _starts(length, 32, overlap)
            assert starts[0] == 0
            assert starts[-1] == max(0, length - 32)
            gaps = [b - a for a, b in pairwise(starts)]
            assert all(0 < gap <= max(1, int(32 * (1 - overlap))) for gap in gaps)


def test_an_export_predicts_the_same_by_tiles(
    learn: Learner, large: Image.Image, tmp_path: Path
) -> None:
    large.save(tmp_path / "large.tif")
    loaded = load_learner(learn.export(tmp_path / "export"))
    expected = learn.predict(large, tile=(48, 64))
    assert torch.equal(loaded.predict(tmp_path / "large.tif", tile=(48, 64)).mask, expected.mask)


@pytest.mark.parametrize("wrong", [{"tile": 0}, {"tile": 32, "overlap": 1.0}])
def test_wrong_tiles_are_refused(learn: Learner, large: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=list(wrong)[-1]):
        learn.predict(large, **wrong)


def test_a_task_without_masks_refuses_tiles() -> None:
    with pytest.raises(TrainingError, match="tile="):
        TASKS["multiclass"].joined(iter(()), (4, 4), ("a", "b"))
