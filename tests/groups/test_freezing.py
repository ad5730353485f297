"""Freezing calls: by name, as context managers, and by epoch."""

from __future__ import annotations

import copy
import itertools
import logging

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.models import TinyResNet, TinyTransformer, image
from torch import nn
from torch.optim import AdamW

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from layergroups.groups import as_if_inactive
from layergroups.groups._freezing import StayInEval, first_to_train, is_norm


def make() -> tuple[TinyResNet, LayerGroups]:
    torch.manual_seed(0)
    model = TinyResNet(width=4, blocks=1)
    return model, LayerGroups(model, example_input=image())


def frozen_state(groups: LayerGroups) -> tuple[object, ...]:
    flags = [p.requires_grad for p in groups.model.parameters()]
    return groups.frozen, groups.state_dict()["norm"], flags, modes(groups.model)


def test_groups_are_frozen_by_name_or_number() -> None:
    _, groups = make()
    groups.freeze("early", -1)
    assert groups.frozen == (True, False, True)
    groups["early"].unfreeze()
    assert groups.frozen == (False, False, True)
    groups.unfreeze(2)
    groups.freeze_to("late")
    assert groups.frozen == (True, False, False)
    groups["late"].freeze()
    assert groups.frozen == (True, True, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.freeze("stem"), "'early', 'late', 'head'"),
        (lambda g: g.freeze(3), "give -3 to 2"),
        (lambda g: g.freeze(None), "by name or index, not by None"),
        (lambda g: g.freeze_to("stem"), "'early', 'late', 'head'"),
        (lambda g: g.freeze_to(1.0), "by name or index"),
        (lambda g: g.freeze(norm="eval"), "give norm='freeze' or norm='train'"),
        (lambda g: g.unfreeze("tail"), "'early', 'late', 'head'"),
        (lambda g: g.thaw(-1), "epoch=-1"),
        (lambda g: g.thaw(-0.5), "epoch=-0.5"),
        (lambda g: g.thaw(1, every=0), "every=0"),
        (lambda g: g.thaw(1, start=7), "give -3 to 2"),
    ],
)
def test_a_wrong_argument_is_an_error_and_changes_nothing(call, message) -> None:
    _, groups = make()
    groups.freeze("late")
    before = frozen_state(groups)
    with pytest.raises(GroupingError, match=message):
        call(groups)
    assert frozen_state(groups) == before


CALLS = {
    "freeze": lambda g: g.freeze(),
    "freeze, norms train": lambda g: g.freeze(norm="train"),
    "freeze by name": lambda g: g.freeze("late"),
    "freeze_to": lambda g: g.freeze_to(-2),
    "unfreeze": lambda g: g.unfreeze(),
    "thaw": lambda g: g.thaw(1),
    "group.freeze": lambda g: g["head"].freeze(),
    "group.unfreeze": lambda g: g["early"].unfreeze(),
}


@pytest.mark.parametrize("first", CALLS)
@pytest.mark.parametrize("second", CALLS)
def test_a_call_takes_effect_at_once_and_in_a_with_block_until_its_end(
    first: str, second: str
) -> None:
    _, groups = make()
    CALLS[first](groups)
    before = frozen_state(groups)
    CALLS[second](groups)
    expected = frozen_state(groups)
    CALLS["unfreeze"](groups)
    groups.load_state_dict({**groups.state_dict(), "frozen": before[0], "norm": before[1]})
    assert frozen_state(groups) == before
    with CALLS[second](groups) as same:
        assert same is groups
        assert frozen_state(groups) == expected
    assert frozen_state(groups) == before


def test_blocks_may_be_nested_and_left_by_an_error() -> None:
    _, groups = make()

    def fail() -> None:
        with groups.freeze():
            with groups["early"].unfreeze():
                assert groups.frozen == (False, True, False)
            assert groups.frozen == (True, True, False)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert groups.frozen == (False, False, False)


