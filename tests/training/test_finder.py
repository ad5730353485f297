"""The learning-rate finder: what it finds, and that it leaves no trace."""

from __future__ import annotations

import math
import os
import random
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.laws.test_8_looking_changes_nothing import differences, learner_state
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from torch import Tensor, nn

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import Learner
from layergroups.training.feature_cache import FeatureCacheConfig
from layergroups.training.lr_finder._finder import Losses
from layergroups.training.lr_finder._found_rates import (
    NoSuggestionError,
    minimum,
    slide,
    steep,
    valley,
)
from layergroups.training.state._progress import show

Make = Callable[..., Learner]
NAMES = ["0.0", "0.7", "1"]
QUICK: dict[str, Any] = {"start_lr": 1e-5, "end_lr": 10, "num_it": 24}


def whole_state(learn: Learner) -> dict[str, Any]:
    """All that law 8 names, and what of groups, data and store it might overlook."""
    groups = learn.groups
    return {
        "learner": learner_state(learn),
        "groups": {k: v for k, v in vars(groups).items() if k in ("_frozen", "_rates", "_fixed")},
        "norms": groups.norms_train,
        "counts": (learn.epochs_done, learn.fits_done, learn.history, learn.opt is None),
        "callbacks": list(map(id, learn.callbacks)),
        "store": {k: id(v) for k, v in vars(learn.cache).items()},
        "data": getattr(learn.dls.train, "epoch", None),
        "grad objects": [id(p.grad) for p in learn.model.parameters()],
        "hooks": [list(map(id, m._forward_pre_hooks.values())) for m in learn.model.modules()],
        "norm policy": learn.norms.state_dict(learn.model),
    }


