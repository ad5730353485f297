from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, moved, snapshot, tiny_model
from torch import nn

from layergroups import ImageDataLoaders, vision_learner
from layergroups.data._eval_loaders import varied_views
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import Learner


def test_fact_5_a_replaced_last_layer_trains_and_one_line_tells(make, caplog) -> None:
    learn = make()
    learn.freeze()
    learn.fit(1, 1e-2)
    kept = learn.opt.state[learn.model[1][2].weight]["exp_avg"].clone()
    head = list(learn.model[-1].children())[:-1]
    learn.model[-1] = nn.Sequential(*head, nn.Linear(8, 3))
    new, before = learn.model[-1][-1], snapshot(learn.model)
    caplog.clear()
    groups = learn.layer_groups
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'1'" in caplog.text
    assert learn.layer_groups is groups
    assert set(new.parameters()) <= set(groups[-1].parameters())
    assert torch.equal(learn.opt.state[learn.model[1][2].weight]["exp_avg"], kept)
    learn.fit(1)
    assert {"1.4.weight", "1.4.bias"} <= moved(before, learn.model)
    assert not {name for name in moved(before, learn.model) if name.startswith("0")}
    assert groups.frozen == (True, True, False)
    assert len(caplog.records) == 1


def test_a_replaced_layer_trains_in_the_next_fit_without_anybody_looking(make, caplog) -> None:
    learn = make()
    learn.fit(1)
    learn.model[1][4] = nn.Linear(8, 3)
    before = snapshot(learn.model)
    caplog.clear()
    learn.fit(1)
    assert len(caplog.records) == 1
    assert {"1.4.weight", "1.4.bias"} <= moved(before, learn.model)


@pytest.mark.parametrize("looks", [True, False])
def test_surgery_by_a_callback_is_seen_before_the_next_step(make, looks) -> None:
    class Operates:
        def before_step(self, run) -> None:
            if run.step == 2:
                self.new = run.model[1][4] = nn.Linear(8, 3)
                self.before = snapshot(self.new)
                if looks:
                    assert run.learner.layer_groups["1"].lr == 1e-3

        def after_step(self, run) -> None:
            if run.step == 3:
                assert moved(self.before, self.new) == {"weight", "bias"}
                assert run.changes == 1

    learn = make(callbacks=[operates := Operates()])
    learn.fit(1)
    held = {p for group in learn.opt.param_groups for p in group["params"]}
    assert held == set(learn.model.parameters())
    assert operates.new.weight in held


def test_another_model_may_be_assigned(make) -> None:
    learn = make()
    learn.freeze()
    learn.fit(1, 1e-2)
    optimizer, groups = learn.opt, learn.layer_groups
    moments = optimizer.state[learn.model[1][4].weight]["exp_avg"].clone()
    learn.model = nn.Sequential(tiny_model()[0], learn.model[1])
    assert learn.layer_groups is not groups
    assert learn.layer_groups.model is learn.model
    assert learn.layer_groups.frozen == (True, True, False)
    assert learn.layer_groups.rates == (1e-2,) * 3
    assert learn.opt is optimizer
    assert torch.equal(optimizer.state[learn.model[1][4].weight]["exp_avg"], moments)
    learn.unfreeze()
    before = snapshot(learn.model)
    learn.fit(1)
    assert {"0.0.weight", "1.4.weight"} <= moved(before, learn.model)


def test_another_model_may_be_assigned_in_the_middle_of_a_fit(make) -> None:
    class Exchanges:
        def before_step(self, run) -> None:
            if run.step == 2:
                run.learner.model = nn.Sequential(
                    nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 3)
                )
                self.before = snapshot(run.model)

    learn = make(split="layerwise", callbacks=[exchanges := Exchanges()])
    learn.fit(1)
    assert moved(exchanges.before, learn.model) == set(exchanges.before)
    held = {p for group in learn.opt.param_groups for p in group["params"]}
    assert held == set(learn.model.parameters())


def test_another_model_with_other_groups_starts_afresh_and_says_so(make, caplog) -> None:
    learn = make(split="layerwise")
    learn.fit(1)
    caplog.clear()
    learn.model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 3))
    assert "optimizer" in caplog.text
    assert learn.opt is None
    before = snapshot(learn.model)
    learn.fit(1)
    assert moved(before, learn.model) == set(before)


def test_a_model_that_cannot_be_divided_is_not_taken(make) -> None:
    learn = make()
    before = learn.model
    with pytest.raises(Exception, match=r"0\.0"):
        learn.model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    assert learn.model is before
    learn.fit(1)


def test_groups_of_another_model_are_refused(dls) -> None:
    model = tiny_model()
    groups = LayerGroups(copy.deepcopy(model), 1, example_input=torch.zeros(2, 3, 16, 16))
    with pytest.raises(TrainingError, match="another model"):
        Learner(dls, model, groups=groups)


def test_rates_of_given_groups_stay(dls) -> None:
    model = tiny_model()
    groups = LayerGroups(model, ["0.0", "1"], example_input=torch.zeros(2, 3, 16, 16))
    groups.set_rates([1e-5, 1e-4])
    assert Learner(dls, model, groups=groups).layer_groups.rates == (1e-5, 1e-4)
    assert Learner(dls, model, groups=groups, lr=0.1).layer_groups.rates == (0.1, 0.1)


def test_a_fit_without_rates_uses_those_that_the_groups_have(make) -> None:
    learn = make()
    learn.fit(1, slice(1e-5, 1e-3))
    assert learn.fit(1)[0].lrs == pytest.approx((1e-5, 1e-4, 1e-3))
    learn.fit(1, {"1": 1e-2})
    assert learn.history[-1].lrs == pytest.approx((1e-5, 1e-4, 1e-2))


def test_wd_is_weight_decay(make) -> None:
    learn = make(wd=0.3)
    learn.fit(1)
    assert {group["weight_decay"] for group in learn.opt.param_groups} == {0.0, 0.3}


def test_other_data_of_the_same_classes_may_be_given(make) -> None:
    learn = make()
    learn.dls = TinyLoaders(n=16)
    learn.fit(1)
    with pytest.raises(TrainingError, match="cats"):
        learn.dls = TinyLoaders(vocab=("cats", "dogs"))


def test_the_plainest_data_and_model_will_do() -> None:
    class Data:
        train = [(torch.randn(4, 6), torch.tensor([0, 1, 0, 1]))] * 3
        valid = train

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = LayerGroups(model, 2, example_input=torch.zeros(2, 6))
    learn = Learner(Data(), model, groups=groups, progress=False)
    assert learn.fit(2)[-1].valid_loss is not None
    assert learn.predict(torch.randn(6)).label in {"0", "1"}
    with pytest.raises(TrainingError, match="tensor"):
        learn.predict("photo.jpg")


def test_it_says_what_it_is(make) -> None:
    learn = make()
    learn.freeze()
    learn.fit(1, 1e-3)
    assert repr(learn) == "Learner(Sequential, groups: 0.0 frozen, 0.7 frozen, 1; epochs: 1)"


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
    files = learn.dls.valid_images.files[:2]
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
