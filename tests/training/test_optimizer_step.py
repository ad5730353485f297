"""Gradients are clipped to a norm, whatever their scale."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, snapshot
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training import Learner
from layergroups.training.loop._optimizer_step import optimizer_step


def norm(learn: Learner) -> float:
    grads = [p.grad for p in learn.model.parameters() if p.grad is not None]
    return float(torch.stack([g.norm() for g in grads]).norm())


class Norms:
    """The norm of the gradients by which the weights have moved."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_step(self, run: Any) -> None:
        self.seen.append(norm(run.learner))


def test_gradients_are_clipped_to_the_norm(make) -> None:
    free, tight = Norms(), Norms()
    make(opt_func="sgd").fit(1, 1e-2, callbacks=[free])
    make(opt_func="sgd", clip=0.05).fit(1, 1e-2, callbacks=[tight])
    assert min(free.seen) > 0.05
    assert tight.seen == pytest.approx([0.05] * 6, rel=1e-3)
    wide = Norms()
    make(opt_func="sgd", clip=1e6).fit(1, 1e-2, callbacks=[wide])
    assert wide.seen == free.seen


def test_frozen_groups_have_no_part_in_the_norm(make) -> None:
    learn, norms = make(opt_func="sgd", clip=0.01), Norms()
    learn.freeze()
    before = snapshot(learn.model[0])
    learn.fit(1, 1e-2, feature_cache=False, callbacks=[norms])
    assert norms.seen == pytest.approx([0.01] * 6, rel=1e-3)
    assert all(torch.equal(t, before[n]) for n, t in learn.model[0].state_dict().items())


def test_several_batches_are_clipped_once_together(make) -> None:
    """As one batch of their size would be: after the mean was taken."""
    ends = []
    for options in ({"batch_size": 8, "accumulate": 2}, {"batch_size": 16, "accumulate": 1}):
        accumulate = options.pop("accumulate")
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
        with torch.no_grad():
            model[1].weight.fill_(0.01)
            model[1].bias.zero_()
        dls = TinyLoaders(n=48, **options)
        learn = make(model, dls=dls, split=1, opt_func="sgd", accumulate=accumulate, clip=0.1)
        dls.train.noise = 0.0
        norms = Norms()
        learn.fit(1, 1e-2, callbacks=[norms])
        assert norms.seen == pytest.approx([0.1] * 3, rel=1e-3)
        ends.append(snapshot(model))
    torch.testing.assert_close(ends[0], ends[1])


def test_scaled_gradients_are_clipped_by_their_true_size() -> None:
    """As in fp16, with the scaler that goes with it."""
    ends = []
    for scale in (1.0, 1024.0):
        model = nn.Linear(4, 2)
        with torch.no_grad():
            model.weight.fill_(0.5)
            model.bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        before = snapshot(model)
        scaler.scale(model(torch.ones(3, 4)).square().sum()).backward()
        optimizer_step(SimpleNamespace(scaler=scaler), optimizer, 0.25)
        step = torch.cat([(before[n] - p).flatten() for n, p in model.state_dict().items()])
        assert float(step.norm()) == pytest.approx(0.25, rel=1e-4)
        ends.append(step)
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("clip", [0, -1, "a", True, float("inf")])
def test_a_norm_that_cannot_be(make, clip: Any) -> None:
    with pytest.raises(TrainingError, match="clip="):
        make(clip=clip)
    learn = make()
    with pytest.raises(TrainingError, match="clip="):
        learn.clip = clip
