from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, learner_of, moved, pretrained, snapshot, tiny_model
from timm.optim.lookahead import Lookahead
from torch import nn

from layergroups import checkpoints
from layergroups.errors import CheckpointError
from layergroups.training import FineTuneDefaults, Learner
from layergroups.training.persistence._learner_state_dict import restore, state_of


def train_frozen(learn: Learner) -> None:
    learn.freeze()
    learn.fit(1, 1e-2)


def train_spread(learn: Learner) -> None:
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))


def train_fine(learn: Learner) -> None:
    learn.fine_tune(1, 1e-2, defaults=FineTuneDefaults(head_passes=3))


@pytest.mark.parametrize("first", [train_frozen, train_spread, train_fine])
@pytest.mark.parametrize("opt_func", ["adamw", "sgd"])
@pytest.mark.parametrize("seed", [None, 5])
def test_training_after_a_load_equals_the_unbroken_one_bit_for_bit(
    make, first, opt_func, seed
) -> None:
    unbroken = make(opt_func=opt_func, seed=seed)
    first(unbroken)
    unbroken.save("stage-1")
    unbroken.fit(1)
    unbroken.fit_one_cycle(1)

    resumed = make(pretrained(tiny_model()), opt_func=opt_func, seed=seed)
    torch.manual_seed(99)
    random.seed(99)
    assert resumed.load("stage-1") is resumed
    assert resumed.history == unbroken.history[:-2]
    assert resumed.layer_groups.state_dict() == unbroken.layer_groups.state_dict()
    resumed.fit(1)
    resumed.fit_one_cycle(1)
    assert not moved(snapshot(unbroken.model), resumed.model)
    for one, two in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        ours, theirs = unbroken.opt.state[one], resumed.opt.state[two]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours if key != "momentum_buffer")
    for ours, theirs in zip(unbroken.history, resumed.history, strict=True):
        assert ours.train_loss == theirs.train_loss
        assert ours.valid_loss == theirs.valid_loss


def test_saving_changes_nothing(make) -> None:
    saves, does_not = make(seed=None), make(seed=None)
    for learn in (saves, does_not):
        torch.manual_seed(3)
        learn.fit(1)
        if learn is saves:
            learn.save("a")
            learn.save("b")
        learn.fit(1)
    assert not moved(snapshot(saves.model), does_not.model)


def test_loading_goes_back_in_the_same_learner(make) -> None:
    learn = make()
    learn.fit(1)
    saved = snapshot(learn.model)
    path = learn.save("stage-1")
    assert path == learn.path / "stage-1.safetensors"
    learn.freeze()
    learn.fit(2, 1e-2)
    learn.load("stage-1")
    assert not moved(saved, learn.model)
    assert learn.layer_groups.frozen == (False,) * 3
    assert learn.layer_groups.rates == (1e-3,) * 3
    assert len(learn.history) == learn.epochs_done == 1


def test_a_learner_that_was_never_trained_can_be_saved(make) -> None:
    learn = make()
    saved = snapshot(learn.model)
    learn.save("start")
    learn.fit(1)
    learn.load("start")
    assert not moved(saved, learn.model)
    assert not learn.opt.state
    assert not learn.history


def test_weights_alone_may_be_loaded(make) -> None:
    learn = make()
    learn.fit(1)
    learn.save("adam")
    other = make(opt_func="sgd")
    before = snapshot(other.model)
    with pytest.raises(CheckpointError, match="opt_func='adamw'"):
        other.load("adam")
    assert not moved(before, other.model)
    other.load("adam", with_opt=False)
    assert not moved(snapshot(learn.model), other.model)


def test_other_groups_take_what_matches_and_say_what_differs(make, caplog) -> None:
    saved = make()
    saved.layer_groups.freeze("0.7")
    saved.layer_groups.set_rates([1e-5, 1e-4, 1e-2])
    saved.save("three")
    other = make(split=["0.0", "1"])
    other.freeze()
    caplog.clear()
    other.load("three")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "only in the file: 0.7" in caplog.text
    assert "4 parameters of '0.7' are in '0.0'" in caplog.text
    assert other.layer_groups.frozen == (False, False)
    assert other.layer_groups.rates == (1e-5, 1e-2)