def test_modes_follow_at_the_end_of_the_block() -> None:
    model, groups = make()
    x = image()
    with groups.freeze("early", "late"):
        model.train()
        assert torch.equal(model(x), model(x))
    assert not torch.equal(model(x), model(x))
    with groups.freeze(), groups.unfreeze():
        assert not torch.equal(model(x), model(x))


def test_requires_grad_set_by_hand_is_restored() -> None:
    model, groups = make()
    model.layer3[0].way.weight.requires_grad_(False)
    model.fc.bias.requires_grad_(False)
    before = frozen_state(groups)
    with groups.freeze():
        assert not model.fc.bias.requires_grad
        model.fc = nn.Linear(16, 5)
    assert not model.layer3[0].way.weight.requires_grad
    assert model.fc.bias.requires_grad
    assert groups.frozen == before[0]


def test_parameters_that_unfreeze_frees_in_a_block_are_frozen_by_the_user_afterwards() -> None:
    model, groups = make()
    model.fc.bias.requires_grad_(False)
    with groups.unfreeze():
        assert model.fc.bias.requires_grad
    groups.freeze_to(0)
    assert not model.fc.bias.requires_grad


def test_surgery_inside_a_block() -> None:
    model, groups = make()
    groups.freeze()
    with groups.unfreeze():
        model.fc = nn.Linear(16, 5)
        model.layer2.append(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Dropout(0.5)))
    assert groups.frozen == (True, True, False)
    assert not any(p.requires_grad for p in model.layer2.parameters())
    assert all(p.requires_grad for p in model.fc.parameters())
    model.train()
    x = image()
    assert torch.equal(model(x), model(x))


def test_the_optimizer_is_the_same_before_in_and_after_a_block() -> None:
    model, groups = make()
    optimizer = AdamW(groups.param_groups(lr=1e-3))
    groups.attach(optimizer)
    model(image()).sum().backward()
    optimizer.step()
    held = [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups]
    state = copy.deepcopy(optimizer.state_dict())
    with groups.freeze():
        pass
    assert [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups] == held
    for key, saved in state["state"].items():
        assert all(optimizer.state_dict()["state"][key][k].equal(v) for k, v in saved.items())


def test_the_repr_of_a_freezing_names_the_groups() -> None:
    _, groups = make()
    assert repr(groups.freeze()) == "Freezing(frozen: early, late; trains: head)"
    assert repr(groups.unfreeze()) == "Freezing(frozen: none; trains: early, late, head)"


# -- gradual unfreezing --------------------------------------------------------------------------


@given(start=st.integers(0, 20), every=st.integers(1, 5))
def test_groups_unfreeze_one_by_one_from_the_head_down(start: int, every: int) -> None:
    firsts = [first_to_train(epoch, start, every) for epoch in range(start * every + 1)]
    assert firsts[0] == start
    assert firsts[-1] == 0
    assert all(a - b in (0, 1) for a, b in itertools.pairwise(firsts))
    assert all(firsts.count(first) == every for first in range(1, start + 1))
    assert first_to_train(10_000, start, every) == 0


def test_groups_unfreeze_after_parts_of_epochs() -> None:
    assert [first_to_train(i / 10, 3, 0.1) for i in range(5)] == [3, 2, 1, 0, 0]
    assert [first_to_train(i / 4, 3, 0.5) for i in range(7)] == [3, 3, 2, 2, 1, 1, 0]
    assert [first_to_train(epoch, 3, 1.5) for epoch in range(5)] == [3, 3, 2, 1, 1]


def test_gradual_unfreezing_depends_only_on_the_epoch() -> None:
    _, groups = make()
    expected = [(True, True, False), (True, False, False), (False, False, False)]
    for epoch in (0, 1, 1, 2, 5, 0):
        groups.thaw(epoch)
        assert groups.frozen == expected[min(epoch, 2)]
    groups.thaw(3, every=2, start="late")
    assert groups.frozen == (False, False, False)
    groups.thaw(1, every=2, start="late", norm="train")
    assert groups.frozen == (True, False, False)
    assert groups.state_dict()["norm"] == "train"


