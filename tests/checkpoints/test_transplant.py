"""transplant between modules: what is carried, what not and why; optimizer state, ties, classes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.models import TiedLanguageModel, TinyResNet, TinyTransformer, image
from tests.training.tiny import learner_of, moved, snapshot, tiny_model
from torch import Tensor, nn

from layergroups import transplant
from layergroups.checkpoints import TensorReport, Transplant
from layergroups.errors import TransplantError
from layergroups.models import create_body, create_head, grow_head, shrink_head
from layergroups.training import Learner

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(state(one).values(), state(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def trained(model: nn.Module, x: Tensor, kind: Any = torch.optim.AdamW) -> torch.optim.Optimizer:
    """An optimizer that took two steps, so that moments and statistics are no zeros."""
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(x).square().sum().backward()
        optimizer.step()
    return optimizer


def names(reports: tuple[TensorReport, ...]) -> set[str]:
    return {graft.name for graft in reports}


def probabilities(model: nn.Module, classes: Any, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip(classes, model.eval()(x).softmax(1).T, strict=True))


@pytest.mark.parametrize("make", [TinyResNet, TinyTransformer, TiedLanguageModel])
def test_between_models_of_one_kind_all_is_carried(make: Any) -> None:
    x = torch.ones(2, 5, dtype=torch.long) if make is TiedLanguageModel else image()
    source, target = make(), make()
    trained(source, x)
    before, held = state(source), list(target.parameters())
    done = transplant(source, target)
    assert same(source, target)
    assert (done.partly, done.left, done.not_filled) == ((), (), ())
    assert {g.reason for g in done.carried} == {"same name"}
    assert all(a is b for a, b in zip(held, target.parameters(), strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), state(source).values(), strict=True)
    )


def test_type_freezing_and_groups_of_the_target_stay() -> None:
    source, target = TinyResNet(), TinyResNet().double()
    target.stem.requires_grad_(False)
    transplant(source, target)
    assert target.fc.weight.dtype == torch.float64
    assert torch.equal(target.fc.weight, source.fc.weight.double())
    assert not target.stem[0].weight.requires_grad


@settings(max_examples=20, deadline=None)
@given(
    old=st.permutations(NAMES).flatmap(lambda p: st.integers(2, 6).map(lambda n: p[:n])),
    order=st.randoms(use_true_random=False),
    grown=st.booleans(),
)
def test_permuted_class_names_give_the_same_probabilities(
    old: list[str], order: Any, grown: bool
) -> None:
    new = order.sample(old, len(old))
    source, target = (
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, len(old))) for _ in "ab"
    )
    if grown:
        shrink_head(target, 1)
        grow_head(target, len(old))
    transplant(source, target, classes=(old, new))
    x = torch.randn(7, 5)
    one, other = probabilities(source, old, x), probabilities(target, new, x)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in old)


@settings(max_examples=20, deadline=None)
@given(
    old=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    new=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
)
def test_classes_that_both_know_keep_their_outputs(old: list[str], new: list[str]) -> None:
    source, target = (
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, len(c))) for c in (old, new)
    )
    own = state(target)
    done = transplant(source, target, classes=(old, new))
    for i, name in enumerate(new):
        row = source[2].weight[old.index(name)] if name in old else own["2.weight"][i]
        assert torch.equal(target[2].weight[i], row)
    if not set(old) & set(new):
        assert {g.reason for g in done.left} == {g.reason for g in done.not_filled}
        assert "no common class" in done.left[0].reason
    elif set(new) - set(old):
        assert names(done.partly) == {"2.weight", "2.bias"}


def test_a_norm_of_the_outputs_goes_by_class_too() -> None:
    source, target = (
        nn.Sequential(nn.Conv2d(3, 4, 3), create_head(4, 3, lin_ftrs=[], bn_final=True))
        for _ in range(2)
    )
    trained(source, image())
    done = transplant(source, target, classes=(list("abc"), list("bca")))
    x = image(16)
    one, other = probabilities(source, "abc", x), probabilities(target, "bca", x)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in "abc")
    assert not done.left
    assert target[1][-1].num_batches_tracked == 2


def test_optimizer_state_goes_with_whole_parameters_and_a_step_is_then_the_same() -> None:
    source, target = TinyResNet(), TinyResNet()
    x = image()
    old = trained(source, x)
    new = torch.optim.AdamW(target.parameters(), lr=0.01)
    done = transplant(source, target, optimizer=(old, new))
    assert done.n_states == len(list(source.parameters()))
    for model, optimizer in ((source, old), (target, new)):
        torch.manual_seed(0)
        optimizer.zero_grad()
        model.train()(x).square().sum().backward()
        optimizer.step()
    assert same(source, target)
    assert old.state[source.fc.weight]["exp_avg"] is not new.state[target.fc.weight]["exp_avg"]


def test_moments_of_class_rows_go_by_name_unless_some_classes_are_new() -> None:
    source = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    old = trained(source, torch.randn(6, 5))
    target = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    new = torch.optim.AdamW(target.parameters())
    transplant(source, target, optimizer=(old, new), classes=(list("abc"), list("cab")))
    moments = old.state[source[2].weight]["exp_avg"]
    assert torch.equal(new.state[target[2].weight]["exp_avg"], moments[[2, 0, 1]])
    assert new.state[target[2].weight]["step"] == 2
    wider = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4))
    new = torch.optim.AdamW(wider.parameters())
    done = transplant(source, wider, optimizer=(old, new), classes=(list("abc"), list("cabd")))
    assert wider[2].weight not in new.state
    assert {g.optimizer for g in done.partly} == {
        "rows of new classes have no state, so none is carried"
    }
    assert "optimizer: rows of new classes" in str(done)


def test_moments_that_are_no_rows_stay_behind() -> None:
    source, target = (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in "ab")
    old = trained(source, torch.randn(6, 5), torch.optim.Adafactor)
    new = torch.optim.Adafactor(target.parameters())
    done = transplant(source, target, optimizer=(old, new), classes=(list("abc"), list("cab")))
    told = {g.name: g.optimizer for g in done.carried}
    assert told["2.weight"] == "its rows do not share a state"
    assert told["0.weight"] == "carried"


@pytest.mark.parametrize("given", [True, (None, None), "adam"])
def test_state_that_is_not_there_is_an_error_and_changes_nothing(given: Any) -> None:
    source, target = TinyResNet(), TinyResNet()
    before = state(target)
    with pytest.raises(TransplantError, match=r"optimizer=\(old_optimizer, new_optimizer\)"):
        transplant(source, target, optimizer=given)
    assert all(torch.equal(before[n], t) for n, t in state(target).items())


def test_optimizers_of_two_kinds() -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    old = trained(source, torch.randn(3, 2))
    with pytest.raises(TransplantError, match="opt_func='adamw'"):
        transplant(source, target, optimizer=(old, torch.optim.SGD(target.parameters())))


@pytest.mark.parametrize(
    ("source", "target", "options", "words"),
    [
        (nn.Linear(2, 3), nn.Linear(4, 3), {}, "no tensor of Linear"),
        (nn.ReLU(), nn.Linear(4, 3), {}, "no tensor of ReLU"),
        (3, nn.Linear(4, 3), {}, "first argument is a int"),
        (nn.Linear(4, 3), None, {}, "second argument is a NoneType"),
        (nn.Linear(4, 3), nn.Linear(4, 3), {"classes": ["a", "b", "c"]}, "in the order of their"),
        (nn.Linear(4, 3), nn.Linear(4, 3), {"classes": ("abc", "abc")}, "in the order of their"),
        (nn.Linear(4, 2), nn.Linear(4, 2), {"classes": (["a", "a"], ["a", "b"])}, "duplicates"),
        (nn.Linear(4, 2), nn.Linear(4, 2), {"classes": (["a"], ["a", "b"])}, "has 1 names"),
    ],
)
def test_errors_teach(source: Any, target: Any, options: Any, words: str) -> None:
    with pytest.raises(TransplantError, match=words):
        transplant(source, target, **options)


def test_a_model_is_not_its_own_source() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TransplantError, match="same model"):
        transplant(model, model)


def test_a_transplant_prints_a_line_and_a_short_table_and_turns_into_json() -> None:
    done = transplant(TinyResNet(), TinyResNet(classes=5))
    lines = str(done).splitlines()
    assert lines[0] == f"transplant: {len(done.carried)} carried, 0 in part, 2 left, 2 not filled"
    assert len(lines) == 6
    assert json.loads(json.dumps(done.to_dict()))["left"][0]["name"] == "fc.weight"
    many = Transplant((), (), tuple(TensorReport(str(i), f"reason {i}") for i in range(9)), ())
    assert len(str(many).splitlines()) == 5
    assert "6  for other reasons" in str(many)


@pytest.fixture(scope="module")
def old() -> Learner:
    learn = learner_of(("red", "green", "blue"), seed=0)
    learn.fit(2)
    return learn


def test_a_transplanted_learner_goes_on_as_the_old_one_would(make) -> None:
    old, new = make(), learner_of(("red", "green", "blue"))
    old.fit(1)
    done = transplant(old, new, optimizer=True)
    assert done.n_states == len(list(new.model.parameters()))
    new.epochs_done = old.epochs_done
    old.fit(1)
    new.fit(1)
    assert moved(snapshot(old.model), new.model) == set()


def test_another_order_of_classes_gives_the_same_probabilities(old: Learner) -> None:
    new = learner_of(("blue", "red", "green"), split=["0.0", "1"])
    done = transplant(old, new, optimizer=True)
    assert "classes by name: blue, red, green" in str(done)
    assert done.n_states == len(list(new.model.parameters()))
    before, _ = old.get_preds()
    after, _ = new.get_preds(old.dls.valid)
    torch.testing.assert_close(after, before[:, [2, 0, 1]])


def test_new_classes_train_and_freezing_and_rates_of_the_target_stay(old: Learner) -> None:
    new = learner_of(("blue", "grey", "red", "green"))
    new.freeze()
    new.layer_groups.set_rates([1e-4, 1e-3, 1e-2])
    done = transplant(old, new, optimizer=True)
    assert {g.name for g in done.partly} == {"1.4.weight", "1.4.bias"}
    assert new.layer_groups.frozen == (True, True, False)
    assert new.layer_groups.rates == (1e-4, 1e-3, 1e-2)
    weights = snapshot(new.model)
    new.fit(1)
    trained = moved(weights, new.model)
    assert trained
    assert all(name.startswith("1.") for name in trained)


def test_into_a_grown_head_the_old_rows_go_with_their_memory(old: Learner) -> None:
    new = learner_of(("red", "green", "blue", "grey"))
    head = new.model[1]
    head[-1] = type(head[-1])(8, 3)
    grow_head(new.model, 4)
    done = transplant(old, new, optimizer=True)
    assert {g.name for g in done.not_filled} == {"1.4.1.weight", "1.4.1.bias"}
    assert torch.equal(head[-1][0].weight, old.model[1][-1].weight)
    assert head[-1][0].weight in new.opt.state
    assert head[-1][1].weight not in new.opt.state
    new.fit(1)


def test_other_classes_leave_the_classifier_as_it_was(old: Learner) -> None:
    new = learner_of(("cat", "dog", "fox"))
    weight = new.model[1][-1].weight.detach().clone()
    done = transplant(old, new)
    assert torch.equal(new.model[1][-1].weight, weight)
    assert "no common class" in str(done)
    assert len(done.carried) == len(new.model.state_dict()) - 2


def test_state_is_asked_for_that_is_not_there(old: Learner) -> None:
    with pytest.raises(TransplantError, match="never took a step"):
        transplant(learner_of(("red", "green", "blue")), old, optimizer=True)
    with pytest.raises(TransplantError, match="opt_func='adamw'"):
        transplant(old, learner_of(("red", "green", "blue"), opt_func="sgd"), optimizer=True)


def test_a_learner_and_a_module(old: Learner) -> None:
    model = tiny_model()
    assert len(transplant(old, model).carried) == len(model.state_dict())
    assert moved(snapshot(old.model), model) == set()


# Which layers match


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    norms=st.booleans(),
    wrapped=st.integers(0, 2),
)
def test_identical_models_also_below_other_paths(
    widths: list[int], norms: bool, wrapped: int
) -> None:
    layers: list[nn.Module] = []
    for n_in, n_out in zip([4, *widths], widths, strict=False):
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if norms else []), nn.ReLU()]
    source = nn.Sequential(*layers)
    inner = target = copy.deepcopy(source)
    for parameter in inner.parameters():
        nn.init.normal_(parameter)
    for _ in range(wrapped):
        target = nn.Sequential(target)
    if wrapped > 1 and len(list(source.parameters())) == 2:
        return  # a single layer two steps deeper says too little
    done = transplant(source, target)
    assert same(source, inner)
    assert len(done.carried) == len(source.state_dict())
    assert transplant(target, source).left == ()


def test_a_body_at_another_path_is_found_in_both_directions() -> None:
    whole = torchvision.models.resnet18(weights=None)
    body = create_body(torchvision.models.resnet18(weights=None))
    parts = nn.Sequential(body, create_head(512, 3))
    done = transplant(whole, parts)
    assert names(done.left) == {"fc.weight", "fc.bias"}
    assert all(name.startswith("1.") for name in names(done.not_filled))
    assert {g.reason for g in done.carried} == {"moved: the root → 0"}
    assert torch.equal(parts[0].layer4[1].bn2.running_var, whole.layer4[1].bn2.running_var)
    nn.init.zeros_(parts[0].conv1.weight)
    back = transplant(parts, whole)
    assert len(back.carried) == len(done.carried)
    assert not whole.conv1.weight.any()


def test_models_of_two_libraries() -> None:
    done = transplant(torchvision.models.resnet18(weights=None), timm.create_model("resnet18"))
    assert (len(done.carried), len(done.left), len(done.not_filled)) == (122, 0, 0)


def test_a_layer_goes_as_a_whole_or_stays() -> None:
    source, target = (nn.Sequential(nn.Linear(4, n), nn.BatchNorm1d(n)) for n in (5, 6))
    source.append(nn.Linear(5, 2))
    target.append(nn.Linear(6, 2))  # its bias has the same shape
    source.append(nn.Linear(2, 2))
    target.append(nn.Linear(2, 2))
    source[1].num_batches_tracked += 7
    done = transplant(source, target)
    assert names(done.carried) == {"3.weight", "3.bias"}
    assert target[1].num_batches_tracked == 0
    reasons = {g.name: g.reason for g in done.left}
    assert reasons["0.weight"] == (
        "shape (5, 4), in the target (6, 4); rows go by name with classes="
    )
    assert reasons["2.bias"] == "its layer differs from that of the target"


def test_bare_parameters_of_a_container_go_one_by_one() -> None:
    source, target = TinyTransformer(), TinyTransformer()
    target.pos_embed = nn.Parameter(torch.zeros(1, 5, 16))
    nn.init.normal_(source.cls_token)
    done = transplant(source, target)
    assert torch.equal(source.cls_token, target.cls_token)
    assert names(done.left) == names(done.not_filled) == {"pos_embed"}


def test_a_wrapped_layer_is_found_and_a_grown_head() -> None:
    source, target = TinyResNet(), TinyResNet()
    grow_head(target, 5, example_input=image())
    done = transplant(source, target)
    assert torch.equal(source.fc.weight, target.fc[0].weight)
    assert names(done.not_filled) == {"fc.1.weight", "fc.1.bias"}
    assert {g.reason for g in done.carried} == {"same name", "wrapped: now at .0"}
    shrunk = TinyResNet()
    assert "unwrapped: was at .0" in {g.reason for g in transplant(target, shrunk).carried}
    assert torch.equal(source.fc.weight, shrunk.fc.weight)


def test_tied_weights_are_filled_once() -> None:
    source, target = TiedLanguageModel(), TiedLanguageModel()
    source.head.weight = nn.Parameter(torch.randn(11, 8))  # not tied any more
    done = transplant(source, target)
    assert target.head.weight is target.embedding.weight
    assert torch.equal(target.head.weight, source.head.weight)
    (left,) = done.left
    assert left.name == "embedding.weight"
    assert "ties it to head.weight" in left.reason
    untied = TiedLanguageModel()
    untied.head.weight = nn.Parameter(torch.randn(11, 8))
    transplant(target, untied)
    assert torch.equal(untied.head.weight, untied.embedding.weight)
