"""From learner to learner: weights, optimizer state, other groups, other classes, other order."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, moved, pretrained, snapshot, tiny_model

from layergroups import grow_head, transplant
from layergroups.errors import TransplantError
from layergroups.training import Learner


def learner_of(vocab: tuple[str, ...], seed: int = 1, **options: Any) -> Learner:
    torch.manual_seed(seed)
    made = pretrained(tiny_model(len(vocab)))
    defaults: dict[str, Any] = {"progress": False, "seed": 0, "split": ["0.0", "0.7", "1"]}
    return Learner(TinyLoaders(vocab=vocab), made, **(defaults | options))


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
    assert "no class in common" in str(done)
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
