"""Law 7 in a loop of one's own: the rate in the table is the rate in the optimizer, always."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as schedulers

from layergroups import LayerGroups
from tests.laws.models import TinyResNet, image

RATES = (1e-4, 1e-3, 1e-2)


def make(rates: Any = RATES, **options: Any) -> tuple[TinyResNet, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = TinyResNet(width=4, blocks=1)
    groups = LayerGroups(model, example_input=image())
    optimizer = AdamW(groups.param_groups(lr=rates), **options)
    groups.attach(optimizer)
    return model, groups, optimizer


def in_use(optimizer: Optimizer) -> tuple[float, ...]:
    rates: dict[int, float] = {}
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        assert rates.setdefault(group["layer_group"], rate) == rate
    return tuple(rates[i] for i in sorted(rates))


CHANGES: dict[str, Callable[[TinyResNet, LayerGroups], object]] = {
    "one rate": lambda m, g: g.set_rates(0.1),
    "some rates": lambda m, g: g.set_rates({"head": 0.7}),
    "a rate of 0": lambda m, g: g.set_rates([0.0, 0.1, 0.2]),
    "saved rates": lambda m, g: g.load_state_dict({**g.state_dict(), "rates": [0.1, 0.2, 0.3]}),
    "param_groups": lambda m, g: g.param_groups(lr=slice(1e-5, 1e-1)),
    "surgery": lambda m, g: (setattr(m, "fc", nn.Linear(16, 4)), g.sync()),
    "surgery, then rates": lambda m, g: (setattr(m, "fc", nn.Linear(16, 4)), g.set_rates(0.3)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("capturable", [True, False])
def test_table_and_optimizer_show_one_rate(change: str, capturable: bool) -> None:
    model, groups, optimizer = make()
    if capturable:  # rates that a captured graph reads
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    held = [id(group["lr"]) for group in optimizer.param_groups]
    CHANGES[change](model, groups)
    assert in_use(optimizer) == groups.rates
    if capturable:
        assert [id(group["lr"]) for group in optimizer.param_groups] == held
    groups.set_rates(RATES)
    assert in_use(optimizer) == RATES


def test_attached_late_it_has_the_rates_of_the_table() -> None:
    _, groups, _ = make()
    late = SGD(groups.param_groups())
    groups.set_rates(0.5)
    groups.attach(late)
    assert in_use(late) == groups.rates


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "steps": lambda o: schedulers.StepLR(o, 2, 0.5),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 10),
    "one cycle": lambda o: schedulers.OneCycleLR(
        o, [g["lr"] * 10 for g in o.param_groups], total_steps=10
    ),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: schedulers.CyclicLR(
        o, [g["lr"] for g in o.param_groups], [g["lr"] * 10 for g in o.param_groups], 2
    ),
    "sequence": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=2), schedulers.LambdaLR(o, lambda e: 0.8)], [2]
    ),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
def test_a_scheduler_of_torch_continues_from_the_new_rates(kind: str) -> None:
    """Twice the rates in the middle is as twice the rates from the beginning."""
    runs = []
    for when in (0, 4):
        _, groups, optimizer = make()
        if when == 0:
            groups.set_rates([2 * rate for rate in RATES])
        scheduler = SCHEDULERS[kind](optimizer)
        for i in range(8):
            if i == when == 4:
                groups.set_rates([2 * rate for rate in RATES])
            if i == 5:
                runs.append(in_use(optimizer))
            scheduler.step()
        runs.append(in_use(optimizer))
    assert runs[0] == pytest.approx(runs[2])
    assert runs[1] == pytest.approx(runs[3])


def test_attached_to_a_scheduler_that_has_begun_it_has_the_rates_of_the_table() -> None:
    _, groups, _ = make()
    late = SGD(groups.param_groups())
    scheduler = schedulers.LambdaLR(late, lambda epoch: 0.5**epoch)
    late.step()
    scheduler.step()
    groups.set_rates(0.4)
    groups.attach(late)
    assert in_use(late) == (0.2, 0.2, 0.2)
    late.step()
    scheduler.step()
    assert in_use(late) == (0.1, 0.1, 0.1)


def test_a_rate_of_0_and_back_has_the_multiplier_of_the_scheduler() -> None:
    groups, optimizer = plain()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    name = groups.names[0]
    groups.set_rates({name: 0.0})
    groups.set_rates({name: 0.1})
    assert {g["lr"] for g in optimizer.param_groups} == {0.05}


def test_states_of_optimizer_and_groups_load_in_any_order() -> None:
    groups, optimizer = plain()
    groups.set_rates(0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    saved = optimizer.state_dict(), groups.state_dict()
    for order in ((0, 1), (1, 0)):
        groups, optimizer = plain()
        for which in order:
            (optimizer, groups)[which].load_state_dict(saved[which])
        assert {g["lr"] for g in optimizer.param_groups} == {0.005}
        assert {g["initial_lr"] for g in optimizer.param_groups} == {0.01}


def plain() -> tuple[LayerGroups, torch.optim.Optimizer]:
    """Two groups at 0.1, attached to SGD."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = LayerGroups(model, split=["0", "2"], example_input=torch.zeros(3, 4))
    optimizer = torch.optim.SGD(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    return groups, optimizer
