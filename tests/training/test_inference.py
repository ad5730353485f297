"""Predictions photo by photo: the same answers, bounded memory, and a model left alone."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import layers, loaders, overlapping, shapes
from torch import nn

from layergroups import ImageDataLoaders, Learner, load_learner, vision_learner
from layergroups.data import EvalTransform, InferenceData
from layergroups.data._batches import BatchMaker, EvalLoader, ImageDataset
from layergroups.data._samples import Samples
from layergroups.errors import BrokenImagesError, TrainingError
from layergroups.tasks import TASKS

NAMES = ("red", "green", "blue")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def photos() -> InferenceData:
    data = InferenceData(NAMES, EvalTransform((16, 16)), TASKS["multiclass"])
    data.batch_size = 3
    return data


class Watched(EvalLoader):
    """Batches that know how many of them are alive whenever another is made."""

    def __iter__(self) -> Iterator[Any]:
        self.alive: list[int] = []
        known: list[weakref.ref[Any]] = []
        for batch in super().__iter__():
            known.append(weakref.ref(batch))
            self.alive.append(sum(ref() is not None for ref in known))
            yield batch


def watched(folder: Path, batch_size: int) -> Watched:
    files = tuple(map(str, sorted(folder.iterdir())))
    feed = BatchMaker(ImageDataset(Samples(files), EvalTransform((16, 16))), 0)
    return Watched(feed, batch_size)


def test_the_samples_of_a_folder_in_order_as_predict_says(make, photos, folder: Path) -> None:
    learn = make(dls=photos)
    found = list(learn.iter_preds(folder))
    assert [path.name for path, _ in found] == [f"{number}.png" for number in range(7)]
    for path, prediction in found:
        alone = learn.predict(path)
        assert (prediction.label, prediction.index) == (alone.label, alone.index)
        assert torch.allclose(prediction.probabilities, alone.probabilities, atol=1e-6)
    assert torch.stack([p.probabilities for _, p in found]).shape == (7, 3)


@pytest.mark.parametrize("given", ["one", "list", "generator", "batches"])
def test_what_photos_may_be(make, photos, folder: Path, given: str) -> None:
    files = sorted(folder.iterdir())[:2]
    wanted = {
        "one": str(files[0]),
        "list": files,
        "generator": (str(file) for file in files),
        "batches": photos.test_dl(files),
    }[given]
    found = [path for path, _ in make(dls=photos).iter_preds(wanted)]
    assert found == files[: len(found)]
    assert len(found) == (1 if given == "one" else 2)


def test_no_batch_outlives_the_next(make, photos, folder: Path) -> None:
    batches = watched(folder, 1)
    rows = 0
    for _ in make(dls=photos).iter_preds(batches):
        rows += 1
        assert len(batches.alive) == rows  # none is made before it is needed
    assert rows == 7
    assert max(batches.alive) <= 2


def test_all_predictions_at_once_keep_no_batch_either(make, photos, folder: Path) -> None:
    batches = watched(folder, 1)
    found, _ = make(dls=photos).get_preds(batches)
    assert found.shape == (7, 3)
    assert max(batches.alive) <= 2


def test_the_model_is_as_it_was_between_two_photos(make, photos, folder: Path) -> None:
    learn = make(dls=photos)
    learn.freeze()
    learn.model.train()
    modes = [module.training for module in learn.model.modules()]
    random = torch.get_rng_state()
    for _, _prediction in learn.iter_preds(folder):
        assert modes == [module.training for module in learn.model.modules()]
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert torch.equal(random, torch.get_rng_state())


def test_broken_photos_are_told_before_any_prediction(make, photos, folder: Path) -> None:
    (folder / "6.png").write_text("not a photo", encoding="utf-8")
    with pytest.raises(BrokenImagesError, match=r"6\.png"):
        make(dls=photos).iter_preds(folder)


def test_data_that_cannot_read_photos_and_things_that_are_none(make, photos) -> None:
    with pytest.raises(TrainingError, match="TinyLoaders has no test_dl"):
        make().iter_preds("photos")
    for wrong in ([torch.zeros(1, 3, 16, 16)], 3):
        with pytest.raises(TrainingError, match=r"learn\.get_preds\(batches\)"):
            make(dls=photos).iter_preds(wrong)


class Stubborn(nn.Module):
    """Has its own idea of training mode, which eval must go through."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []
        self.linear = nn.Linear(4, 3)

    def train(self, mode: bool = True) -> Stubborn:
        super().train(mode)
        self.__dict__.setdefault("asked", []).append(mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.linear.training
        return self.linear(x.mean((2, 3)))


def test_a_train_method_of_ones_own_is_called(make, photos, folder: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Stubborn())
    learn = make(model, dls=photos, split=["0", "1"])
    model.train()
    model[1].asked.clear()
    learn.predict(next(folder.iterdir()))
    assert model[1].asked == [False, True]  # put back by the same method
    assert all(module.training for module in model.modules())


def test_a_module_in_two_places_has_its_mode_back(make, photos, folder: Path) -> None:
    shared = nn.Dropout(0.5)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), shared, nn.Conv2d(4, 3, 3), shared, nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    learn = make(model, dls=photos, split=["0", "2"])
    model.train()
    photo = next(folder.iterdir())
    first, second = learn.predict(photo), learn.predict(photo)
    assert torch.equal(first.probabilities, second.probabilities)
    assert shared.training


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_learner_of_several_labels_exports_what_it_says(
    make, photos, folder: Path, tmp_path: Path, precision: str
) -> None:
    learn = make(dls=photos, loss_func=nn.BCEWithLogitsLoss(), mixed_precision=precision)
    learn.freeze()
    file = learn.export(tmp_path / "m.pt2")
    photo = next(folder.iterdir())
    pixels = photos.transform.pixels(Image.open(photo))
    (found,) = torch.export.load(file).module()(pixels[None])
    expected = learn.predict(photo).probabilities
    assert torch.allclose(found, expected, atol=1e-5 if precision == "no" else 2e-2)
    assert found.sum() != pytest.approx(1, abs=1e-3)


