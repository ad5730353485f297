"""Several labels an item: trained, measured and predicted."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tests.tasks.trained import ALL, model_for, right_labels
from tests.training.tiny import LabelLoaders
from torch import nn

from layergroups.tasks import TASKS
from layergroups.tasks._metrics import make_named
from layergroups.training import LabelsPrediction


def test_labels_above_the_threshold_are_named_likeliest_first() -> None:
    found = TASKS["multilabel"].decode(torch.tensor([0.6, 0.2, 0.9]), ("a", "b", "c"), 0.5)
    assert isinstance(found, LabelsPrediction)
    assert (found.labels, found.indices) == (("c", "a"), (2, 0))
    assert found.by_name == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.9})
    assert str(found) == "c, a (c 0.900, a 0.600, b 0.200)"
    nothing = TASKS["multilabel"].decode(torch.tensor([0.1]), ("a",), 0.5)
    assert nothing.labels == ()
    assert str(nothing) == "no label (a 0.100)"


def test_fine_tune_learns_several_labels(make) -> None:
    dls = LabelLoaders(n=96)
    learn = make(model_for(dls), dls=dls, metrics=[right_labels])
    before = learn.validate()
    history = learn.fine_tune(8, 2e-2, lr=4e-3, defaults=ALL)
    after = learn.validate()
    assert after["valid_loss"] < 0.6 * before["valid_loss"]
    assert after["right_labels"] > 0.85 > 0.7 > before["right_labels"]
    assert history[-1].metrics["right_labels"] == after["right_labels"]


def test_metrics_by_name_count_labels_above_the_threshold(make) -> None:
    learn = make(model_for(LabelLoaders()), dls=LabelLoaders(), thresh=0.3, metrics="accuracy")
    probabilities, targets = learn.get_preds()
    for thresh in (0.3, 0.5, 0.6):
        learn.thresh = thresh
        by_hand = float(((probabilities > thresh).float() == targets).float().mean())
        assert learn.validate()["accuracy"] == pytest.approx(by_hand)
    assert learn.fit(1)[0].metrics["accuracy"] == learn.validate()["accuracy"]


def test_a_model_that_ends_in_a_sigmoid_is_trained_by_bce_loss(make, tmp_path: Path) -> None:
    """A second sigmoid would lift every probability above 0.5."""
    dls = LabelLoaders(n=96)
    model = model_for(dls)
    model[1].append(nn.Sigmoid())
    for loss in (nn.BCELoss(), ProbabilityLoss(), nn.functional.binary_cross_entropy):
        learn = make(deepcopy(model), dls=dls, loss_func=loss, metrics=["accuracy", "log_loss"])
        with torch.no_grad():
            outputs = learn.model.eval()(dls.valid.x)
        found, targets = learn.get_preds()
        assert torch.allclose(found, outputs, atol=1e-6)
        measured = learn.validate()
        right = (outputs > 0.5) == targets.bool()
        assert measured["accuracy"] == pytest.approx(float(right.float().mean()))
        assert measured["log_loss"] == pytest.approx(measured["valid_loss"], rel=1e-4)
        one = learn.predict(dls.valid.x[0])
        assert set(one.indices) == set((outputs[0] > 0.5).nonzero().flatten().tolist())
        assert learn.fit(1)[0].valid_loss == pytest.approx(learn.validate()["valid_loss"])


class ProbabilityLoss(nn.BCELoss):
    """Derived from torch's."""


def test_figures_have_the_f1_of_the_metric_and_the_micro_average_by_its_name() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(40, 3, generator=generator)
    targets = (torch.rand(40, 3, generator=generator) < torch.tensor([0.8, 0.3, 0.1])).float()
    task = TASKS["multilabel"]
    figures = task.figures(probabilities, targets, ("a", "b", "c"), 0.5)
    for name in ("f1", "f1_micro", "exact_match"):
        metric = make_named(name, 3, task, 0.5)
        metric.update(probabilities, targets)
        assert figures[name] == pytest.approx(float(metric.compute()))
    assert figures["f1"] != pytest.approx(figures["f1_micro"], abs=1e-2)
