"""What is tried on a learner leaves no trace, however it ends."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.laws.test_8_looking_changes_nothing import differences
from tests.training.finding import NAMES, QUICK, Counting, learner, whole_state
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from torch import Tensor, nn

from layergroups.errors import TrainingError
from layergroups.training import Learner


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


def vector(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def raises(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("no such class")


def number(outputs: Tensor, targets: Tensor) -> float:
    return 1.0


def nan(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum() * float("nan")


class Fails:
    def before_step(self, run: Any) -> None:
        raise RuntimeError("broken")


FITS: dict[str, Any] = {
    "fit": lambda learn, **saved: learn.fit(1, 3e-2, **saved),
    "head": lambda learn, **saved: learn.fine_tune(1, 3e-2, **saved),
    "late": lambda learn, **saved: learn.fine_tune(1, 3e-2, freeze_epochs=0, **saved),
    "thaw": lambda learn, **saved: learn.gradual_unfreeze(3, 3e-2, **saved),
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("wrong", [vector, raises, number, nan, Fails])
@pytest.mark.parametrize("trained", [True, False])
def test_a_refused_fit_changes_nothing(fit: str, wrong: Any, trained: bool, tmp_path: Any) -> None:
    learn = learner(seed=None)
    learn.model[0].insert(1, nn.Dropout(0.5))
    if trained:
        learn.fit(1)
    learn.freeze("0.8")
    learn.model[0][0].weight.requires_grad_(False)
    _ = learn.placed_model(), learn.layer_groups, random.random(), numpy.random.rand()
    for i, module in enumerate(learn.model.modules()):
        module.training = i % 3 == 0
    right = learn.loss_func
    if wrong is Fails:
        learn.callbacks.append(Fails())
    else:
        learn.loss_func = wrong
    before = whole_state(learn)
    with pytest.raises(TrainingError):
        FITS[fit](learn, checkpoint_dir=tmp_path)
    assert differences(before, whole_state(learn)) == []
    learn.loss_func, learn.callbacks = right, []
    FITS[fit](learn, checkpoint_dir=tmp_path)  # what was refused left no checkpoint behind


def test_a_second_phase_that_is_refused_leaves_the_end_of_the_first() -> None:
    learn, ends = learner(), []

    class Late:
        def before_step(self, run: Any) -> None:
            if run.phase == "all":
                raise RuntimeError("broken")

        def after_all(self, run: Any) -> None:
            ends.append(whole_state(learn))

    with pytest.raises(TrainingError, match="broken"):
        learn.fine_tune(2, 1e-2, callbacks=[Late()])
    assert differences(ends[-2], whole_state(learn)) == []
