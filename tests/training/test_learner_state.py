"""A setting that is assigned acts or raises; it is never taken and ignored."""

from __future__ import annotations

import abc
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import distributed_script as script
from tests.training.tiny import TinyLoaders, moved, pretrained, snapshot, tiny_model
from torch import nn

from layergroups.errors import LayerGroupsError, NoAttributeError, TrainingError
from layergroups.groups import LayerGroups
from layergroups.models import grow_head, replace_head, shrink_head
from layergroups.training import CSVLog, FeatureCacheConfig, Learner


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thresh", 7), ("batch_norm", "zzz"), ("seed", "x"), ("seed", -1), ("accumulate", 0),
        ("clip", -1), ("ema", 2), ("opt_func", "adamm"), ("opt_func", 3), ("weight_decay", -1),
        ("wd", "a"), ("weight_decay", float("nan")), ("compile", 3), ("path", 3),
        ("metrics", "acuracy"), ("loss_func", "crossentropy"), ("dls", 3),
        ("mixed_precision", "fp32"), ("mixed_precision", 16), ("progress", "yes"),
        ("callbacks", 3), ("callbacks", [object()]), ("callbacks", [list]),
        ("feature_cache", 5), ("feature_cache", False), ("opt", 5), ("history", 5), ("norms", 5),
        ("cache", 5), ("groups", 5), ("data", 5), ("epochs_done", -1), ("epochs_done", "x"),
        ("fits_done", 1.5),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_when_it_is_assigned(make, name: str, value: Any) -> None:
    learn = make()
    before = getattr(learn, name)
    with pytest.raises(LayerGroupsError):
        setattr(learn, name, value)
    assert getattr(learn, name) == before
    learn.fit(1)


@pytest.mark.parametrize("name", ["groups", "layer_groups", "task", "data", "norms", "cache"])
def test_a_part_that_belongs_to_others_is_refused_with_the_right_call(make, name: str) -> None:
    learn = make()
    with pytest.raises(TrainingError, match="cannot be assigned"):
        setattr(learn, name, getattr(learn, name))


def test_an_optimizer_without_the_layer_groups_is_refused(make) -> None:
    learn = make()
    with pytest.raises(TrainingError, match="opt_func"):
        learn.opt = torch.optim.SGD(learn.model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"views": 0}, {"views": 1.5}, {"memory": "1G"}, {"disk": -1}, {"folder": 5}, {"half": "no"}],
)
def test_a_wrong_limit_of_the_feature_cache_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong)) if "folder" not in wrong else "path"):
        FeatureCacheConfig(**wrong)


def test_a_cache_that_is_not_a_config_is_refused(make) -> None:
    learn = make()
    for call in (
        lambda: make(feature_cache=5),
        lambda: learn.fit(1, feature_cache=5),
        lambda: learn.fine_tune(1, feature_cache=FeatureCacheConfig()),
    ):
        with pytest.raises(TrainingError, match="FeatureCacheConfig"):
            call()
    assert not learn.history


def test_another_optimizer_is_used_from_the_next_fit_on(make, caplog) -> None:
    learn = make()
    learn.fit(1)
    with caplog.at_level(logging.WARNING, "layergroups"):
        learn.opt_func = "sgd"
    assert len(caplog.records) == 1
    learn.fit(1)
    assert isinstance(learn.opt, torch.optim.SGD)
    opt = learn.opt
    learn.opt_func = "sgd"
    assert learn.opt is opt


@pytest.mark.parametrize("name", ["weight_decay", "wd"])
def test_another_decay_is_in_the_optimizer_at_once_but_not_for_norms(make, name: str) -> None:
    learn = make(weight_decay=0.01)
    learn.fit(1)
    opt, state = learn.opt, len(learn.opt.state)
    setattr(learn, name, 0.5)
    assert learn.opt is opt
    assert len(opt.state) == state
    assert {group["weight_decay"] for group in opt.param_groups} == {0.0, 0.5}
    assert learn.weight_decay == learn.wd == 0.5
    norms = {
        id(p)
        for m in learn.model.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    }
    for group in opt.param_groups:
        assert group["weight_decay"] == 0.0 or not norms & set(map(id, group["params"]))


def test_batch_norm_and_accumulate_act_in_the_next_fit(make) -> None:
    learn = make(batch_norm="update")
    before = snapshot(learn.model[0])
    learn.batch_norm = "keep"
    learn.accumulate = 3
    learn.fit(1)
    assert not [name for name in moved(before, learn.model[0]) if "running" in name]
    assert learn.opt.state[next(learn.model[1][4].parameters())]["step"] == 2


def test_a_misspelt_attribute_is_an_error_with_the_nearest_name(make) -> None:
    learn = make()
    with pytest.raises(NoAttributeError, match="weight_decay"):
        learn.weight_dekay = 0.1
    with pytest.raises(AttributeError):
        learn.cbs = []
    learn._private = 1
    for name in (
        "model",
        "dls",
        "loss_func",
        "metrics",
        "callbacks",
        "opt",
        "history",
        "pretrained",
    ):
        setattr(learn, name, getattr(learn, name))


def test_a_subclass_has_attributes_of_its_own_and_may_be_abstract() -> None:
    class Mine(Learner, abc.ABC):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.notes: list[str] = []

    learn = Mine(TinyLoaders(), tiny_model(), progress=False)
    learn.more = 3
    learn.fit(1)


