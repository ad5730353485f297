"""What a learner shows of photos: results, heat maps, and predictions over several views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.data.conftest import picture
from tests.reports.readable import assert_readable

from layergroups import ImageDataLoaders, vision_learner
from layergroups.data._eval_loaders import varied_views
from layergroups.errors import LayerGroupsError, TrainingError
from layergroups.reports import HeatMap


@pytest.fixture(scope="module")
def learn(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One for all: looking changes nothing."""
    photos = tmp_path_factory.mktemp("photos")
    for label, kind in enumerate(("cat", "dog")):
        (photos / kind).mkdir()
        for i in range(6):
            picture(1000 * label + i).save(photos / kind / f"{i}.jpg")
    dls = ImageDataLoaders.from_folder(photos, size=32, batch_size=3, valid_pct=0.5)
    return vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)


# Results


def words_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_results_are_drawn_and_the_same_each_time(learn: Any, tmp_path: Path) -> None:
    figure = learn.show_results(n=4)
    assert_readable(figure)
    assert words_of(figure) == words_of(learn.show_results(n=4))
    assert len(figure.axes[0].images) == 4
    probabilities, targets = learn.get_preds()
    assert len(learn.show_results(n=99).axes[0].images) == len(targets)
    said = [learn.dls.vocab[i] for i in probabilities.argmax(1).tolist()]
    assert [w for w in words_of(learn.show_results(n=99)) if w in ("cat", "dog")] == said
    file = learn.show_results(tmp_path / "some/results.png")
    with Image.open(file) as picture:
        assert picture.width > 500


def test_results_without_classes_show_what_is_predicted(learn: Any) -> None:
    files = learn.dls.valid_photos.files[:2]
    words = words_of(learn.show_results(dl=learn.dls.test_dl(files)))
    assert words[0] == "Predicted: 2 photos"
    assert not any(word.startswith("is ") for word in words)


def test_results_of_plain_batches(make: Callable[..., Any]) -> None:
    assert len(make().show_results(n=5).axes[0].images) == 5


def test_a_notebook_can_show_the_figure(make: Callable[..., Any]) -> None:
    assert make().show_results(n=1)._repr_png_().startswith(b"\x89PNG")


# Heat maps


def test_the_heat_map_of_one_photo(learn: Any, tmp_path: Path) -> None:
    file = learn.dls.valid_photos.files[0]
    found = learn.grad_cam(file, path=tmp_path / "cam.png")
    assert isinstance(found, HeatMap)
    assert found.heat.shape == found.pixels.shape[:2] == (32, 32)
    said = learn.predict(file)
    assert (found.target, found.predicted) == (said.label, said.label)
    assert found.probability == pytest.approx(float(said.probabilities.max()))
    assert (tmp_path / "cam.png").stat().st_size > 1000
    by_name, by_number = learn.grad_cam(file, "dog"), learn.grad_cam(Image.open(file), 1)
    assert by_name.target == by_number.target == "dog"
    assert torch.allclose(by_name.heat, by_number.heat, atol=1e-3)
    assert_readable(found.plot())


def test_a_heat_map_in_a_notebook_cannot_inject_markup(learn: Any) -> None:
    found = learn.grad_cam(torch.rand(3, 32, 32))
    named = HeatMap(found.heat, found.pixels, '"><script>', "$x_{", 0.5, "0")
    assert "<script" not in named._repr_html_()
    assert named._repr_html_().startswith("<img alt=")


@pytest.mark.parametrize("target", ["cow", 2, -1, 1.5, True])
def test_classes_that_are_not_there(learn: Any, target: Any) -> None:
    with pytest.raises(LayerGroupsError, match="the classes are 'cat', 'dog'"):
        learn.grad_cam(torch.rand(3, 32, 32), target)


# Several views


def test_views_are_averaged_as_in_fastai(learn: Any) -> None:
    plain, targets = learn.get_preds()
    batches, augment = learn.dls.valid, learn.dls.augment
    views = varied_views(batches, augment, learn.dls.seed, 2)
    first, second = (learn.get_preds(view)[0] for view in views)
    assert not torch.equal(first, second)
    found, same = learn.tta(n=2, beta=0.25)
    assert torch.allclose(found, 0.75 * (first + second) / 2 + 0.25 * plain, atol=1e-6)
    assert torch.equal(same, targets)
    assert torch.equal(found, learn.tta(n=2)[0])
    assert torch.allclose(learn.tta(n=1, beta=1)[0], plain)
    assert torch.allclose(found.sum(1), torch.ones(len(found)))


def test_views_do_not_depend_on_workers_nor_on_the_random_state(learn: Any) -> None:
    torch.manual_seed(1)
    one = learn.tta(n=2)[0]
    torch.manual_seed(2)
    assert torch.equal(one, learn.tta(n=2)[0])


def test_photos_without_classes_have_views_too(learn: Any) -> None:
    files = learn.dls.valid_photos.files[:2]
    found, targets = learn.tta(learn.dls.test_dl(files), n=1)
    assert found.shape == (2, 2)
    assert targets is None


def test_without_augmentation_there_are_no_views(folder: Callable[..., Path]) -> None:
    dls = ImageDataLoaders.from_folder(folder(cat=2, dog=2), size=32, augment=False)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)
    with pytest.raises(TrainingError, match="augment=True"):
        learn.tta()


def test_chosen_photos_of_batches(learn: Any) -> None:
    batches = learn.dls.valid
    x, y = batches.at([4, 0])
    all_x = torch.cat([x for x, _ in batches])
    all_y = torch.cat([y for _, y in batches])
    assert torch.equal(x, all_x[[4, 0]])
    assert torch.equal(y, all_y[[4, 0]])