# -- several views of one model ------------------------------------------------------------------


def hooks(model: nn.Module) -> int:
    return sum(isinstance(h, StayInEval) for m in model.modules()
               for h in m._forward_pre_hooks.values())  # fmt: skip


@pytest.mark.parametrize("frozen", [["early"], ["early", "late"], ["head"]])
@pytest.mark.parametrize("norm", ["freeze", "train"])
@pytest.mark.parametrize("copied", [True, False])
def test_new_groups_of_a_model_that_others_froze_change_nothing(
    frozen: list[str], norm: str, copied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyTransformer()
    model.pos_embed.requires_grad_(False)  # fixed by its author
    first = LayerGroups(model, example_input=image())
    first.freeze(*frozen, norm=norm)
    model = copy.deepcopy(model) if copied else model
    caplog.clear()
    before = [p.requires_grad for p in model.parameters()], hooks(model)
    groups = LayerGroups(model, example_input=image())
    assert "frozen by other layer groups" in caplog.text
    assert "pos_embed" in caplog.text
    assert ([p.requires_grad for p in model.parameters()], hooks(model)) == before
    assert groups.frozen == first.frozen
    assert groups.norms_train == (norm == "train" and frozen != ["head"])  # it has no norm
    groups.freeze_to(0)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"pos_embed"}
    groups.freeze()
    groups.unfreeze()
    assert hooks(model) == 0
    model.train()
    x = image()
    assert not torch.equal(model(x), model(x))
    assert all(p.requires_grad for p in model.parameters())


def test_new_groups_with_a_different_rule_let_nothing_go() -> None:
    model, groups = make()
    groups.freeze()
    before = [p.requires_grad for p in model.parameters()]
    other = LayerGroups(model, ["fc"], example_input=image())
    other.freeze_to(0)
    assert [p.requires_grad for p in model.parameters()] != before  # its first group was frozen
    groups.unfreeze()
    groups.freeze("early")
    third = LayerGroups(model, ["fc"], example_input=image())
    before = [p.requires_grad for p in model.parameters()]
    assert third.frozen == (False, False)
    third.freeze_to(0)
    assert [p.requires_grad for p in model.parameters()] == before  # frozen in part: by the user
    third.unfreeze()
    assert all(p.requires_grad for p in model.parameters())


def test_a_copy_of_a_frozen_model_is_freed_by_plain_pytorch() -> None:
    model, groups = make()
    model.layer1.append(nn.Dropout(0.5))
    groups.freeze()
    model.train()
    model(image())
    twin = copy.deepcopy(model)
    twin.train()
    twin(image())
    assert not twin.layer1[-1].training
    twin.requires_grad_(True).train()
    twin(image())
    assert all(m.training for m in twin.modules())
    twin.layer1.requires_grad_(False)
    twin.train()
    twin(image())
    assert twin.layer2[0].main[0][1].training
    model.train()
    model(image())
    assert not model.layer2[0].main[0][1].training


def test_a_second_view_logs_nothing_if_nothing_was_frozen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, groups = make()
    groups.freeze()
    groups.unfreeze()
    with caplog.at_level(logging.WARNING):
        LayerGroups(model, example_input=image())
    assert not caplog.records


@settings(max_examples=15, deadline=None)
@given(names=st.lists(st.sampled_from(["early", "late", "head"]), max_size=6))
def test_hooks_do_not_pile_up(names: list[str]) -> None:
    model, groups = make()
    for name in names:
        groups.freeze(name)
    groups.unfreeze()
    assert hooks(model) == 0


# -- modes and compiled graphs -------------------------------------------------------------------


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def test_every_mode_is_restored_after_unfreezing() -> None:
    model, groups = make()
    model.stem[1].eval()  # by hand
    before = modes(model)
    groups.freeze()
    groups.freeze_to(-2)
    groups.unfreeze()
    assert modes(model) == before
    with groups.freeze():
        pass
    assert modes(model) == before
    groups.freeze()
    model.eval()
    groups.unfreeze()
    assert not any(modes(model))
    groups.freeze()
    model.train()
    groups.unfreeze()
    assert all(modes(model))