def test_strict_refuses_other_groups_and_changes_nothing(make) -> None:
    learn = make()
    learn.fit(1)
    learn.save("three")
    other = make(split=["0.0", "1"])
    before = snapshot(other.model)
    with pytest.raises(CheckpointError, match="other layer groups"):
        other.load("three", strict=True)
    assert not moved(before, other.model)
    make().load("three", strict=True)


def test_not_strict_loads_the_weights_that_fit_and_tells_the_others(make, caplog) -> None:
    learn = make()
    learn.fit(1)
    learn.save("three-classes")
    other = make(tiny_model(5), dls=TinyLoaders(vocab=tuple("abcde")))
    head = snapshot(other.model[1][4])
    caplog.clear()
    other.load("three-classes", strict=False)
    assert "1.4.weight (file [3, 8], model [5, 8])" in caplog.text
    assert not moved(snapshot(learn.model[0]), other.model[0])
    assert not moved(head, other.model[1][4])
    other.fit(1)


def test_nothing_that_fits_is_an_error(make) -> None:
    make().save("tiny")
    other = make(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), split=1)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        other.load("tiny", strict=False)


def test_a_norm_layer_keeps_its_policy_in_a_learner_that_did_not_know_it(make) -> None:
    learn = make()  # its body came with statistics, so they stay
    learn.save("pretrained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = make(tiny_model()).load("pretrained")
    statistics = snapshot(fresh.model[0][1])["running_mean"]
    fresh.fit(1)
    assert torch.equal(fresh.model[0][1].running_mean, statistics)


def test_settings_of_the_optimizer_and_passing_buffers_survive(make) -> None:
    def counting() -> nn.Sequential:
        model = pretrained(tiny_model())
        model[1].register_buffer("seen", torch.zeros(2), persistent=False)
        return model

    learn = make(counting())
    learn.fit(1)
    for group in learn.opt.param_groups:
        group["weight_decay"] = 0.3
    learn.model[1].seen.fill_(7.0)
    learn.save("a")
    other = make(counting()).load("a")
    assert {group["weight_decay"] for group in other.opt.param_groups} == {0.3}
    assert other.model[1].seen.tolist() == [7.0, 7.0]


def test_optimizer_state_finds_its_parameters_in_other_groups(make) -> None:
    learn = make()
    learn.fit(1)
    learn.save("three")
    other = make(split=["0.0", "1"])
    other.load("three")
    ours = learn.opt.state[learn.model[0][7].weight]["exp_avg"]
    assert torch.equal(ours, other.opt.state[other.model[0][7].weight]["exp_avg"])


def test_another_head_is_refused_with_its_shapes(make) -> None:
    make().save("three-classes")
    other = make(tiny_model(5), dls=TinyLoaders(vocab=tuple("abcde")))
    with pytest.raises(CheckpointError, match=r"1\.4\.weight \(file \[3, 8\], model \[5, 8\]\)"):
        other.load("three-classes")


def test_only_json_and_tensors_are_in_the_file(make) -> None:
    learn = make()
    learn.fit(1)
    tensors, state = checkpoints.read(learn.save("a"))
    assert {name.split("/")[0] for name in tensors} == {"model", "optimizer", "random"}
    assert json.loads(json.dumps(state)) == state
    assert "optimizer/exp_avg/1.4.weight" in tensors


def test_a_file_of_another_kind_is_refused(make, tmp_path: Path) -> None:
    learn = make()
    tensors = {f"model/{name}": t for name, t in learn.model.state_dict().items()}
    checkpoints.write(tmp_path / "odd.safetensors", tensors, {"kind": "odd"})
    with pytest.raises(CheckpointError, match=r"learn\.save"):
        learn.load("odd")


def test_tied_weights_survive(make) -> None:
    def tied() -> nn.Sequential:
        model = tiny_model()
        model[0][7].weight = model[0][3].weight
        return model

    learn = make(tied(), split=1)
    learn.fit(1)
    learn.save("tied")
    other = make(tied(), split=1).load("tied")
    assert other.model[0][7].weight is other.model[0][3].weight
    assert not moved(snapshot(learn.model), other.model)


def _state(learn: Learner) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, state = state_of(learn)
    random_now = {"random/torch": torch.get_rng_state()}
    return {n: t.clone() for n, t in (tensors | random_now).items()}, copy.deepcopy(state)


def _same(one: Any, two: Any) -> bool:
    return (
        one[0].keys() == two[0].keys()
        and all(torch.equal(one[0][name], two[0][name]) for name in one[0])
        and one[1] == two[1]
    )


class Rotary(nn.Module):
    """Has a buffer that a state dict leaves out."""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.register_buffer("angles", torch.arange(float(n)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0 * self.get_buffer("angles").sum()


def with_rotary(n: int = 4) -> nn.Module:
    return nn.Sequential(nn.Sequential(*tiny_model()[0], Rotary(n)), tiny_model()[1])


def damages(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Iterator[Any]:
    """Each entry missing, of another kind or of another shape, one at a time."""
    for name, tensor in tensors.items():
        yield f"without {name}", {n: t for n, t in tensors.items() if n != name}, state
        yield f"{name} longer", tensors | {name: torch.cat([tensor.flatten()] * 2)}, state
    for path in list(_paths(state)):
        for value in (None, "x", {}, [1]):
            yield f"{path} = {value}", tensors, _with(state, path, value)
        yield f"without {path}", tensors, _with(state, path)


def _paths(state: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    for key in state if isinstance(state, dict) and depth else ():
        yield (key,)
        yield from ((key, *rest) for rest in _paths(state[key], depth - 1))


def _with(state: dict[str, Any], path: tuple[Any, ...], *value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(state)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value:
        inner[path[-1]] = value[0]
    else:
        del inner[path[-1]]
    return changed


@pytest.mark.parametrize("never_trained", [False, True])
@pytest.mark.parametrize("strict", [None, True, False])
def test_a_load_that_fails_changes_nothing(make, strict, never_trained) -> None:
    trained, learn = make(with_rotary()), make(with_rotary())
    trained.freeze()
    trained.fit(1, 1e-2)
    tensors, state = _state(trained)
    if not never_trained:
        learn.fit(1, 1e-3)
    before, opt = _state(learn), learn.opt
    failed = []
    for damage, some_tensors, some_state in damages(tensors, state):
        try:
            restore(learn, some_tensors, some_state, source="it", strict=strict)
        except CheckpointError:
            failed.append(damage)
            assert _same(_state(learn), before), damage
            assert learn.opt is opt, damage
        else:
            if {"optimizer", "norms"} & set(damage.replace("/", " ").replace("'", " ").split()):
                learn.fit(1)
            restore(learn, *before, source="before")
            learn.opt = opt
            assert _same(_state(learn), before), damage
    assert len(failed) > 50
    restore(learn, tensors, state, source="it", strict=strict)
    assert _same(_state(learn), (tensors, state))


@pytest.mark.parametrize("opt_func", ["adamw", "adafactor", "lamb", "nadam", "lbfgs"])
def test_an_optimizer_state_that_lacks_a_value_is_refused(make, opt_func: str) -> None:
    trained, learn = make(opt_func=opt_func), make(opt_func=opt_func)
    if opt_func != "lbfgs":
        trained.fit(1)
    tensors, state = state_of(trained)
    moments = [name for name in tensors if name.startswith("optimizer/")]
    for name in (n for n in moments if n.endswith("1.4.weight")):
        with pytest.raises(CheckpointError, match=r"1\.4\.weight"):
            restore(learn, {n: t for n, t in tensors.items() if n != name}, state, source="it")
    assert learn.opt is None
    restore(learn, tensors, state, source="it")
    if opt_func != "lbfgs":
        learn.fit(1)


def lookahead(groups: Any) -> torch.optim.Optimizer:
    """Its state is in the optimizer that it wraps."""
    return Lookahead(torch.optim.AdamW(groups), k=2)


def test_the_state_of_a_wrapped_optimizer_is_saved_and_follows_surgery(make) -> None:
    learn, other = make(opt_func=lookahead), make(opt_func=lookahead)
    learn.fit(1)
    learn.lr_find(num_it=20, show_plot=False, by_group=False)
    learn.save("lookahead")
    other.load("lookahead")
    for each in (learn, other):
        torch.manual_seed(3)
        each.model[1][4] = nn.Linear(8, 3)
        each.fit(1)
        assert len(each.opt._base_optimizer.state) == len(list(each.model.parameters()))
    assert not moved(snapshot(learn.model), other.model)


@pytest.mark.parametrize("setting", ["weight_decay", "eps"])
def test_settings_with_which_the_optimizer_cannot_step_are_refused(make, setting) -> None:
    trained, learn = make(), make()
    trained.fit(1)
    tensors, state = state_of(trained)
    before = _state(learn)
    for group in state["optimizer"]["groups"].values():
        group[setting] = "x"
    with pytest.raises(CheckpointError, match="with_opt=False"):
        restore(learn, tensors, state, source="it")
    assert _same(_state(learn), before)
    restore(learn, tensors, state, source="it", with_opt=False)


@pytest.mark.parametrize(
    "name", ["model/1.4.weight", "model/0.1.running_mean", "optimizer/exp_avg/1.4.weight"]
)
def test_fractions_saved_as_whole_numbers_are_refused(make, name) -> None:
    trained, learn = make(), make()
    trained.fit(1)
    tensors, state = state_of(trained)
    before = _state(learn)
    with pytest.raises(CheckpointError, match=name.partition("/")[2].rpartition("/")[2]):
        restore(learn, tensors | {name: tensors[name].to(torch.int8)}, state, source="it")
    assert _same(_state(learn), before)
    restore(learn, tensors, state, source="it")


@pytest.mark.parametrize("others", [("green", "red", "blue"), ("red", "green", "black")])
@pytest.mark.parametrize("strict", [None, True, False])
def test_other_classes_are_refused_as_the_labels_would_be_wrong(make, others, strict) -> None:
    learn = make()
    learn.fit(1)
    learn.save("a")
    other = make(dls=TinyLoaders(vocab=others))
    before = snapshot(other.model)
    with pytest.raises(CheckpointError) as caught:
        other.load("a", strict=strict)
    assert all(name in str(caught.value) for name in {"red", "green", "blue", *others})
    assert not moved(before, other.model)
    other.dls.vocab = ("red", "green", "blue")
    other.load("a")


def test_a_checkpoint_of_an_earlier_release_loads(make) -> None:
    tensors, state = state_of(make())
    older = {k: v for k, v in state.items() if k not in ("classes", "pretrained")}
    learn = make()
    learn.pretrained = True
    restore(learn, tensors, older, source="it")
    assert learn.pretrained


def test_a_buffer_of_a_different_shape_is_named(make, caplog) -> None:
    saved = state_of(make(with_rotary(4)))
    learn = make(with_rotary(6))
    before = _state(learn)
    with pytest.raises(CheckpointError, match="angles"):
        restore(learn, *saved, source="it", strict=True)
    assert _same(_state(learn), before)
    with caplog.at_level(logging.WARNING, logger="layergroups"):
        restore(learn, *saved, source="it")
    assert any("angles" in line for line in caplog.messages)
    assert len(learn.model[0][-1].angles) == 6


@pytest.fixture(scope="module")
def old() -> Learner:
    learn = learner_of(("red", "green", "blue"), seed=0)
    learn.fit(2)
    return learn


def test_a_plain_load_state_dict_between_learners_of_other_groups(
    make, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = make(), learner_of(("red", "green", "blue"), split=["0.0", "0.3", "0.7", "1"])
    old.fit(1)
    new.fit(1)
    held = [id(p) for g in new.opt.param_groups for p in g["params"]]
    new.model.load_state_dict(old.model.state_dict())
    assert new.layer_groups.names == ("0.0", "0.3", "0.7", "1")
    new.freeze_to(-2)
    weights = snapshot(old.model)
    with caplog.at_level(logging.WARNING):
        new.fit(1)
    assert not [line for line in caplog.messages if "batch norm" not in line]
    assert [id(p) for g in new.opt.param_groups for p in g["params"]] == held
    trained = moved(weights, new.model)
    assert trained
    assert all(name.startswith(("0.7", "0.8", "1.")) for name in trained)
