"""Law 3: every change is noticed, and the optimizer's hook has no side effects."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from layergroups import LayerGroups
from tests.laws.models import Residual, TinyResNet, image
from tests.laws.surgeries import Surgery, append_block, assert_agree, optimizer_states


def make(width: int = 8) -> tuple[TinyResNet, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = TinyResNet(width)
    groups = LayerGroups(model, example_input=image())
    optimizer = SGD(groups.param_groups(lr=1e-3), momentum=0.9)
    groups.attach(optimizer)
    return model, groups, optimizer


def backward(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(image()).square().mean().backward()


def test_a_functional_call_is_not_surgery() -> None:
    model, groups, optimizer = make()
    backward(model, optimizer)
    optimizer.step()
    held = optimizer_states(optimizer)
    others = {n: nn.Parameter(p.detach() + 1) for n, p in model.named_parameters()}
    torch.func.functional_call(model.train(), others, (image(),))
    assert groups.changes == ()
    assert optimizer_states(optimizer).keys() == held.keys()


def test_another_name_alone_is_seen_and_until_then_does_no_harm() -> None:
    model, groups, optimizer = make()
    prune.l1_unstructured(model.fc, "weight", amount=0.3)
    backward(model, optimizer)
    optimizer.step()
    prune.remove(model.fc, "weight")  # the same parameter, again last in its module
    backward(model, optimizer)
    optimizer.step()
    groups.freeze()
    change = groups.changes[-1]
    assert change.renamed == (("fc.weight_orig", "fc.weight"),)
    assert {n for n, _ in groups["head"].named_parameters()} == {"fc.weight", "fc.bias"}


def test_lazy_layers_that_come_later_are_taken_in_when_they_have_run() -> None:
    model, groups, optimizer = make()
    model.fc = nn.LazyLinear(3)
    assert groups.sync() is not None
    backward(model, optimizer)
    optimizer.step()
    assert_agree(model, groups, optimizer)
    assert [n for n, _ in groups["head"].named_parameters()] == ["fc.weight", "fc.bias"]


def test_a_scheduler_continues_after_surgery() -> None:
    model, groups, optimizer = make()
    scheduler = OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=6)
    held = [id(g) for g in optimizer.param_groups]
    for i in range(5):
        backward(model, optimizer)
        if i == 2:
            append_block(model)
        optimizer.step()
        scheduler.step()
    assert [id(g) for g in optimizer.param_groups] == held
    assert_agree(model, groups, optimizer)
    assert len(groups.changes) == 1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscales", [True, False])
def test_a_grad_scaler_scales_new_parameters(fused: bool, unscales: bool) -> None:
    """One step with surgery at once is the step that a loop without a scaler does."""
    results = []
    for scaled in (True, False):
        torch.manual_seed(0)
        model = TinyResNet()
        groups = LayerGroups(model, example_input=image())
        optimizer = SGD(groups.param_groups(lr=0.1), momentum=0.9, fused=fused)
        groups.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
        model.fc = nn.Linear(32, 4)
        scaler.scale(model(image()).square().mean()).backward()
        if unscales:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        results.append([p.detach().clone() for p in model.parameters()])
        assert groups.changes
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_a_new_parameter_without_finite_gradient_waits_for_the_next_step() -> None:
    model, groups, optimizer = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    model.fc = nn.Linear(32, 4)
    scaler.scale(model(image()).square().mean()).backward()
    assert model.fc.weight.grad is not None
    model.fc.weight.grad.fill_(float("inf"))
    weight = model.fc.weight.detach().clone()
    scaler.step(optimizer)
    assert torch.equal(model.fc.weight, weight)
    assert_agree(model, groups, optimizer)


def test_accelerates_wrapper_is_seen_through() -> None:
    from accelerate import Accelerator

    model, groups, optimizer = make()
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(optimizer)
    groups.attach(prepared)
    model.fc = nn.Linear(32, 4)
    accelerator.backward(model(image()).square().mean())
    weight = model.fc.weight.detach().clone()
    prepared.step()
    assert not torch.equal(model.fc.weight, weight)
    assert_agree(model, groups, optimizer)


def test_two_optimizers_follow_one_model() -> None:
    model, groups, _ = make()
    made = groups.param_groups(lr=1e-2)
    body = SGD([g for g in made if g["layer_group"] < 2], momentum=0.9)
    head = AdamW([g for g in made if g["layer_group"] == 2])
    groups.attach(body)
    groups.attach(head)
    append_block(model)
    model.fc = nn.Linear(32, 4)
    backward(model, head)
    body.step()
    head.step()
    held = [p for o in (body, head) for g in o.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == set(model.parameters())
    assert {p for g in head.param_groups for p in g["params"]} == set(model.fc.parameters())
    assert len(groups.changes) == 1


def test_an_optimizer_follows_the_groups_that_it_was_attached_to_last() -> None:
    model, groups, optimizer = make()
    other = LayerGroups(model, example_input=image())
    other.attach(optimizer)
    append_block(model)
    backward(model, optimizer)
    optimizer.step()
    assert (len(groups.changes), len(other.changes)) == (0, 1)
    groups.attach(optimizer)
    assert len(groups.changes) == 1
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_an_optimizer_attached_late_is_brought_in_step() -> None:
    model, groups, _ = make()
    late = AdamW(groups.param_groups(lr=1e-3))
    append_block(model)
    assert groups.sync()
    groups.attach(late)
    assert_agree(model, groups, late)


def test_copies_of_the_optimizer_do_not_follow() -> None:
    model, _, optimizer = make()
    backward(model, optimizer)
    optimizer.step()
    before = sum(len(g["params"]) for g in optimizer.param_groups)
    twin = copy.deepcopy(optimizer)
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    append_block(model)
    backward(model, optimizer)
    optimizer.step()
    for copied in (twin, loaded):
        assert not copied._optimizer_step_pre_hooks
        copied.step()
        assert sum(len(g["params"]) for g in copied.param_groups) == before
    assert sum(len(g["params"]) for g in optimizer.param_groups) == before + 6


def test_a_copy_of_the_groups_is_a_view_on_the_copied_model() -> None:
    model, groups, optimizer = make()
    groups.freeze()
    twin = copy.deepcopy(groups)
    held = optimizer_states(optimizer)
    assert twin.model is not model
    twin.model.fc = nn.Linear(32, 7)
    change = twin.sync()
    assert change is not None
    assert len(change.added) == 2
    assert groups.sync() is None
    assert_agree(model, groups, optimizer)
    assert optimizer_states(optimizer).keys() == held.keys()


def test_parameter_groups_of_others_are_left_alone() -> None:
    model, _, optimizer = make()
    extra = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [extra]})
    append_block(model)
    backward(model, optimizer)
    extra.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.param_groups[-1]["params"] == [extra]
    assert not torch.equal(extra, torch.ones(2))


def test_groups_and_optimizers_are_garbage_collected() -> None:
    model, groups, optimizer = make()
    refs = [weakref.ref(groups), weakref.ref(optimizer)]
    gc.collect()
    gc.disable()
    try:
        del optimizer
        assert refs[1]() is None
        del groups
    finally:
        gc.enable()
    gc.collect()
    assert refs[0]() is None
    del model


def test_dead_parameters_are_let_go_after_the_next_look() -> None:
    model, groups, optimizer = make()
    backward(model, optimizer)
    optimizer.step()
    dead = weakref.ref(model.fc.weight)
    model.fc = nn.Linear(32, 4)
    groups.sync()
    gc.collect()
    assert dead() is None


@pytest.mark.parametrize("surgery", [append_block])
def test_parameters_that_join_a_frozen_group_do_not_train(surgery: Surgery) -> None:
    model, groups, optimizer = make()
    groups.freeze()
    surgery(model)
    backward(model, optimizer)
    new = model.layer3[2].main[0][0].weight
    assert new.grad is None  # frozen before the model ran
    before = new.detach().clone()
    optimizer.step()
    assert torch.equal(new, before)


def test_a_fused_sgd_with_momentum_takes_new_parameters() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    optimizer = SGD(groups.param_groups(lr=0.01), momentum=0.9, fused=True)
    plain = copy.deepcopy(model)
    own = LayerGroups(plain, example_input=image())
    other = SGD(own.param_groups(lr=0.01), momentum=0.9)
    groups.attach(optimizer)
    own.attach(other)
    x = image()
    for number in range(3):
        for net, opt in ((model, optimizer), (plain, other)):
            if number == 1:
                with torch.random.fork_rng():
                    torch.manual_seed(3)
                    net.layer3.append(Residual(32, 32))
            net.eval()
            opt.zero_grad()
            net(x).square().mean().backward()
            opt.step()
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)