def test_compiled_graphs_are_dropped_only_where_there_are_any_and_something_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resets: list[None] = []
    groups = make()[1]
    torch.compiler.reset()
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "reset", lambda: resets.append(None))
        groups.freeze()
        groups.unfreeze()
        assert not resets  # nothing is compiled in this process
        compiled = torch.compile(nn.Linear(2, 2), backend="eager")
        compiled(torch.zeros(1, 2))
        groups.freeze()
        assert len(resets) == 1
        groups.freeze()
        groups.freeze_to(-1)
        groups.thaw(0)
        groups.set_rates(1e-2)
        assert len(resets) == 1
        groups.thaw(1)
        assert len(resets) == 2
    torch.compiler.reset()


# -- what a norm is ------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """As the language models of transformers write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = 1e-6


class PreNorm(nn.Module):
    """A wrapper around a layer."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn, self.eps = nn.LayerNorm(4), inside, 1e-5


class LayerScaleNorm(nn.Module):
    """It normalises nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


def timm_norms() -> list[nn.Module]:
    from timm import layers

    return [
        layers.FilterResponseNormTlu2d(4), layers.FilterResponseNormAct2d(4),
        layers.EvoNorm2dS0(8), layers.EvoNorm2dB0(4), layers.LayerNorm2d(4), layers.RmsNorm(4),
        layers.BatchNormAct2d(4), layers.GroupNormAct(4, 2), layers.SimpleNorm(4),
        layers.FrozenBatchNormAct2d(4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4), RMSNorm(4),
     torchvision.ops.FrozenBatchNorm2d(4), *timm_norms()],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_a_norm_is_recognised_by_its_tensors(norm: nn.Module) -> None:
    assert is_norm(norm)


@pytest.mark.parametrize(
    "module",
    [nn.Linear(4, 4), nn.PReLU(4), nn.ReLU(), PreNorm(nn.Linear(4, 4)), LayerScaleNorm(),
     nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)).parametrizations.weight[0],
     nn.CosineSimilarity()],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_modules_that_are_not_norms(module: nn.Module) -> None:
    assert not is_norm(module)


# -- what the user lets train, and what moves by itself ------------------------------------------


def train_a_step(model: nn.Module, groups: LayerGroups) -> None:
    optimizer = AdamW(groups.param_groups(lr=0.1, weight_decay=0.5))
    groups.attach(optimizer)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        optimizer.step()


