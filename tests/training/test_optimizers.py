from functools import partial

import pytest
import timm
import torch
from tests.training.tiny import moved, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import Learner
from layergroups.training.optim._optimizers import (
    build_optimizer,
    rates_in_use,
    set_momentum,
    set_rates,
)


@pytest.fixture
def groups() -> LayerGroups:
    return LayerGroups(tiny_model(), ["0.0", "0.7", "1"], example_input=torch.zeros(2, 3, 16, 16))


def test_names_in_any_case_classes_and_callables(groups: LayerGroups) -> None:
    made = [
        build_optimizer(given, groups.param_groups(), lr=0.1)
        for given in ("adamw", "AdamW", torch.optim.AdamW, partial(torch.optim.AdamW, eps=1e-5))
    ]
    assert {type(optimizer) for optimizer in made} == {torch.optim.AdamW}
    assert made[-1].defaults["eps"] == 1e-5
    assert made[0].defaults["fused"]


def test_sgd_by_name_has_momentum(groups: LayerGroups) -> None:
    assert build_optimizer("sgd", groups.param_groups(), 0.1).defaults["momentum"] == 0.9
    own = build_optimizer(torch.optim.SGD, groups.param_groups(), 0.1)
    assert own.defaults["momentum"] == 0


def test_frozen_groups_are_in_it(groups: LayerGroups) -> None:
    groups.freeze()
    optimizer = build_optimizer("adamw", groups.param_groups(), lr=0.1)
    assert {group["layer_group"] for group in optimizer.param_groups} == {0, 1, 2}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("adamz", "adamw"),
        ("lamp", "'lamb'"),
        ("timm:nothing", "list_optimizers"),
        ("muon", "timm:muon"),
        ("adahessian", "gradients of gradients"),
        (3, "adamw"),
        (torch.optim.LBFGS, "partial"),
        (lambda groups: torch.optim.SGD([p for g in groups for p in g["params"]]), "groups"),
        (lambda groups: None, "returned a NoneType"),
    ],
)
def test_what_makes_no_optimizer_of_the_groups_is_refused(given, says, groups) -> None:
    with pytest.raises(TrainingError, match=says):
        build_optimizer(given, groups.param_groups(), lr=0.1)


def test_rates_are_base_rate_times_multiplier(groups: LayerGroups) -> None:
    optimizer = build_optimizer("adamw", groups.param_groups(), lr=0.1)
    set_rates(optimizer, (1e-3, 1e-2, 1e-1), 0.5)
    assert rates_in_use(optimizer, 3) == (5e-4, 5e-3, 5e-2)
    assert all(
        group["lr"] == (5e-4, 5e-3, 5e-2)[group["layer_group"]] for group in optimizer.param_groups
    )


def test_parameter_groups_of_the_user_are_left_alone(groups: LayerGroups) -> None:
    optimizer = build_optimizer("sgd", groups.param_groups(), lr=0.1)
    own = {"params": [nn.Parameter(torch.zeros(2))], "lr": 0.7, "momentum": 0.3}
    optimizer.add_param_group(own)
    set_rates(optimizer, (1e-3, 1e-2, 1e-1), 0.5)
    assert rates_in_use(optimizer, 3) == (5e-4, 5e-3, 5e-2)
    set_momentum(optimizer, 0.8)
    set_momentum(optimizer, None)
    assert (own["lr"], own["momentum"]) == (0.7, 0.3)


def test_a_fit_leaves_the_rate_of_a_parameter_group_of_the_user(make) -> None:
    learn = make()
    learn.fit(1, 0.1)
    extra = nn.Parameter(torch.zeros(2))
    assert learn.opt is not None
    learn.opt.add_param_group({"params": [extra], "lr": 0.7})
    learn.fit_one_cycle(1, 0.1)
    learn.weight_decay = 0.3
    assert learn.opt.param_groups[-1]["params"] == [extra]
    assert learn.opt.param_groups[-1]["lr"] == 0.7
    learn.model = tiny_model()
    assert learn.opt.param_groups[-1]["params"] == [extra]


