"""When stored features are used, and when they are dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.training.storing import PlainLoaders, assert_close, counted, kept, learner
from torch import nn

from layergroups import ImageDataLoaders, vision_learner
from layergroups.errors import TrainingError
from layergroups.training import FeatureCacheConfig, FitContext, Learner
from layergroups.training.feature_cache._cached_epochs import CachedInputs


def test_more_views_may_be_asked_for() -> None:
    learn = learner(PlainLoaders(noise=0.5), feature_cache=FeatureCacheConfig(views=4))
    learn.freeze()
    learn.fit(6, 1e-2)
    assert kept(learn).views == [0, 1, 2, 3]


def test_few_epochs_are_not_worth_it() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(1, 1e-2)
    assert kept(learn).train is None


def test_other_data_are_not_taken_for_the_old_ones() -> None:
    def train(store: bool) -> Learner:
        learn = learner()
        learn.freeze()
        learn.fit(2, 1e-2, feature_cache=store)
        learn.dls = PlainLoaders(n=32)
        learn.fit(2, 1e-2, feature_cache=store)
        return learn

    assert_close(train(False), train(True))


def test_a_head_built_otherwise_is_not_fed_what_the_old_one_took() -> None:
    """The old head pooled first, so that pooled values were kept; the new one needs the maps."""

    def train(store: bool) -> Learner:
        learn = learner()
        learn.freeze()
        learn.fit(3, 1e-2, feature_cache=store)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            first = nn.Conv2d(8, 8, 3)
            learn.model[1] = nn.Sequential(first, nn.Flatten(), nn.Linear(32, 3))
        learn.fit(3, 1e-2, feature_cache=store)
        return learn

    stored = train(True)
    assert_close(train(False), stored)
    assert {row.note for row in stored.history} == {"cached features"}


def test_a_head_that_takes_the_same_values_finds_them() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(3, 1e-2)
    before = learn.model[0][0].items
    learn.model[1][4] = nn.Linear(8, 3)
    learn.fit(3, 1e-2)
    assert learn.model[0][0].items == before + 3  # to see what the new head needs


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = 1.0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.scale


def test_a_changed_attribute_of_a_frozen_module_is_noticed() -> None:
    def train(store: bool) -> Learner:
        model = counted()
        model[0].insert(0, Scaled())
        learn = learner(model=model, split=["0.0", "0.9", "1"])
        learn.freeze()
        learn.fit(3, 1e-2, feature_cache=store)
        model[0][0].scale = 3.0
        learn.fit(3, 1e-2, feature_cache=store)
        return learn

    stored = train(True)
    assert_close(train(False), stored)
    assert {row.note for row in stored.history} == {"cached features"}
    before = stored.model[0][0].calls
    stored.fit(3, 1e-2)
    assert stored.model[0][0].calls == before


def test_overwritten_images_are_noticed(tmp_path: Path) -> None:
    for label, shade in (("bright", 250), ("dark", 10)):
        (tmp_path / label).mkdir()
        for i in range(8):
            Image.new("RGB", (32, 32), (shade - i,) * 3).save(tmp_path / label / f"{i}.png")
    dls = ImageDataLoaders.from_folder(
        tmp_path, size=32, batch_size=4, valid_pct=0.5, augment=False, num_workers=0
    )
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, seed=0, progress=False)
    learn.freeze()
    learn.fit(3, 1e-2)
    entry = kept(learn)
    learn.fit(2, 1e-2)
    assert kept(learn) is entry
    for file in tmp_path.rglob("*.png"):
        Image.new("RGB", (32, 32), (128, 0, 0)).save(file)
    row = learn.fit(2, 1e-2)[-1]
    assert row.note == "cached features"
    assert row.valid_loss == pytest.approx(learn.validate()["valid_loss"], rel=1e-3)


def test_unfrozen_training_drops_it() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(2, 1e-2)
    assert kept(learn).train is not None
    learn.unfreeze()
    learn.fit(1, 1e-3)
    assert kept(learn).train is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda learn: learn.freeze(norm="train"), "frozen norm layers train"),
        (lambda learn: learn.model[0].register_forward_hook(lambda *_: None), "there are hooks"),
        (lambda learn: learn.freeze("0.8"), "gives values that still train"),
        (lambda learn: learn.model.compile(disable=True), "the model is compiled"),
    ],
)
def test_where_it_cannot_it_says_why(
    spoil: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    learn = learner()
    if reason != "gives values that still train":
        learn.freeze()
    spoil(learn)
    learn.fit(3, 1e-2)
    assert reason in caplog.text
    assert {row.note for row in learn.history} == {""}


def test_data_that_do_not_tell_what_is_where(caplog: pytest.LogCaptureFixture) -> None:
    dls: Any = PlainLoaders()
    photos = torch.utils.data.TensorDataset(dls.train.x, dls.train.y)
    dls.train = torch.utils.data.DataLoader(photos, 8, shuffle=True)
    learn = learner(dls)
    learn.freeze()
    learn.fit(3, 1e-2)
    assert "DataLoader" in caplog.text


def test_a_callback_that_needs_images_is_told_how_to_get_them() -> None:
    class Mix:
        def before_step(self, run: FitContext) -> None:
            run.inputs = run.inputs.lerp(run.inputs.flip(0), 0.1)

    learn = learner(callbacks=[Mix()])
    learn.freeze()
    with pytest.raises(TrainingError, match=r"feature_cache=False"):
        learn.fit(3, 1e-2)
    assert isinstance(CachedInputs([torch.zeros(2)]), tuple)