def test_a_fit_that_is_refused_leaves_rates_and_freezing(make, tmp_path: Path) -> None:
    make().fit(1, checkpoint_dir=tmp_path)
    learn = make(lr=1e-3)
    learn.freeze_to(-2)
    before = (learn.layer_groups.rates, learn.layer_groups.frozen)
    refused: list[Any] = [
        lambda: learn.fit(1, 0.5, checkpoint_dir=tmp_path),
        lambda: learn.gradual_unfreeze(1, 0.5, checkpoint_dir=tmp_path),
        lambda: learn.fine_tune(1, 0.5, checkpoint_dir=tmp_path, freeze_epochs=0),
        lambda: learn.fit(1, 0.5, callbacks=[CSVLog]),
        lambda: learn.fit(1, 0.0),
        lambda: learn.fit(1, [0.1, 0.2]),
    ]
    for fit in refused:
        with pytest.raises(LayerGroupsError):
            fit()
        assert (learn.layer_groups.rates, learn.layer_groups.frozen) == before


@pytest.mark.parametrize("training", [True, False])
def test_a_fit_that_is_refused_late_leaves_the_modes(make, training: bool) -> None:
    class Refuses:
        def before_fit(self, run: Any) -> None:
            raise TrainingError("no")

    learn = make()
    learn.model.train(training)
    for fit in (
        lambda: learn.fit(1, 0.0),
        lambda: learn.fit(1, callbacks=[Refuses()]),
        lambda: learn.fine_tune(1, callbacks=[Refuses()]),
        lambda: learn.gradual_unfreeze(1, callbacks=[Refuses()]),
    ):
        with pytest.raises(TrainingError):
            fit()
        assert {module.training for module in learn.model.modules()} == {training}


COLOURS = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("vocab", "way"),
    [
        ((*COLOURS, "kiwi"), "grow_head(learn.model, 4)"),
        (COLOURS[:2], "shrink_head(learn.model, [0, 1])"),
        (("green", "red", "blue"), "grow_head(learn.model"),
    ],
)
def test_other_classes_are_refused_with_the_calls_that_keep_the_head(make, vocab, way) -> None:
    learn = make()
    with pytest.raises(TrainingError) as caught:
        learn.dls = TinyLoaders(vocab=vocab)
    assert all(call in str(caught.value) for call in (way, "transplant("))


def test_classes_are_added_with_a_grown_head(make) -> None:
    learn = make(metrics="accuracy")
    learn.fit(1)
    grow_head(learn.model, 4)
    with pytest.raises(TrainingError):  # would be other rows of the head
        learn.dls = TinyLoaders(vocab=("red", "kiwi", "green", "blue"))
    learn.dls = TinyLoaders(vocab=(*COLOURS, "kiwi"))
    learn.fit(1)
    assert set(learn.predict(torch.zeros(3, 16, 16)).to_dict()["probabilities"]) >= {"kiwi"}


@pytest.mark.parametrize("change", [grow_head, replace_head, shrink_head, LayerGroups])
def test_surgery_of_a_learner_names_its_model(make, change) -> None:
    with pytest.raises(LayerGroupsError, match=r"learn\.model"):
        change(make(), 5)


def test_a_fit_that_is_refused_leaves_frozen_what_the_user_froze(make, tmp_path: Path) -> None:
    make().fit(1, checkpoint_dir=tmp_path)
    learn = make()
    weight = next(learn.layer_groups[-1].parameters()).requires_grad_(False)
    with pytest.raises(LayerGroupsError):
        learn.fine_tune(1, 0.5, checkpoint_dir=tmp_path, freeze_epochs=0)
    assert not weight.requires_grad
    learn.unfreeze()
    assert weight.requires_grad


def test_a_callback_that_is_appended_later_is_checked(make) -> None:
    learn = make()
    learn.callbacks.append(CSVLog)
    with pytest.raises(TrainingError, match=r"CSVLog\(\)"):
        learn.fit(1)


def test_a_new_learner_says_that_statistics_are_kept(make, caplog) -> None:
    learn = make(model=tiny_model())
    learn.fit(1)
    learn.fit(1)
    assert "running statistics" not in caplog.text
    again = make(model=learn.model)
    again.fit(1)
    again.fit(1)
    assert caplog.text.count("running statistics") == 1
    caplog.clear()
    known = make(model=pretrained(tiny_model()))
    known.pretrained = True
    known.fit(1)
    make(model=learn.model, batch_norm="update").fit(1)
    assert "running statistics" not in caplog.text


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_accumulate_must_be_a_whole_number(wrong: Any) -> None:
    with pytest.raises(TrainingError, match="accumulate="):
        script.learner(accumulate=wrong)


def test_accumulation_of_the_launcher_is_meant_once(monkeypatch: Any) -> None:
    plain = script.learner(accumulate=2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    launched = script.learner()
    assert launched.accumulate == 2
    for learn in (plain, launched):
        learn.fit(1)
    assert not moved(snapshot(plain.model), launched.model)


@pytest.mark.parametrize("wrong", ["nope", 5, None, int, ["accuracy"]])
def test_a_metric_appended_later_is_refused_before_the_fit(wrong: object) -> None:
    learn = Learner(TinyLoaders(n=16), tiny_model(), metrics=["accuracy"], progress=False)
    before = [p.detach().clone() for p in learn.model.parameters()]
    rates = learn.layer_groups.rates
    learn.metrics.append(wrong)
    with pytest.raises(TrainingError):
        learn.fit(1, 0.5)
    assert learn.layer_groups.rates == rates
    assert all(map(torch.equal, before, learn.model.parameters()))
