"""Law 3 in the midst of a fit: a callback changes the model, the next step is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from layergroups import Learner
from tests.laws.models import TinyResNet
from tests.laws.surgeries import (
    SURGERIES,
    Surgery,
    assert_agree,
    at_the_step,
    optimizer_states,
    replace_head,
)
from tests.training.tiny import TinyLoaders


def learner(tmp_path: Path, **options: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(
        TinyLoaders(n=24), TinyResNet(), progress=False, seed=0, path=tmp_path,
        opt_func=options.pop("opt_func", "adamw"), **options,
    )  # fmt: skip


class Operates:
    """Does surgery before the third step, and records the step of the optimizer."""

    def __init__(self, surgery: Callable[[Any], None], syncs: bool = False) -> None:
        self.surgery, self.syncs = surgery, syncs
        self.change: Any = None

    def before_step(self, run: Any) -> None:
        if run.step != 2:
            return
        self.known = set(run.model.parameters())
        self.before = optimizer_states(run.optimizer)
        self.surgery(run.model)
        self.weights = {n: p.detach().clone() for n, p in run.model.named_parameters()}
        if self.syncs:
            self.change = run.groups.sync()
        self.eye = at_the_step(run.optimizer)
        self.seen = self.eye.__enter__()

    def after_step(self, run: Any) -> None:
        if run.step != 3:
            return
        self.eye.__exit__(None, None, None)
        now = dict(run.model.named_parameters())
        self.still = {n for n, p in now.items() if torch.equal(p, self.weights[n])}
        self.expected = {n for g in run.groups if g.frozen for n, _ in g.named_parameters()}
        assert_agree(run.model, run.groups, run.optimizer)


def check_states(operates: Operates, optimizer: Optimizer) -> None:
    for parameter in operates.known.intersection(
        p for g in optimizer.param_groups for p in g["params"]
    ):
        old, new = operates.before.get(parameter, {}), operates.seen[0].get(parameter, {})
        assert set(old) == set(new)
        assert all(torch.equal(old[key], new[key]) for key in old)


QUICK = SURGERIES[::3]  # test_3_model_is_the_truth.py does them all


@pytest.mark.parametrize(
    "surgery",
    [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SURGERIES],
    ids=lambda s: s.__name__,
)
@pytest.mark.parametrize(
    ("freeze_to", "opt_func"),
    [(-2, "adamw")]
    + [pytest.param(f, o, marks=pytest.mark.slow)
       for f in (0, -1, -2) for o in ("adamw", "sgd") if (f, o) != (-2, "adamw")],
)  # fmt: skip
def test_the_step_after_surgery_is_right(
    surgery: Surgery, freeze_to: int, opt_func: str, tmp_path: Path
) -> None:
    operates = Operates(surgery)
    learn = learner(tmp_path, callbacks=[operates], opt_func=opt_func)
    learn.freeze_to(freeze_to)
    learn.fit(2, 1e-3)
    check_states(operates, learn.opt)
    normed = {n for n in operates.still if n.endswith("bias") and "main" in n}
    assert operates.still - normed == operates.expected - normed
    assert len(learn.layer_groups.changes) == 1
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())


def test_a_callback_that_syncs_first_changes_nothing(tmp_path: Path) -> None:
    weights = []
    for syncs in (False, True):
        operates = Operates(replace_head_alike, syncs=syncs)
        learn = learner(tmp_path, callbacks=[operates])
        learn.fit(1, 1e-3)
        assert (operates.change is not None) == syncs
        weights.append([p.detach().clone() for p in learn.model.parameters()])
    assert all(map(torch.equal, *weights))


def replace_head_alike(model: TinyResNet) -> None:
    torch.manual_seed(5)
    model.fc = nn.Linear(32, 3)


def test_between_fits(tmp_path: Path) -> None:
    learn = learner(tmp_path)
    learn.freeze()
    learn.fit(1, 1e-3)
    before = optimizer_states(learn.opt)
    optimizer = learn.opt
    replace_head(learn.model)
    learn.unfreeze()
    learn.fit(1, 1e-4)
    assert learn.opt is optimizer
    assert_agree(learn.model, learn.layer_groups, learn.opt)
    assert not any(p in learn.opt.state for p in before)  # only the old head had trained


def test_half_way_to_another_type(tmp_path: Path) -> None:
    operates = Operates(lambda model: model.double())
    learn = learner(tmp_path, callbacks=[operates])

    class Inputs:
        def before_step(self, run: Any) -> None:
            if run.step >= 2:
                run.inputs = run.inputs.double()

    learn.callbacks.append(Inputs())
    learn.dls.valid = []
    learn.fit(1, 1e-3)
    (change,) = learn.layer_groups.changes
    assert "are float64 now, were float32" in str(change)
    for parameter, old in operates.before.items():
        new = operates.seen[0][parameter]
        assert torch.equal(new["step"], old["step"])
        assert torch.equal(new["exp_avg"], old["exp_avg"].double())
    assert not operates.still