class Counting(nn.Module):
    """Counts its calls in an attribute, a list, a tensor that is no buffer, and a new buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[int] = []
        self.mean = torch.zeros(8)
        self.register_buffer("peak", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.mean.add_(x.detach().mean((0, 2, 3)))
        self.peak = torch.maximum(self.peak, x.detach().max())
        return x


def learner(opt_func: Any = "adamw", **options: Any) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
        model[0].insert(3, Counting())
    made = {"split": ["0.0", "0.8", "1"], "progress": False, "seed": 0, **options}
    return Learner(TinyLoaders(n=24), model, opt_func=opt_func, **made)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frozen=st.lists(st.sampled_from(["0.0", "0.8"]), unique=True),
    norm=st.sampled_from(["freeze", "train"]),
    opt_func=st.sampled_from(["adamw", "sgd", "rmsprop"]),
    trained=st.booleans(),
    gradients=st.booleans(),
    modes=st.lists(st.booleans(), min_size=3, max_size=3),
    seed=st.sampled_from([None, 3]),
)
def test_it_leaves_everything_as_it_was(
    frozen: list[str], norm: str, opt_func: str, trained: bool, gradients: bool, modes: list[bool],
    seed: int | None,
) -> None:  # fmt: skip
    learn = learner(opt_func, seed=seed)
    if frozen:
        learn.layer_groups.freeze(*frozen, norm=norm)
    learn.layer_groups.set_rates({"0.0": 1e-4, "1": 1e-2})
    if trained:
        learn.fit(1)
    if gradients:
        learn.model(torch.ones(4, 3, 16, 16)).sum().backward()
    for i, module in enumerate(learn.model.modules()):
        module.training = modes[i % 3]
    _ = learn.placed_model(), random.random(), numpy.random.rand()
    before = whole_state(learn)
    learn.lr_find(**QUICK)
    assert differences(before, whole_state(learn)) == []


def test_the_fit_after_it_is_the_fit_without_it() -> None:
    one, other = learner(), learner()
    for learn in (one, other):
        torch.manual_seed(5)
        learn.fit(1)
    one.lr_find(**QUICK)
    for learn in (one, other):
        learn.fit_one_cycle(2)
    assert differences(one.model.state_dict(), other.model.state_dict()) == []
    assert one.history.to_dict()[-1]["train_loss"] == other.history.to_dict()[-1]["train_loss"]


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [3, 40])
def test_an_exception_in_mid_sweep_leaves_no_trace_either(
    call: int, failure: BaseException
) -> None:
    learn = learner()
    learn.fit(1)
    learn.freeze("0.0")
    left = [call]

    def fails(module: Counting, args: object, output: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise failure

    learn.model[0][3].register_forward_hook(fails)
    before = whole_state(learn)
    with pytest.raises(type(failure)):
        learn.lr_find(**QUICK)
    assert differences(before, whole_state(learn)) == []


def test_ctrl_c_waits_until_all_is_put_back() -> None:
    learn = learner()
    learn.fit(1)
    counter = learn.model[0][3]

    def interrupts(module: Counting, args: object, output: object) -> None:
        if module.calls % 7 == 0:
            os.kill(os.getpid(), signal.SIGINT)

    counter.register_forward_hook(interrupts)
    before = whole_state(learn)
    with pytest.raises(KeyboardInterrupt):
        learn.lr_find(**QUICK)
    assert differences(before, whole_state(learn)) == []


def test_a_loss_that_holds_the_model_sees_it_train_and_gets_it_back() -> None:
    """As a penalty on the distance from the pretrained weights does."""
    seen: set[float] = set()
    model = pretrained(tiny_model())
    weight = model[0][0].weight

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(float(weight.detach().sum()))
        return nn.functional.cross_entropy(outputs, targets) + 1e-3 * weight.square().sum()

    learn = Learner(TinyLoaders(n=24), model, split=NAMES, progress=False, loss_func=loss)
    before = whole_state(learn)
    learn.lr_find(**QUICK)
    assert len(seen) > 10
    assert differences(before, whole_state(learn)) == []


@pytest.mark.parametrize("place", ["in it", "around it"])
def test_a_compiled_model_is_tried_without_compiling_and_stays_compiled(place: str) -> None:
    model: Any = pretrained(tiny_model())
    if place == "in it":
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    learn = Learner(TinyLoaders(n=24), model, split=NAMES, progress=False)
    compiled = learn.groups.model._compiled_call_impl
    before = whole_state(learn)
    assert len(learn.lr_find(**QUICK).groups) == 3
    assert differences(before, whole_state(learn)) == []
    assert learn.groups.model._compiled_call_impl is compiled


def test_layers_that_make_their_weights_when_they_run() -> None:
    model = pretrained(tiny_model())
    nn.utils.parametrizations.weight_norm(model[0][7])
    nn.utils.parametrizations.spectral_norm(model[1][4])
    learn = Learner(TinyLoaders(n=24), model, split=NAMES, progress=False)
    before = whole_state(learn)
    learn.lr_find(**QUICK)
    assert differences(before, whole_state(learn)) == []


class Grows(nn.Module):
    """Resizes a buffer in place to the largest batch that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.resize_(max(len(self.seen), len(x))).fill_(1.0)
        return x


def test_a_buffer_that_was_resized_in_place_has_its_size_again() -> None:
    learn = learner()
    learn.model[0][3] = Grows()
    learn.layer_groups.sync()
    before = whole_state(learn)
    learn.lr_find(**QUICK)
    assert differences(before, whole_state(learn)) == []


class Stubborn(torch.Generator):
    """Cannot be set back."""

    def set_state(self, state: Tensor) -> Stubborn:
        raise RuntimeError("cannot be set")


def test_where_one_part_cannot_be_put_back_all_others_are() -> None:
    learn = learner()
    learn.fit(1)
    learn.dls.train.generator = Stubborn()
    before = whole_state(learn)
    with pytest.raises(RuntimeError, match="cannot be set"):
        learn.lr_find(**QUICK, by_group=False)
    assert differences(before, whole_state(learn)) == []


# -- what it finds -------------------------------------------------------------------------------


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