def test_an_export_needs_to_know_the_transform(make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="TinyLoaders has no transform_config"):
        make().export(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("training", [True, False])
def test_threads_that_share_a_learner_get_the_answers_of_one(make, training: bool) -> None:
    class Slow(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)  # other threads come and go meanwhile
            return super().forward(x)

    learn = make(nn.Sequential(Slow(), nn.Dropout(0.5), nn.Linear(768, 3)), split=1)
    learn.model.train(training)
    items = list(torch.randn(40, 3, 16, 16))
    expected = [learn.predict(item).probabilities for item in items]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            found = list(threads.map(lambda item: learn.predict(item).probabilities, items))
            assert all(map(torch.equal, found, expected))
    assert [m.training for m in learn.model.modules()] == [training] * 4


def test_a_model_that_cannot_be_switched_leaves_nothing_behind(make) -> None:
    class Stubborn(nn.Flatten):
        def train(self, mode: bool = True) -> Any:
            if not mode:
                raise RuntimeError
            return super().train(mode)

    learn = make(nn.Sequential(Stubborn(), nn.Linear(768, 3)), split=1)
    item, state = torch.randn(3, 16, 16), torch.get_rng_state()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            learn.predict(item)
    assert torch.equal(torch.get_rng_state(), state)
    assert learn.model.training


def test_batches_of_the_data_as_given_get_the_statistics_of_the_weights(tmp_path: Path) -> None:
    """`learn.dls` is a copy with them; who predicts `dls.test_dl(files)` gets the same answers."""
    for name, shade in (("bright", 220), ("dark", 30)):
        (tmp_path / name).mkdir()
        for i in range(8):
            image = Image.effect_noise((32, 32), 40).point(lambda v, s=shade: (v + s) // 2)
            image.convert("RGB").save(tmp_path / name / f"{i}.png")
    dls = ImageDataLoaders.from_folder(tmp_path, size=32, batch_size=4, num_workers=0)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, seed=0, progress=False)
    half = (0.5, 0.5, 0.5)
    learn.dls = replace(dls, input=replace(dls.input, mean=half, std=half, interpolation="bicubic"))
    files = sorted(tmp_path.rglob("*.png"))
    expected, _ = learn.get_preds(learn.dls.test_dl(files))
    assert torch.equal(learn.get_preds(dls.test_dl(files))[0], expected)
    assert learn.validate(dls.valid) == learn.validate()
    rows = [prediction.probabilities for _, prediction in learn.iter_preds(dls.test_dl(files))]
    torch.testing.assert_close(torch.stack(rows), expected)
    assert torch.equal(learn.get_preds(dls.train_eval)[0], learn.get_preds(learn.dls.train_eval)[0])
    learn.export(tmp_path / "model")
    again = load_learner(tmp_path / "model")
    torch.testing.assert_close(again.get_preds(dls.test_dl(files))[0], expected)


@pytest.mark.parametrize("kind", ["one class", "overlapping"])
@pytest.mark.parametrize("beta", [None, 0.0, 1.0])
def test_tta_puts_the_masks_of_mirrored_images_back(
    kind: str, beta: float | None, tmp_path: Path
) -> None:
    made = overlapping(layers(tmp_path)) if kind == "overlapping" else loaders(shapes(tmp_path))
    learn = Learner(made, nn.Conv2d(3, made.n_outputs, 1), seed=0, progress=False)
    plain, targets = learn.get_preds()  # a 1 x 1 convolution commutes with mirroring
    averaged, same = learn.tta(beta=beta)
    assert torch.equal(targets, same)
    torch.testing.assert_close(averaged, plain, rtol=1e-3, atol=1e-3)


def test_tta_of_masks_that_are_never_mirrored_is_refused(tmp_path: Path) -> None:
    made = loaders(shapes(tmp_path), augment="document")
    learn = Learner(made, nn.Conv2d(3, made.n_outputs, 1), progress=False)
    with pytest.raises(TrainingError, match="never mirrors"):
        learn.tta()
