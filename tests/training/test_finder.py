"""The learning-rate finder: what it finds, and from which batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.laws.test_8_looking_changes_nothing import differences
from tests.training.finding import NAMES, QUICK, whole_state
from tests.training.tiny import TinyLoaders, tiny_model
from torch import Tensor, nn

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import Learner
from layergroups.training.feature_cache import FeatureCacheConfig
from layergroups.training.lr_finder._finder import Losses

Make = Callable[..., Learner]


def test_each_group_has_a_curve_in_which_it_alone_has_moved(make: Make) -> None:
    learn = make()
    start = {n: p.detach().clone() for n, p in learn.model.named_parameters()}
    moved: list[set[str]] = []

    def watch(outputs: Tensor, targets: Tensor) -> Tensor:
        names = [n for n, p in learn.model.named_parameters() if not torch.equal(p, start[n])]
        moved.append({learn.groups[learn.groups.partition.group_of[n]].name for n in names})
        return nn.functional.cross_entropy(outputs, targets)

    learn.loss_func = watch
    found = learn.lr_find(**QUICK, stop_div=False)
    assert list(found.groups) == NAMES
    assert moved[23] == set(NAMES)
    assert [moved[23 + 24 * i] for i in (1, 2, 3)] == [{"0.0"}, {"0.7"}, {"1"}]
    assert moved[24] == moved[48] == moved[72] == set()


def test_the_sweep_of_all_keeps_the_relation_of_the_rates(make: Make) -> None:
    learn = make(lr={"0.0": 1e-4, "0.7": 5e-4, "1": 1e-3})
    used: list[dict[str, float]] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            used.append({g["name"].split("/")[0]: g["lr"] for g in self.param_groups})
            return super().step(closure)

    learn.opt_func = Spy
    found = learn.lr_find(1e-6, 1e-1, 24, by_group=False)
    assert found.groups == {}
    assert found.relation == pytest.approx({"0.0": 0.1, "0.7": 0.5, "1": 1.0})
    for rates, lr in zip(used, found.lrs, strict=True):
        assert rates == pytest.approx({"0.0": lr / 10, "0.7": lr / 2, "1": lr})
    assert (found.lrs[0], found.lrs[-1]) == pytest.approx((1e-6, 1e-1))
    ratios = [b / a for a, b in zip(found.lrs, found.lrs[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * 23)


def test_what_it_finds_goes_into_a_fit(make: Make) -> None:
    learn = make()
    found = learn.lr_find(**QUICK)
    learn.fit_one_cycle(1, lr=found.rates)
    assert dict(zip(NAMES, learn.groups.rates, strict=True)) == found.rates
    for name in NAMES:
        assert found.rates[name] == found.groups[name].suggestions["valley"] / 3
    assert learn.lr_find(**QUICK, by_group=False).rates.keys() == set(NAMES)


def test_it_finds_the_same_twice(make: Make) -> None:
    learn = make()
    assert learn.lr_find(**QUICK) == learn.lr_find(**QUICK)


def test_frozen_groups_rest_and_get_no_rate(make: Make) -> None:
    learn = make()
    learn.freeze("0.0")
    learn.layer_groups.set_rates({"0.7": 0.0})
    found = learn.lr_find(**QUICK)
    assert found.inactive == ("0.0", "0.7")
    assert list(found.rates) == ["1"]
    assert found.groups["1"].raw == found.together.raw
    assert "Frozen or at rate 0, and so not tried: 0.0, 0.7" in str(found)
    learn.fit(1, lr=found.rates)
    assert learn.groups.rates[1] == 0


def test_batches_are_read_once_if_they_fit_into_memory(make: Make) -> None:
    learn = make()
    reads: list[int] = []
    source = type(learn.dls.train)

    class Reading(source):
        def __iter__(self) -> Any:
            for x, y in super().__iter__():
                reads.append(len(x))
                yield x, y

    learn.dls.train.__class__ = Reading
    found = learn.lr_find(**QUICK, stop_div=False)
    assert len(reads) == len(learn.dls.train) == 6
    assert all(len(curve.raw) == 24 for curve in found.groups.values())
    learn.feature_cache = FeatureCacheConfig(memory=0)
    reads.clear()
    again = learn.lr_find(**QUICK, stop_div=False)
    assert len(reads) > 4 * 24
    for name in NAMES:
        assert again.groups[name].raw == found.groups[name].raw


def test_more_steps_than_batches_and_fewer(make: Make) -> None:
    few = make(dls=TinyLoaders(n=8), batch_norm="keep").lr_find(**QUICK, by_group=False)
    assert len(few.losses) > 12
    many = make(dls=TinyLoaders(n=400)).lr_find(**QUICK, by_group=["1"])
    assert list(many.groups) == ["1"]


def test_batches_that_fit_only_in_part_are_read_on_from_there(make: Make) -> None:
    learn = make()
    found = learn.lr_find(**QUICK, by_group=False, stop_div=False)
    learn.feature_cache = FeatureCacheConfig(memory=3 * 8 * (3 * 16 * 16 * 4 + 8))
    assert learn.lr_find(**QUICK, by_group=False, stop_div=False) == found


def test_several_batches_for_each_step(make: Make) -> None:
    learn = make(accumulate=2)
    found = learn.lr_find(**QUICK, by_group=False)
    assert len(found.losses) > 12


def test_a_loader_of_torch_and_a_model_of_one_group() -> None:
    data = torch.utils.data.TensorDataset(torch.rand(12, 3, 16, 16), torch.arange(12) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)

    class Data:
        train = loader
        valid = loader

    learn = Learner(Data(), tiny_model(), split=1, progress=False)
    before = whole_state(learn)
    found = learn.lr_find(**QUICK)
    assert list(found.groups) == ["all"]
    assert differences(before, whole_state(learn)) == []


def test_a_loss_that_becomes_nan_ends_the_sweep(make: Make) -> None:
    learn = make()
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        value = nn.functional.cross_entropy(outputs, targets)
        return value * math.nan if len(calls) > 18 else value

    learn.loss_func = loss
    found = learn.lr_find(**QUICK, by_group=False, stop_div=False)
    assert len(found.losses) == 18
    assert len(found.together.raw) == 19
    assert found.together.end.startswith("loss nan at")


def test_mistakes_are_told(make: Make) -> None:
    learn = make()
    learn.loss_func = lambda outputs, targets: outputs.sum() * math.nan
    with pytest.raises(TrainingError, match="first batch is nan"):
        learn.lr_find()
    learn = make(opt_func="sgd")
    with pytest.raises(TrainingError, match=r"ended after .* of 24 steps, .*lr_find\(start_lr="):
        learn.lr_find(1e3, 1e9, 24)
    learn.dls.train.x = torch.zeros(0, 3, 16, 16)
    with pytest.raises(TrainingError, match="no training batches"):
        learn.lr_find()


def test_smoothing_has_no_bias_at_its_start() -> None:
    losses = Losses()
    for _ in range(5):
        losses.add(3.0)
    assert losses.smooth == pytest.approx([3.0] * 5)
    losses.add(1e4)
    assert losses.end(stop_div=True) == "diverged"
    assert losses.end(stop_div=False) == ""


def test_a_first_batch_that_is_easy_is_no_divergence() -> None:
    losses = Losses(skip=2)
    for loss in (0.1, 3.0, 3.1, 3.0):
        losses.add(loss)
        assert losses.end(stop_div=True) == ""
    losses.add(900.0)
    assert losses.end(stop_div=True) == "diverged"


def test_the_groups_of_a_model_that_has_changed_are_followed(make: Make) -> None:
    learn = make()
    learn.model[1][4] = nn.Linear(8, 3)
    assert isinstance(learn.groups, LayerGroups)
    found = learn.lr_find(**QUICK, by_group=["1"])
    assert list(found.groups) == ["1"]