def test_it_unpacks_as_in_fastai_and_has_what_was_asked_for(make: Make) -> None:
    def mine(rates: Any, losses: Any, factor: float = 1.0) -> float:
        return float(rates[0]) * factor

    learn = make()
    asked = {"by_group": False, "suggest_funcs": ("steep", minimum, partial(mine, factor=2.0))}
    steepest, low, own = found = learn.lr_find(**QUICK, **asked)
    assert found.suggestions == {"all": {"steep": steepest, "minimum": low, "mine": own}}
    assert (found.steep, found.minimum) == (steepest, low)
    assert own == 2 * found.lrs[2]
    assert found.rates == dict.fromkeys(NAMES, steepest)
    with pytest.raises(TrainingError, match=r"no suggestion 'valley'; there are steep, minimum"):
        _ = found.valley


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


def test_batches_are_read_once_and_frozen_layers_run_once(make: Make) -> None:
    learn = make()
    reads: list[int] = []
    runs: list[int] = []
    source = type(learn.dls.train)

    class Reading(source):  # type: ignore[misc,valid-type] # its class is found at run time
        def __iter__(self) -> Any:
            for x, y in super().__iter__():
                reads.append(len(x))
                yield x, y

    learn.dls.train.__class__ = Reading
    inside = learn.model[0][0]
    original = inside.forward

    def counted(x: Tensor) -> Tensor:
        nonlocal runs
        runs += [len(x)] if len(x) == 8 else []  # whole batches, not the trials with a few items
        return original(x)

    inside.forward = counted
    found = learn.lr_find(**QUICK, stop_div=False)
    assert len(reads) == len(learn.dls.train) == 6
    assert all(len(curve.raw) == 24 for curve in found.groups.values())
    assert len(runs) == 24 + 24 + 6 + 6  # of all, of "0.0"; then each batch once
    learn.feature_cache = FeatureCacheConfig(memory=0)
    reads, runs = [], []
    again = learn.lr_find(**QUICK, stop_div=False)
    assert len(reads) > 4 * 24
    assert len(runs) == 4 * 24
    for name in NAMES:
        assert again.groups[name].raw == pytest.approx(found.groups[name].raw, rel=1e-3)


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
    with pytest.raises(TrainingError, match=r"first batch is nan, before any weight has moved"):
        learn.lr_find()
    learn = make(opt_func="sgd")
    with pytest.raises(TrainingError, match=r"ended after .* of 24 steps, .*lr_find\(start_lr="):
        learn.lr_find(1e3, 1e9, 24)
    learn.dls.train.x = torch.zeros(0, 3, 16, 16)
    with pytest.raises(TrainingError, match="no training batches"):
        learn.lr_find()


# -- looking at it -------------------------------------------------------------------------------


def test_it_prints_and_draws(make: Make, tmp_path: Path) -> None:
    learn = make()
    found = learn.lr_find(**QUICK)
    lines = str(found).splitlines()
    rows = [line.split()[0] for line in lines if line.strip()]
    assert rows[:1] == ["trains"]
    assert [row for row in rows if row in ("all", *NAMES)] == ["all", *NAMES]
    assert "learn.fit_one_cycle(3, lr=found.rates)" in str(found)
    assert all(len(line) <= 100 for line in lines)
    assert re.fullmatch(r"FoundRates\(valley=.*, minimum=.*, rates=\{.*\}\)", repr(found))
    assert found.to_dict()["groups"]["1"]["lrs"] == found.groups["1"].lrs
    assert found.plot(tmp_path / "rates.png").stat().st_size > 10_000
    figure: Any = found.plot()
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert len(curves) == 4
    assert list(curves[-1].get_ydata()) == list(found.losses[2:])  # without the first tenth