def test_momentum_goes_where_the_optimizer_has_it_and_comes_back(groups: LayerGroups) -> None:
    adam = build_optimizer("adamw", groups.param_groups(), 0.1)
    sgd = build_optimizer("sgd", groups.param_groups(), 0.1)
    plain = build_optimizer(torch.optim.SGD, groups.param_groups(), 0.1)
    for optimizer in (adam, sgd, plain):
        set_momentum(optimizer, 0.5)
    assert adam.param_groups[0]["betas"] == (0.5, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.5
    assert plain.param_groups[0]["momentum"] == 0
    set_momentum(adam, None)
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("RAdam", "RAdam"), ("lamb", "Lamb"), ("Lion", "Lion"), ("timm:lamb", "Lamb"),
        ("timm:adamw", "AdamW"), ("timm:muon", "Muon"), ("timm:sgd", "SGD"),
    ],
)  # fmt: skip
def test_names_of_timm_and_of_torch(groups: LayerGroups, name: str, kind: str) -> None:
    made = build_optimizer(name, groups.param_groups(), 0.1)
    assert type(made).__name__ == kind
    assert made.defaults.get("momentum", 0.9) >= 0.9


def models() -> dict[str, nn.Module]:
    return {"tiny resnet": tiny_model(), "vit": timm.create_model("test_vit", num_classes=3)}


NO_DECAY = {
    "tiny resnet": {"0.0.bias", "0.1.weight", "0.1.bias", "1.2.weight", "1.4.bias"},
    "vit": {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias", "head.bias"},
}


@pytest.mark.parametrize("arch", NO_DECAY)
@pytest.mark.parametrize("opt_func", ["sgd", "adamw", "radam", "lamb", torch.optim.Adam])
def test_weight_decay_moves_matrices_alone(arch: str, opt_func: str) -> None:
    """With gradients of 0 what moves is what decays."""
    model = models()[arch]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1  # nothing is 0, where decay would not show
    size = (2, 3, 16, 16) if arch == "tiny resnet" else (2, 3, 160, 160)
    groups = LayerGroups(model, 3, example_input=torch.zeros(size))
    optimizer = build_optimizer(opt_func, groups.param_groups(0.1, weight_decay=0.5), 0.1)
    before = snapshot(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        optimizer.step()
    named = dict(model.named_parameters())
    stayed = {name for name, p in named.items() if torch.equal(p, before[name])}
    vectors = {name for name, p in named.items() if p.ndim <= 1}
    assert stayed == vectors | NO_DECAY[arch]
    assert NO_DECAY[arch] <= stayed


@pytest.mark.parametrize("opt_func", ["sgd", "radam", "lamb", "lion", "timm:muon"])
def test_any_optimizer_lives_through_freezing_surgery_and_saving(make, opt_func: str) -> None:
    def lived() -> Learner:
        learn = make(opt_func=opt_func)
        learn.freeze()
        learn.fit(1, 1e-3)
        learn.unfreeze()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            learn.model[1][4] = nn.Linear(8, 3)
        learn.fit(1, 1e-3)
        return learn

    learn = lived()
    learn.save("state")
    other = make(opt_func=opt_func)
    other.model[1][4] = nn.Linear(8, 3)
    other.load("state")
    learn.fit(1, 1e-3)
    other.fit(1, 1e-3)
    for one, two in zip(learn.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    unsaved = make(opt_func=opt_func)
    unsaved.model[1][4] = nn.Linear(8, 3)
    unsaved.load("state", with_opt=False)
    unsaved.fit(1, 1e-3)
    assert moved(snapshot(learn.model), unsaved.model)  # the memory does matter


def test_steps_that_a_group_counts_go_back_where_they_were(make) -> None:
    """timm counts them in the parameter groups, in a tensor."""
    learn = make(opt_func="lamb")
    learn.made_optimizer()
    learn.save("new")
    learn.fit(1, 1e-3)
    assert {float(group["step"]) for group in learn.opt.param_groups} == {6.0}
    learn.save("trained")
    learn.load("new")
    assert not any("step" in group for group in learn.opt.param_groups)
    learn.load("trained")
    assert {float(group["step"]) for group in learn.opt.param_groups} == {6.0}
