"""What is read from predictions: what is worst, each class, calibration, for every task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.laws.test_8_looking_changes_nothing import differences, learner_state
from tests.reports.looked_at import Numbers, says
from tests.reports.readable import assert_readable
from tests.training.tiny import TinyLoaders, tiny_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layergroups import ImageDataLoaders, Interpretation, Learner, vision_learner
from layergroups.errors import LayerGroupsError
from layergroups.reports import Calibration, ClassReport, Residuals, TopLoss
from layergroups.reports._images import each_of
from layergroups.reports.figures import draw_calibration, draw_confusion, draw_residuals

NAMES = ("cat", "dog", "cow")
ONE = torch.tensor([[9.0, 0, 0], [0, 9, 0], [2, 0, 0], [0, 1, 0], [0, 0, 3], [0, 0, 5], [4, 0, 0]])
IS = torch.tensor([0, 1, 0, 2, 2, 0, 1])


@pytest.fixture
def multiclass() -> Interpretation:
    return Interpretation.from_learner(says(ONE, IS, NAMES))


@pytest.fixture
def multilabel() -> Interpretation:
    outputs = torch.tensor([[3.0, -3, 2], [-3, -3, 4], [-1, 2, -1], [-4, -4, -4]])
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
    return Interpretation.from_learner(
        says(outputs, targets, NAMES, "multilabel", nn.BCEWithLogitsLoss())
    )


@pytest.fixture
def numbers() -> Interpretation:
    outputs = torch.tensor([[1.0], [2], [3], [7]])
    targets = torch.tensor([[1.0], [2.5], [3], [4]])
    return Interpretation.from_learner(says(outputs, targets, (), "regression", Numbers()))


# One class an item


def test_one_class_an_item(multiclass: Interpretation) -> None:
    assert (len(multiclass), multiclass.task, multiclass.classes) == (7, "multiclass", NAMES)
    assert torch.equal(multiclass.predictions, ONE.softmax(1))
    assert torch.equal(multiclass.targets, IS)
    wanted = nn.functional.cross_entropy(ONE, IS, reduction="none")
    assert torch.allclose(multiclass.losses, wanted)
    assert multiclass.correct.tolist() == [True, True, True, False, True, False, False]
    assert multiclass.paths == (None,) * 7


def test_top_losses_come_worst_first(multiclass: Interpretation) -> None:
    worst = multiclass.top_losses(2)
    assert [item.index for item in worst] == [5, 6]
    assert (worst[0].actual, worst[0].predicted) == ("cat", "cow")
    assert worst[0].probability == pytest.approx(float(ONE[5].softmax(0)[2]))
    assert worst[0].loss == pytest.approx(float(multiclass.losses.max()))
    assert [item.loss for item in multiclass.top_losses(None)] == sorted(
        multiclass.losses.tolist(), reverse=True
    )
    assert multiclass.top_losses(1, largest=False)[0].loss == float(multiclass.losses.min())
    assert isinstance(worst[0], TopLoss)
    assert json.loads(json.dumps(worst[0].to_dict()))["path"] is None


def test_the_confusion_matrix(multiclass: Interpretation) -> None:
    assert multiclass.confusion_matrix().matrix == ((2, 0, 1), (1, 1, 0), (0, 1, 1))
    assert len(multiclass.most_confused()) == 3
    assert multiclass.most_confused(2) == ()


def test_a_report_for_each_class_is_that_of_scikit_learn(multiclass: Interpretation) -> None:
    report = multiclass.class_report()
    cat = report["cat"]
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert cat.support == 3
    assert report.total.f1 == pytest.approx(4 / 7)
    assert report.macro.recall == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert report.weighted.recall == pytest.approx(4 / 7)
    assert report.total.support == 7
    assert "cat" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["classes"][0]["support"] == 3


# Several labels, and numbers


def test_labels_count_above_the_threshold_of_the_learner() -> None:
    outputs = torch.tensor([[0.0, 3.0], [1.0, -3.0]])  # 0.5, 0.95; 0.73, 0.05
    learn = says(outputs, torch.ones(2, 2), ("a", "b"), "multilabel", nn.BCEWithLogitsLoss())
    interp = Interpretation.from_learner(learn)
    assert interp.predicted.tolist() == [[False, True], [True, False]]
    learn.thresh = 0.8
    told = Interpretation.from_learner(learn)
    assert (told.threshold, told.predicted.tolist()) == (0.8, [[False, True], [False, False]])
    assert Interpretation.from_learner(learn, threshold=0.4).predicted.tolist()[0] == [True, True]
    said = [learn.predict(row).labels for row, _ in each_of(learn.dls.valid)]
    assert said == [("b",), ()]


def test_several_labels_an_item(multilabel: Interpretation) -> None:
    assert multilabel.correct.tolist() == [True, False, True, True]
    report = multilabel.class_report()
    assert (report["dog"].precision, report["dog"].recall) == (1.0, 0.5)
    worst = multilabel.top_losses(1)[0]
    assert (worst.index, worst.actual, worst.predicted) == (1, "dog, cow", "cow")
    assert multilabel.top_losses(4, largest=False)[0].predicted in ("cat, cow", "none")
    assert multilabel.calibration().count == 12
    found = multilabel.calibration(2)
    assert found.bins[1].accuracy == 1.0
    assert found.bins[0].accuracy == pytest.approx(1 / 8)


def test_the_threshold_is_a_choice() -> None:
    learn = says(
        torch.zeros(3, 2), torch.ones(3, 2), ("a", "b"), "multilabel", nn.BCEWithLogitsLoss()
    )
    assert Interpretation.from_learner(learn, threshold=0.4).correct.all()
    assert not Interpretation.from_learner(learn, threshold=0.6).correct.any()


def test_numbers(numbers: Interpretation) -> None:
    found = numbers.residuals()
    row = found.outputs[0]
    assert [value for (value,) in found.values] == [0, -0.5, 0, 3]
    assert (row.mean, row.mean_absolute, row.largest) == (0.625, 0.875, 3)
    assert row.root_mean_square == pytest.approx(math.sqrt(9.25 / 4))
    spread = torch.tensor([1, 2.5, 3, 4]).sub(2.625).square().sum()
    assert row.r2 == pytest.approx(1 - 9.25 / float(spread))
    worst = numbers.top_losses(1)[0]
    assert (worst.index, worst.predicted, worst.actual, worst.probability) == (3, "7", "4", None)


def test_numbers_may_come_without_a_second_dimension() -> None:
    found = Interpretation.from_learner(
        says(torch.ones(4, 1), torch.zeros(4, 1), (), "regression", Numbers())
    )
    flat = Residuals.from_predictions(found.predictions, found.targets)
    assert flat.outputs[0].r2 is None
    assert flat.outputs[0].mean == 1


REFUSED = [
    ("multilabel", lambda i: i.confusion_matrix(), r"class_report\(\)"),
    ("multilabel", lambda i: i.most_confused(), r"class_report\(\)"),
    ("multilabel", lambda i: i.residuals(), r"class_report\(\)"),
    ("numbers", lambda i: i.confusion_matrix(), r"residuals\(\)"),
    ("numbers", lambda i: i.plot_confusion_matrix(), r"residuals\(\)"),
    ("numbers", lambda i: i.class_report(), r"residuals\(\)"),
    ("numbers", lambda i: i.calibration(), r"residuals\(\)"),
    ("numbers", lambda i: i.correct, r"residuals\(\)"),
    ("multiclass", lambda i: i.residuals(), r"class_report\(\)"),
    ("multiclass", lambda i: i.plot_residuals(), r"class_report\(\)"),
    ("multiclass", lambda i: i.top_losses("many"), "k='many'"),
    ("multiclass", lambda i: i.top_losses(-1), "k=-1"),
    ("multiclass", lambda i: i.plot_top_losses(0), "k=0"),
    ("multiclass", lambda i: i.most_confused("a"), "min_val='a'"),
    ("multiclass", lambda i: i.calibration(0), "bins=0"),
    ("multiclass", lambda i: i.grad_cam([99]), "0 to 6"),
    ("multiclass", lambda i: i.images([]), "positions from 0"),
    ("multiclass", lambda i: i.plot_calibration("a.gif"), r"\.png"),
    ("multiclass", lambda i: i.plot_calibration(3), "path=3"),
]


@pytest.mark.parametrize(("task", "ask", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(
    task: str, ask: Any, words: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(LayerGroupsError, match=words):
        ask(request.getfixturevalue(task))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "detection"}, "'detection' is not known"),
        ({"threshold": 3}, "threshold=3"),
        ({"targets": torch.zeros(2, 2)}, r"targets has shape \(2, 2\)"),
        ({"losses": torch.zeros(3)}, "losses"),
        ({"paths": ()}, "0 paths for 2 items"),
        ({"predictions": [1]}, "must be a tensor"),
        ({"classes": ("a",)}, r"predictions has shape \(2, 2\)"),
    ],
)
def test_tensors_must_fit_the_task(fields: dict[str, Any], words: str) -> None:
    made: dict[str, Any] = {
        "predictions": torch.ones(2, 2), "targets": torch.tensor([0, 1]),
        "losses": torch.zeros(2), "paths": (None, None), "classes": ("a", "b"),
    }  # fmt: skip
    Interpretation(**made)
    with pytest.raises(LayerGroupsError, match=words):
        Interpretation(**(made | fields))


def test_without_targets_or_a_learner_it_says_what_is_needed(multiclass: Interpretation) -> None:
    with pytest.raises(LayerGroupsError, match=r"\(inputs, targets\)"):
        Interpretation.from_learner(says(ONE, IS, NAMES), [ONE])
    with pytest.raises(LayerGroupsError, match=r"from_learner\(learn\)"):
        Interpretation.from_learner(cast(Any, "learn"))
    alone = Interpretation(multiclass.predictions, IS, multiclass.losses, multiclass.paths, NAMES)
    with pytest.raises(LayerGroupsError, match="no images"):
        alone.images([0])


# Photos


@pytest.fixture
def clothes(folder: Any) -> Any:
    dls = ImageDataLoaders.from_folder(folder(cat=5, dog=5, cow=5), size=32, batch_size=4)
    return vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)


def test_pictures_are_drawn(clothes: Any, tmp_path: Path) -> None:
    found: Any = Interpretation.from_learner(clothes)
    before = learner_state(clothes)
    for cam in (True, False):
        figure = found.plot_top_losses(3, cam=cam)
        assert_readable(figure)
        shapes = {axes.images[0].get_array().shape[:2] for axes in figure.axes}
        assert len(figure.axes) == 3
        assert shapes == {(32, 66 if cam else 32)}
    assert found.plot_top_losses(1, tmp_path / "a/top.png") == tmp_path / "a/top.png"
    assert found.plot_confusion_matrix(tmp_path / "c.svg") == tmp_path / "c.svg"
    assert found.plot_calibration(tmp_path / "k.png").stat().st_size > 1000
    assert differences(before, learner_state(clothes)) == []


@pytest.mark.parametrize("count", [0, 1, 300])
def test_calibrations_can_be_read(count: int) -> None:
    said = torch.linspace(0, 1, count)
    assert_readable(draw_calibration(Calibration.from_predictions(said, said > 0.5)))


@pytest.mark.parametrize(("n", "outputs"), [(1, 1), (30, 2), (400, 6)])
def test_residuals_can_be_read(n: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(n)
    actual = torch.randn(n, outputs, generator=generator) * 1000
    predicted = actual + torch.randn(n, outputs, generator=generator)
    names = ["$a_{", "a very long name of a number that has no end at all", *"bcde"][:outputs]
    errors = Residuals.from_predictions(predicted, actual, names).outputs
    assert_readable(draw_residuals(predicted, actual, errors))


def test_a_dollar_in_a_name_is_a_letter() -> None:
    assert_readable(draw_confusion([[1, 0], [0, 1]], ["$a_{", "$b$"]))


# How it shows


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "numbers"])
def test_it_shows_and_turns_into_json(task: str, request: pytest.FixtureRequest) -> None:
    found: Interpretation = request.getfixturevalue(task)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["items"] == len(found)
    assert "correct" in repr(found) or task == "numbers"
    assert "largest losses" in found._repr_html_()


def test_names_cannot_inject_markup() -> None:
    bad = ("<script>alert(1)</script>", "<b>x", '"&')
    found = Interpretation.from_learner(says(ONE, IS, bad))
    parts: list[Any] = [found, found.class_report(), found.calibration()]
    for html in (part._repr_html_() for part in parts):
        assert "<script" not in html
        assert "<b>" not in html
    assert "&lt;script&gt;" in found._repr_html_()
    assert "[red]" in str(
        ClassReport.from_classes(torch.tensor([0]), torch.tensor([0]), ("[red]",))
    )


def test_it_changes_nothing() -> None:
    learn = Learner(TinyLoaders(), tiny_model(), split=2, progress=False)
    learn.model.train()
    before = learner_state(learn)
    found = Interpretation.from_learner(learn)
    found.top_losses(3), found.class_report(), found.grad_cam([0, 1]), found.to_dict()
    assert differences(before, learner_state(learn)) == []


@pytest.mark.parametrize(
    ("loss", "targets", "task"),
    [
        (nn.MSELoss(), torch.randn(24, 1), "regression"),
        (nn.BCEWithLogitsLoss(), torch.arange(24).remainder(2).float()[:, None], "multilabel"),
    ],
)
def test_plain_loaders_have_the_task_of_the_loss(
    loss: nn.Module, targets: torch.Tensor, task: str
) -> None:
    class Data:
        train = valid = DataLoader(TensorDataset(torch.randn(24, 10), targets), 8)

    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    learn = Learner(Data(), model, loss_func=loss, progress=False)
    assert Interpretation.from_learner(learn).task == task
    assert learn.report().records[0].outcome.task == task