def test_one_group_that_trains_has_one_curve(make: Make) -> None:
    learn = make()
    learn.freeze("0.0", "0.7")
    found = learn.lr_find(**QUICK)
    assert found.groups["1"].raw == found.together.raw
    figure: Any = found.plot()
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    names = [text.get_text().split(",")[0] for text in figure.legends[0].get_texts()]
    assert len(curves) == 1
    assert (names[0], "all" in names) == ("1", False)
    assert [line.split()[0] for line in str(found).splitlines() if "at " in line][:1] == ["1"]
    assert found.suggestions["all"] == found.suggestions["1"]


def test_a_kind_of_suggestion_that_finds_no_rate_is_left_out_with_the_reason(make: Make) -> None:
    learn = make()
    found = learn.lr_find(**QUICK, suggest_funcs=("slide", "valley"), by_group=["1"])
    assert list(found.suggestions["all"]) == ["valley"]
    assert "slide needs 30 steps to look at, not " in found.together.missing["slide"]
    none, some = found
    assert (math.isnan(none), some) == (True, found.valley)
    assert found.rates == found.rates_by("valley")
    for kind in (lambda: found.slide, lambda: found.rates_by("slide")):
        with pytest.raises(TrainingError, match=r"no suggestion 'slide'; .*The reason: slide need"):
            kind()
    assert "slide needs 30 steps" in str(found)
    marks: Any = found.plot().legends[0].get_texts()  # type: ignore[union-attr] # a figure
    assert [text.get_text() for text in marks][-1] == "valley"
    with pytest.raises(TrainingError, match=r"slide needs 30 steps.*suggest_funcs=\"valley\""):
        learn.lr_find(**QUICK, suggest_funcs="slide")


def test_a_picture_is_shown_in_a_notebook_only(make: Make) -> None:
    found = make().lr_find(**QUICK, by_group=False)
    assert not show(found.figure)


# -- suggestions ---------------------------------------------------------------------------------

RATES = [10 ** (-6 + i / 10) for i in range(60)]


def bowl() -> list[float]:
    """Even up to 10, down by even steps, steeper from 30, to the bottom at 45, then up."""
    losses = [2.0] * 10
    while len(losses) < 60:
        step = -0.01 if len(losses) <= 30 else -0.03 if len(losses) <= 45 else 0.2
        losses.append(losses[-1] + step)
    return losses


def test_suggestions_on_a_curve_whose_answers_are_known() -> None:
    losses = bowl()
    assert losses.index(min(losses)) == 45
    assert minimum(RATES, losses) == pytest.approx(RATES[45] / 10)
    assert RATES[30] <= steep(RATES, losses) < RATES[45]
    assert valley(RATES, losses) == RATES[45 - 37 + 12 + 6]  # the fall is 37 losses long
    assert slide(RATES, losses) == RATES[30 - 15]  # from where slopes are even up to the turn


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.floats(0.1, 10), min_size=4, max_size=60))
def test_a_suggestion_is_a_rate_of_the_sweep_whatever_the_losses(losses: list[float]) -> None:
    rates = RATES[: len(losses)]
    for suggest in (valley, steep):
        assert suggest(rates, losses) in rates
    with suppress(NoSuggestionError):
        assert slide(rates, losses) in rates[: len(losses) - 15]
    assert minimum(rates, losses) * 10 == pytest.approx(rates[losses.index(min(losses))])


def test_a_slide_needs_room_and_an_even_stretch() -> None:
    with pytest.raises(NoSuggestionError, match="needs 30 steps to look at, not 29"):
        slide(RATES[:29], bowl()[:29])
    steeper_and_steeper = [10.0 - 0.01 * i**2 for i in range(40)]  # slopes differ everywhere
    with pytest.raises(NoSuggestionError, match="no stretch over which the loss changes evenly"):
        slide(RATES[:40], steeper_and_steeper)


def test_a_valley_is_the_longest_fall_though_others_are_deeper() -> None:
    losses = [5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3, 9.0, 8.9, 1.0, 9.0]
    assert valley(RATES[:12], losses) == RATES[10 - 9 + 3 + 1]


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