def test_parameters_of_frozen_groups_that_the_user_lets_train_are_in_the_table(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, groups = make()
    groups.freeze()
    layer = model.layer1[0].main[0]
    layer.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    train_a_step(model, groups)
    moved = {n for n, v in model.state_dict().items() if not v.equal(before[n])}
    rows = groups.rows()
    frozen = [name for row, group in zip(rows, groups, strict=True) if row.frozen
              for name, _ in group.named_parameters()]  # fmt: skip
    assert groups.frozen == (False, True, False)
    assert groups.inactive == (1,)
    assert rows[0].freed == rows[0].trainable == sum(p.numel() for p in layer.parameters())
    assert not moved.intersection(frozen)
    assert all(n.startswith(("layer1.0.main.0", "fc")) for n in moved)  # and no other statistics
    assert [r.message for r in caplog.records if "requires_grad" in r.message][1:] == []
    assert "layer1.0.main.0" in caplog.text


def test_a_whole_model_that_the_user_lets_train_trains_and_freezes_again() -> None:
    model, groups = make()
    groups.freeze()
    model.requires_grad_(True)
    train_a_step(model, groups)
    assert groups.frozen == (False, False, False)
    assert all(m.training for m in model.modules())
    with groups.freeze("late"):
        assert groups.frozen == (False, True, False)
    assert groups.frozen == (False, False, False)
    assert all(p.requires_grad for p in model.parameters())
    groups.freeze()
    assert groups.frozen == (True, True, False)
    assert [p.requires_grad for p in model.parameters()].count(True) == 2


@pytest.mark.parametrize("change", ["surgery", "cast", "rates", "a copy", "saved"])
def test_what_the_user_lets_train_trains_after_a_change(change: str) -> None:
    model, groups = make()
    groups.freeze()
    model.stem[0].weight.requires_grad_(True)
    match change:
        case "surgery":
            model.layer1.append(nn.Conv2d(4, 4, 1))
        case "cast":
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            model.double()
            torch.__future__.set_overwrite_module_params_on_conversion(False)
        case "rates":
            groups.set_rates({"head": 0.0})
        case "a copy":
            groups = copy.deepcopy(groups)
        case "saved":
            state = groups.state_dict()
            groups.unfreeze()
            groups.load_state_dict(state)
    groups.sync()
    assert groups.frozen == (False, True, False)
    trains = [n for n, p in groups.model.named_parameters() if p.requires_grad]
    assert [n for n in trains if not n.startswith("fc")] == ["stem.0.weight"]
    groups.model.stem[0].weight.requires_grad_(False)
    assert groups.frozen == (True, True, False)


class Words(nn.Module):
    """An embedding that shortens its rows as it reads them, and a classifier."""

    def __init__(self, kind: type[nn.Embedding] | type[nn.EmbeddingBag]) -> None:
        super().__init__()
        self.words, self.fc = kind(20, 8, max_norm=0.5), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        read = self.words(tokens)
        return self.fc(read.mean(1) if read.ndim == 3 else read)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_frozen_embedding_with_a_maximal_norm_does_not_move(
    kind: type[nn.Embedding] | type[nn.EmbeddingBag],
) -> None:
    tokens, model = torch.randint(0, 20, (4, 5)), Words(kind)
    free, before = copy.deepcopy(model), model.words.weight.clone()
    groups = LayerGroups(model, ["fc"], example_input=tokens)
    groups.freeze()
    model.train()
    assert torch.equal(model(tokens), free(tokens))
    assert torch.equal(model.words.weight, before)
    assert not torch.equal(free.words.weight, before)
    groups.unfreeze()
    model(tokens)
    assert torch.equal(model.words.weight, free.words.weight)


class Observer(nn.Module):
    """Counts in eval mode too, as observers of quantization do."""

    def __init__(self, assigned: bool) -> None:
        super().__init__()
        self.assigned = assigned
        self.linear = nn.Linear(8, 8)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        largest = torch.maximum(self.largest, y.detach().abs().max())
        if self.assigned:
            self.largest = largest
        else:
            self.largest.copy_(largest)
        return y * self.largest


@pytest.mark.parametrize("assigned", [False, True])
def test_buffers_that_layers_write_in_eval_mode_stay_where_frozen(assigned: bool) -> None:
    model = nn.Sequential(Observer(assigned), nn.BatchNorm1d(8), Observer(assigned))
    groups = LayerGroups(model, ["2"], example_input=torch.ones(4, 8))
    groups.freeze()
    model.train()
    held, moving = model[0].largest, model[2].largest.clone()
    for i in range(1, 5):
        model(i * torch.ones(4, 8)).sum().backward()
    assert model[0].largest is held
    assert float(held) == 0
    assert not torch.equal(model[2].largest, moving)
    groups.unfreeze()
    model(torch.ones(4, 8))
    assert float(model[0].largest) > 0


def test_a_group_trains_as_a_whole_where_the_features_below_it_are_cached() -> None:
    """One layer that the user lets train must not make a cut within its group."""
    model, groups = make()
    groups.freeze()
    model.layer3[0].way.weight.requires_grad_(True)
    before = [p.requires_grad for p in model.parameters()]
    with as_if_inactive(groups, (0,)) as modules:
        late = [p.requires_grad for p in groups["late"].parameters()]
        assert all(late)
        assert model.layer1 in modules
    assert [p.requires_grad for p in model.parameters()] == before
    assert groups.frozen == (True, False, False)
