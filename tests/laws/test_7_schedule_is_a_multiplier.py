"""Law 7: the rate in the optimizer is the base rate of the group times the schedule, no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from layergroups import LayerGroups, Learner, decay
from layergroups.training import Flat, FlatCos, OneCycle, Schedule
from tests.training.tiny import TinyLoaders, tiny_model

RATES = st.floats(1e-8, 10.0)
PARTS = st.floats(0.0, 1.0)
DIVISORS = st.floats(0.5, 1e6)
MOMENTA = st.floats(0.0, 0.999)
SCHEDULES = st.one_of(
    st.just(Flat()),
    st.builds(FlatCos, PARTS, DIVISORS),
    st.builds(OneCycle, DIVISORS, DIVISORS, PARTS, st.tuples(MOMENTA, MOMENTA, MOMENTA)),
)


@dataclass
class Checks:
    """At every step: rates and momentum are what schedule and groups say, to the bit."""

    schedule: Schedule
    own: float | None = None
    change: Callable[[Any], None] | None = None
    steps: list[int] = field(default_factory=list)

    def before_step(self, run: Any) -> None:
        if self.change is not None and run.step == run.steps // 2:
            self.change(run)

    def after_step(self, run: Any) -> None:
        done = (run.step - 1) / run.steps
        wanted = [rate * self.schedule.multiplier(done) for rate in run.groups.rates]
        momentum = self.schedule.momentum(done)
        assert len(run.optimizer.param_groups) == 2 * len(wanted)
        for group in run.optimizer.param_groups:
            assert group["lr"] == wanted[group["layer_group"]]
            in_use = group["betas"][0] if "betas" in group else group.get("momentum")
            assert in_use == (self.own if momentum is None else momentum)
        self.steps.append(run.step)


def learner(opt_func: str = "adamw") -> Learner:
    return Learner(TinyLoaders(n=24), tiny_model(), split=["0.0", "0.7", "1"], progress=False,
                   path=Path("unused"), opt_func=opt_func, seed=0)  # fmt: skip


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedule=SCHEDULES, rates=st.lists(RATES, min_size=3, max_size=3), epochs=st.integers(1, 2))
def test_any_schedule_multiplies_any_rates(
    schedule: Schedule, rates: list[float], epochs: int
) -> None:
    learn = learner()
    small = [rate * 1e-3 for rate in rates]  # so that no loss runs away
    learn.layer_groups.set_rates(small)
    learn.callbacks.append(checks := Checks(schedule, own=0.9))
    learn.fit_phase(epochs, schedule, "fit")
    assert checks.steps == list(range(1, 3 * epochs + 1))
    assert learn.layer_groups.rates == tuple(small)
    assert {group["betas"][0] for group in learn.opt.param_groups} == {0.9}


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "nadam"])
def test_momentum_of_other_optimizers(name: str) -> None:
    learn = learner(name)
    own = {"sgd": 0.9, "rmsprop": 0, "nadam": 0.9}[name]
    schedule = OneCycle() if own else Flat()
    learn.callbacks.append(checks := Checks(schedule, own=own))
    learn.fit_phase(2, schedule, "fit")
    assert len(checks.steps) == 6


def freeze(run: Any) -> None:
    run.groups.freeze()


def unfreeze(run: Any) -> None:
    run.groups.freeze()
    run.groups.unfreeze()


def replace_head(run: Any) -> None:
    run.model[1][4] = nn.Linear(8, 3)


def add_block(run: Any) -> None:
    run.model[0].append(nn.Conv2d(8, 8, 1))


def other_rates(run: Any) -> None:
    run.groups.set_rates({"0.7": 3e-5})


def other_model(run: Any) -> None:
    run.learner.model = nn.Sequential(run.model[0], tiny_model()[1])


@pytest.mark.parametrize(
    "change", [freeze, unfreeze, replace_head, add_block, other_rates, other_model],
    ids=lambda change: change.__name__,
)  # fmt: skip
@pytest.mark.parametrize("schedule", [Flat(), OneCycle(), FlatCos()], ids=lambda s: str(s)[:8])
def test_after_freezing_and_surgery_in_the_middle_of_a_fit(
    schedule: Schedule, change: Callable[[Any], None]
) -> None:
    learn = learner()
    learn.layer_groups.set_rates(slice(1e-5, 1e-3))
    learn.callbacks.append(checks := Checks(schedule, own=0.9, change=change))
    learn.fit_phase(2, schedule, "fit")
    assert len(checks.steps) == 6


@pytest.mark.parametrize(
    "lr", [3e-4, slice(1e-5, 2e-3), slice(7e-3), [1e-5, 2.5e-4, 0.1], decay(1e-3, 0.65)], ids=str
)
def test_the_table_shows_the_rates_that_a_flat_fit_uses(lr: Any) -> None:
    learn = learner()
    used: list[list[float]] = []

    class Notes:
        def after_step(self, run: Any) -> None:
            used.append([group["lr"] for group in run.optimizer.param_groups])

    learn.callbacks.append(Notes())
    learn.fit(1, lr)
    shown = rates_in_table(learn.layer_groups)
    for rates in used:
        assert shown == pytest.approx(rates[::2], rel=1e-3)
        assert rates[::2] == rates[1::2]
    assert learn.history[-1].lrs == tuple(used[-1][::2]) == learn.layer_groups.rates


@given(rates=st.lists(RATES, min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_table_shows_any_rates(rates: list[float]) -> None:
    GROUPS.set_rates(rates)
    assert rates_in_table(GROUPS) == pytest.approx(rates, rel=1e-3)
    made = GROUPS.param_groups()
    assert [group["lr"] for group in made][::2] == rates


def rates_in_table(groups: LayerGroups) -> list[float]:
    rows = [line.split() for line in str(groups).splitlines()]
    heading = next(row for row in rows if "rate" in row and "group" in row)
    assert heading.index("rate") > 0
    found = []
    for row in rows:
        if row and row[0].isdigit():
            group = groups[int(row[0])]
            total = f"{sum(p.numel() for p in group.parameters()):,d}"
            found.append(float(row[row.index(total) + 2]))
    return found


GROUPS = LayerGroups(tiny_model(), ["0.0", "0.7", "1"], example_input=torch.zeros(2, 3, 16, 16))
