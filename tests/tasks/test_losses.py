"""Losses by name and as objects: what they compute, where weights come from, how they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from tests.training.tiny import TinyLoaders, tiny_model
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

from layergroups.data import ImageDataLoaders
from layergroups.errors import CheckpointError, TrainingError
from layergroups.tasks import (
    LOSSES,
    TASKS,
    Meaning,
    as_loss,
    checked_loss,
    describe_loss,
    item_losses,
    loss_from,
    meaning_of,
    saved_name,
)
from layergroups.tasks._losses import balanced_weights, positive_weights
from layergroups.training import (
    L1,
    BinaryCrossEntropy,
    BinaryDiceLoss,
    BinaryFocalLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    Huber,
    Learner,
    MeanSquaredError,
    SumLoss,
    load_learner,
    vision_learner,
)

GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS = torch.randn(6, 3, generator=GENERATOR)
CLASSES = torch.tensor([0, 1, 2, 0, 0, 1])
LABELS = (torch.rand(6, 3, generator=GENERATOR) > 0.5).float()
SOFT = torch.rand(6, 3, generator=GENERATOR).softmax(1)
WEIGHT = torch.tensor([1.0, 2.0, 5.0])


def own_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets)


class WithActivation:
    activation = staticmethod(torch.tanh)

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum()


class ProbabilityLoss(nn.BCELoss):
    """A loss of a user, derived from torch's."""


class BCELossOfAnother(nn.Module):
    """Named as torch's, but not of its kind."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)


# What outputs mean


MEANINGS: list[tuple[Any, Meaning | None]] = [
    (nn.CrossEntropyLoss(), Meaning.SOFTMAX),
    (nn.NLLLoss(), Meaning.SOFTMAX),
    (CrossEntropy(), Meaning.SOFTMAX),
    (partial(partial(F.cross_entropy, label_smoothing=0.1), reduction="mean"), Meaning.SOFTMAX),
    (nn.BCEWithLogitsLoss(), Meaning.SIGMOID),
    (BinaryFocalLoss(), Meaning.SIGMOID),
    (nn.BCELoss(), Meaning.PROBABILITIES),
    (ProbabilityLoss(), Meaning.PROBABILITIES),
    (F.binary_cross_entropy, Meaning.PROBABILITIES),
    (nn.SmoothL1Loss(), Meaning.NUMBERS),
    (partial(F.huber_loss, delta=2.0), Meaning.NUMBERS),
    (nn.PoissonNLLLoss(log_input=False), Meaning.RATES),
    (nn.PoissonNLLLoss(), Meaning.LOG_RATES),
    (partial(F.poisson_nll_loss, log_input=False), Meaning.RATES),
    (own_loss, None),
    (BCELossOfAnother(), None),
    (TimmBinaryCrossEntropy(), None),
]


@pytest.mark.parametrize(("loss", "meaning"), MEANINGS)
def test_what_outputs_mean_is_told_by_the_kind_of_loss(loss: Any, meaning: Meaning | None) -> None:
    assert meaning_of(loss) is meaning


def test_predictions_are_what_the_loss_takes_outputs_for() -> None:
    predictions = TASKS["multiclass"].predictions
    assert torch.equal(predictions(OUTPUTS, nn.CrossEntropyLoss()), OUTPUTS.softmax(1))
    assert torch.equal(predictions(OUTPUTS, own_loss), OUTPUTS.softmax(1))
    assert torch.allclose(predictions(OUTPUTS.log_softmax(1), nn.NLLLoss()), OUTPUTS.softmax(1))
    assert torch.equal(predictions(OUTPUTS, nn.BCEWithLogitsLoss()), OUTPUTS.sigmoid())
    assert torch.equal(predictions(OUTPUTS, WithActivation()), OUTPUTS.tanh())
    assert torch.equal(TASKS["multilabel"].predictions(OUTPUTS, nn.BCELoss()), OUTPUTS)
    assert torch.equal(TASKS["regression"].predictions(OUTPUTS, nn.PoissonNLLLoss()), OUTPUTS.exp())


# Losses of items, and a loss that does not fit


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), own_loss], ids=["torch", "own"])
def test_item_losses_average_to_the_loss(loss) -> None:
    losses = item_losses(loss, OUTPUTS, CLASSES)
    assert losses.shape == (6,)
    assert torch.allclose(losses.mean(), loss(OUTPUTS, CLASSES))


class Around(nn.Module):
    """A loss whose reduction is that of a loss inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss()

    @property
    def reduction(self) -> str:
        return self.inner.reduction

    @reduction.setter
    def reduction(self, value: str) -> None:
        self.inner.reduction = value

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.inner(outputs, targets)


@dataclass(frozen=True)
class Fixed:
    """A loss whose reduction cannot be set."""

    reduction: str = "mean"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        torch.compile(nn.CrossEntropyLoss(), backend="eager"),
        Around(),
        Fixed(),
    ],
    ids=["torch", "compiled", "around another loss", "fixed"],
)
def test_item_losses_leave_the_loss_as_it_was(loss: Any) -> None:
    expected = F.cross_entropy(OUTPUTS, CLASSES, reduction="none")
    assert torch.allclose(item_losses(loss, OUTPUTS, CLASSES), expected)
    assert loss.reduction == "mean"
    assert loss(OUTPUTS, CLASSES).ndim == 0


def test_a_compiled_loss_means_what_the_loss_inside_means() -> None:
    assert meaning_of(torch.compile(nn.BCELoss(), backend="eager")) is Meaning.PROBABILITIES


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), CLASSES[:4]),
        (nn.CrossEntropyLoss(reduction="none"), CLASSES),
        (nn.MSELoss(), CLASSES.reshape(2, 3).float()),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_does_not_fit_shows_the_shapes(loss, targets) -> None:
    with pytest.raises(TrainingError, match=r"\(6, 3\)"):
        checked_loss(loss, OUTPUTS, targets)


# The losses of this library


def test_cross_entropy_is_that_of_torch() -> None:
    assert torch.equal(CrossEntropy()(OUTPUTS, CLASSES), F.cross_entropy(OUTPUTS, CLASSES))
    smooth = F.cross_entropy(OUTPUTS, CLASSES, label_smoothing=0.1)
    assert torch.allclose(CrossEntropy(label_smoothing=0.1)(OUTPUTS, CLASSES), smooth)
    assert torch.allclose(CrossEntropy()(OUTPUTS, SOFT), F.cross_entropy(OUTPUTS, SOFT))
    ours = CrossEntropy(weight=WEIGHT)(OUTPUTS, CLASSES)
    theirs = F.cross_entropy(OUTPUTS, CLASSES, weight=WEIGHT, reduction="sum")
    assert torch.allclose(ours, theirs / len(OUTPUTS))  # the mean over items, not over weights


def test_focal_loss_is_the_paper_s() -> None:
    assert torch.allclose(FocalLoss(gamma=0)(OUTPUTS, CLASSES), F.cross_entropy(OUTPUTS, CLASSES))
    p = OUTPUTS.softmax(1)[torch.arange(6), CLASSES]
    assert torch.allclose(FocalLoss()(OUTPUTS, CLASSES), (-((1 - p) ** 2) * p.log()).mean())
    weighted = (-WEIGHT[CLASSES] * (1 - p) ** 3 * p.log()).mean()
    assert torch.allclose(FocalLoss(gamma=3, weight=WEIGHT)(OUTPUTS, CLASSES), weighted)
    hard = F.one_hot(CLASSES, 3).float()
    assert torch.allclose(FocalLoss()(OUTPUTS, hard), FocalLoss()(OUTPUTS, CLASSES))


def test_binary_losses() -> None:
    plain = F.binary_cross_entropy_with_logits(OUTPUTS, LABELS)
    assert torch.equal(BinaryCrossEntropy()(OUTPUTS, LABELS), plain)
    assert torch.equal(BinaryCrossEntropy()(OUTPUTS, LABELS.long()), plain)
    assert torch.allclose(BinaryFocalLoss(gamma=0, alpha=None)(OUTPUTS, LABELS), plain)
    p = OUTPUTS.sigmoid()
    there, not_there = 0.25 * (1 - p) ** 2 * p.log(), 0.75 * p**2 * (1 - p).log()
    expected = -torch.where(LABELS == 1, there, not_there).mean()
    assert torch.allclose(BinaryFocalLoss()(OUTPUTS, LABELS), expected)
    weighted = F.binary_cross_entropy_with_logits(OUTPUTS, LABELS, pos_weight=WEIGHT)
    assert torch.allclose(BinaryCrossEntropy(pos_weight=WEIGHT)(OUTPUTS, LABELS), weighted)
    smooth = F.binary_cross_entropy_with_logits(OUTPUTS, LABELS * 0.8 + 0.1)
    assert torch.allclose(BinaryCrossEntropy(label_smoothing=0.2)(OUTPUTS, LABELS), smooth)


@pytest.mark.parametrize("name", [name for name in LOSSES if "dice" not in name])  # of pixels
def test_every_loss_has_items_and_predictions(name: str) -> None:
    loss: Any = LOSSES[name]()
    targets = CLASSES if name in ("cross_entropy", "focal") else LABELS
    each = item_losses(loss, OUTPUTS, targets)
    assert each.shape == (6,)
    assert torch.allclose(each.mean(), loss(OUTPUTS, targets))
    assert loss.reduction == "mean"
    sums = TASKS["multiclass"].predictions(OUTPUTS, loss).sum(1)
    assert torch.allclose(sums, torch.ones(6)) == (name in ("cross_entropy", "focal"))
    loss.reduction = "sum"
    total = loss(OUTPUTS, targets)
    loss.reduction = "none"
    assert torch.allclose(total, loss(OUTPUTS, targets).sum())


@pytest.mark.parametrize("loss", [CrossEntropy(), FocalLoss(), BinaryCrossEntropy()])
def test_outputs_in_half_precision_give_a_loss_in_full(loss: Any) -> None:
    targets = LABELS if isinstance(loss, BinaryCrossEntropy) else CLASSES
    assert loss(OUTPUTS.bfloat16(), targets).dtype == torch.float32


def test_a_weighted_loss_does_not_depend_on_how_items_are_batched() -> None:
    for loss in (CrossEntropy(weight=WEIGHT, label_smoothing=0.1), FocalLoss(weight=WEIGHT)):
        halves = [loss(OUTPUTS[i : i + 3], CLASSES[i : i + 3]) for i in (0, 3)]
        assert torch.allclose(sum(halves) / 2, loss(OUTPUTS, CLASSES))


# Weights from the data


@pytest.fixture
def photos(tmp_path: Path) -> ImageDataLoaders:
    """Eight photos of one class, four of another."""
    for name, count in (("a", 8), ("b", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = numpy.full((32, 32, 3), 20 * number, dtype=numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return ImageDataLoaders.from_folder(tmp_path, size=32, batch_size=4, num_workers=0)


def uneven() -> TinyLoaders:
    """Of 12 items 6, 4 and 2 are of the three classes."""
    dls = TinyLoaders(n=12)
    dls.train.y = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    return dls


def test_balanced_weights_even_out_the_training_data(make) -> None:
    dls = uneven()
    learn = make(dls=dls, loss_func=CrossEntropy(weight="balanced"))
    assert learn.loss_func.weight == pytest.approx((12 / 18, 1, 2))
    weight = torch.tensor(learn.loss_func.weight)[dls.train.y]
    assert float(weight.mean()) == pytest.approx(1)
    learn.fit(1)
    learn.loss_func = FocalLoss(weight="balanced")
    assert learn.loss_func.weight == pytest.approx((12 / 18, 1, 2))


@pytest.mark.parametrize("loss", [CrossEntropy(weight="balanced"), FocalLoss(weight="balanced")])
def test_balanced_weights_are_those_of_the_data_that_the_learner_has(make, loss) -> None:
    learn = make(dls=uneven(), loss_func=loss)
    first = learn.loss_func.weight
    other = TinyLoaders(n=12)
    other.train.y = torch.tensor([0] * 2 + [1] * 4 + [2] * 6)
    learn.dls = other
    assert learn.loss_func.weight == pytest.approx(first[::-1]) != pytest.approx(first)
    assert (
        learn.fit(1)[0].train_loss
        == make(dls=other, loss_func=type(loss)(weight=learn.loss_func.weight)).fit(1)[0].train_loss
    )
    assert loss.weight == "balanced"  # the object of the user stays as it is


def test_labels_are_found_where_data_have_them(photos: ImageDataLoaders, make) -> None:
    learn = vision_learner(
        photos, "timm:test_resnet", pretrained=False, loss_func=CrossEntropy(weight="balanced")
    )
    assert learn.loss_func.weight == (9 / 12, 9 / 6)
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 0, 1]))
    loader = torch.utils.data.DataLoader(data, 2)
    for c, expected in ((2, (4 / 6, 2.0)), (3, (4 / 6, 2.0, 1.0))):
        learn = make(dls=SimpleNamespace(train=loader, valid=[], c=c), loss_func=learn._loss_func)
        assert learn.loss_func.weight == expected
    named = SimpleNamespace(dataset=SimpleNamespace(targets=["b", "a", "b"]))
    dls = SimpleNamespace(train=named, valid=[], vocab=("a", "b"))
    assert make(dls=dls, loss_func=learn._loss_func).loss_func.weight == (3 / 2, 3 / 4)


def test_weights_of_labels() -> None:
    assert positive_weights(torch.tensor([[1, 0, 1], [0, 0, 1.0]]), 3) == (1.0, 1.0, 1.0)
    targets = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0.0]])
    assert positive_weights(targets, 2) == (3.0, 3.0)
    with pytest.raises(TrainingError, match="pos_weight"):
        balanced_weights(targets, 2)
    one_hot = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0.0]])
    assert balanced_weights(one_hot, 2) == balanced_weights(torch.tensor([0, 0, 1, 0]), 2)


def test_data_that_do_not_tell_their_labels(make) -> None:
    dls = uneven()
    dls.train = [(dls.train.x, dls.train.y)]
    with pytest.raises(TrainingError, match=r"list .*weight=\[1\.0, 5\.0\]"):
        make(dls=dls, loss_func=CrossEntropy(weight="balanced"))


# Sums

PIXELS = torch.randn(2, 3, 4, 4, generator=GENERATOR)
MASKS = torch.randint(3, (2, 4, 4), generator=GENERATOR)


def test_a_sum_by_name_has_equal_shares() -> None:
    loss = as_loss("dice+focal")
    expected = (DiceLoss()(PIXELS, MASKS) + FocalLoss()(PIXELS, MASKS)) / 2
    assert torch.allclose(loss(PIXELS, MASKS), expected)
    assert torch.allclose(item_losses(loss, PIXELS, MASKS).mean(), expected)
    three = SumLoss(["cross_entropy", nn.CrossEntropyLoss(), own_loss], weights=[1, 2, 3])
    assert torch.allclose(three(OUTPUTS, CLASSES), 6 * F.cross_entropy(OUTPUTS, CLASSES))


def test_known_sums_stay_as_they_are_in_any_order() -> None:
    assert as_loss("cross_entropy+dice") == as_loss("dice + cross_entropy") == DiceLoss(0.5)
    assert as_loss("bce+dice") == BinaryDiceLoss(0.5)
    parts = SumLoss([DiceLoss(), CrossEntropy()])
    assert torch.allclose(parts(PIXELS, MASKS), DiceLoss(0.5)(PIXELS, MASKS))
    assert as_loss("dice+binary_focal") == SumLoss([BinaryDiceLoss(), BinaryFocalLoss()])


def test_a_sum_interprets_outputs_as_its_losses_do(caplog: Any) -> None:
    assert meaning_of(SumLoss([own_loss, "focal"])) is Meaning.SOFTMAX
    assert meaning_of(SumLoss(["binary_dice", "bce"])) is Meaning.SIGMOID
    assert meaning_of(SumLoss([own_loss])) is None
    task = TASKS["multiclass"]
    loss = SumLoss([WithActivation(), own_loss])
    assert torch.equal(task.predictions(OUTPUTS, loss), OUTPUTS.tanh())
    task.note_unknown_loss(SumLoss([own_loss, "focal"]))
    assert not caplog.records


def test_a_sum_balances_its_losses(make) -> None:
    loss = SumLoss([CrossEntropy(weight="balanced"), "focal"], weights=[1, 0])
    learn = make(dls=uneven(), loss_func=loss)
    first = learn.loss_func.losses[0]
    assert first.weight == pytest.approx((12 / 18, 1, 2))
    alone = make(dls=uneven(), loss_func=first)
    assert learn.fit(1)[0].train_loss == pytest.approx(alone.fit(1)[0].train_loss)
    assert loss.losses[0].weight == "balanced"
    assert loss.is_balanced
    assert not learn.loss_func.is_balanced


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: SumLoss([]), "list of losses"),
        (lambda: SumLoss(["focal"], weights=[0]), "not all of them 0"),
        (lambda: SumLoss(["focal"], weights="1"), "number from 0"),
        (lambda: SumLoss(["focal", nn.CrossEntropyLoss(ignore_index=3)]), "ignore_index"),
        (lambda: SumLoss([CrossEntropy(reduction="sum")]), "reduction='sum'"),
        (lambda: as_loss("bce+focal"), "different ways"),
        (lambda: as_loss("dice+focl"), "No loss is called 'focl'. Did you mean focal"),
    ],
)
def test_losses_that_have_no_sum(wrong: Any, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        wrong()


def test_a_fit_with_another_sum_is_not_resumed(make, tmp_path: Path) -> None:
    make(loss_func=SumLoss(["focal"])).fit(1, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="loss"):
        make(loss_func=SumLoss([FocalLoss(gamma=1)])).fit(1, checkpoint_dir=tmp_path, resume=True)


# Names and files


def test_names_and_callables(make) -> None:
    assert make(loss_func="focal").loss_func == FocalLoss()
    learn = make(loss_func=F.cross_entropy)
    assert learn.loss_func is F.cross_entropy
    learn.loss_func = "cross_entropy"
    assert learn.loss_func == CrossEntropy()
    learn.fit(1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: as_loss("focl"), "focal"),
        (lambda: as_loss(FocalLoss), r"FocalLoss\(\)"),
        (lambda: as_loss(3), "cross_entropy"),
        (lambda: CrossEntropy(label_smoothing=2), r"label_smoothing=0\.1"),
        (lambda: CrossEntropy(weight="even"), r'"balanced"'),
        (lambda: CrossEntropy(weight=3), r"\[1\.0, 5\.0\]"),
        (lambda: CrossEntropy(weight=[-1.0]), "from 0"),
        (lambda: CrossEntropy(reduction="max"), "reduction='max'"),
        (lambda: CrossEntropy(weight=[1.0])(OUTPUTS, CLASSES), "1 numbers for 3 outputs"),
        (lambda: CrossEntropy(weight="balanced")(OUTPUTS, CLASSES), "give the loss to the learner"),
        (lambda: FocalLoss(gamma=-1), "gamma=-1"),
        (lambda: BinaryFocalLoss(alpha=2), "alpha=2"),
    ],
)
def test_mistakes_teach(wrong: Any, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        wrong()


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(label_smoothing=0.1, weight=(1.0, 2.0)), FocalLoss(gamma=3),
        BinaryCrossEntropy(pos_weight=[2.0, 3.0]), BinaryFocalLoss(alpha=None),
        MeanSquaredError(), L1(), Huber(delta=2.0), nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), nn.SmoothL1Loss(beta=0.5),
        SumLoss([DiceLoss(0.2), nn.CrossEntropyLoss(label_smoothing=0.2)], weights=[0.2, 0.8]),
        SumLoss([SumLoss([FocalLoss(gamma=1)]), CrossEntropy(weight=[1.0, 2.0])]),
    ],
)  # fmt: skip
def test_a_loss_is_described_and_made_again(loss: Any) -> None:
    again = loss_from(type(loss).__name__, describe_loss(loss))
    assert describe_loss(again) == describe_loss(loss)
    assert type(again) is type(loss)


def test_settings_of_another_loss_are_refused() -> None:
    assert loss_from("Unknown", {}) is None
    assert describe_loss(F.cross_entropy) == {}
    for settings in ({"speed": 1}, {"gamma": -1}):
        with pytest.raises(CheckpointError, match="settings of the loss FocalLoss"):
            loss_from("FocalLoss", settings)
    assert describe_loss(SumLoss(["focal", own_loss])) == {}
    assert loss_from(saved_name(SumLoss(["focal", own_loss])), {}) is None
    for parts in (None, 3, ["focal"], [{"name": "Unknown", "settings": {}}]):
        with pytest.raises(CheckpointError, match="SumLoss"):
            loss_from("SumLoss", {"losses": parts})


def test_an_export_keeps_the_loss(photos: ImageDataLoaders, tmp_path: Path) -> None:
    loss = CrossEntropy(label_smoothing=0.1, weight="balanced")
    learn = vision_learner(
        photos, "timm:test_resnet", pretrained=False, loss_func=loss, progress=False
    )
    again = load_learner(learn.export(tmp_path / "export"))
    assert again.loss_func == learn.loss_func
    assert again.loss_func.weight == (9 / 12, 9 / 6)
    learn.loss_func = SumLoss([loss, "focal"], weights=[0.7, 0.3])
    again = load_learner(learn.export(tmp_path / "sum"))
    assert again.loss_func == learn.loss_func
    assert again.loss_func.losses[0].weight == (9 / 12, 9 / 6)


class CrossEntropyLoss(nn.Module):
    """Has the name of torch's, and takes outputs for probabilities, which it says."""

    activation = staticmethod(torch.clone)

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -outputs.gather(1, targets[:, None]).log().mean()


def test_an_export_predicts_the_same_where_the_loss_is_not_loaded(
    photos: ImageDataLoaders, tmp_path: Path, caplog: Any
) -> None:
    """A subclass stands for what torch's class means; a name alone stands for nothing."""
    labels = ImageDataLoaders.from_lists(
        [str(path) for path in photos.train_images.paths],
        [[i % 2, 1] for i in range(len(photos.train_images))],
        task="multilabel", size=32, batch_size=4, num_workers=0,
    )  # fmt: skip
    learn = vision_learner(
        labels, "timm:test_resnet", pretrained=False, progress=False, loss_func=ProbabilityLoss()
    )
    learn.model[1].append(nn.Sigmoid())
    again = load_learner(learn.export(tmp_path / "labels"))
    assert type(again.loss_func) is nn.BCELoss
    file = labels.train_images.files[0]
    assert torch.equal(again.predict(file).probabilities, learn.predict(file).probabilities)
    assert "ProbabilityLoss" in caplog.text
    learn = vision_learner(
        photos, "timm:test_resnet", pretrained=False, loss_func=CrossEntropyLoss(), progress=False
    )
    caplog.clear()
    load_learner(learn.export(tmp_path / "classes"))
    assert "test_losses.CrossEntropyLoss" in caplog.text


def _bce(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy(outputs, targets)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("known", ["no", "by activation", "by class"])
def test_what_is_assumed_of_outputs_is_logged_once(
    task: str, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A function of one's own may take probabilities, which would get a second sigmoid."""
    dls = TinyLoaders()
    dls.task = task
    loss = nn.BCELoss() if known == "by class" else lambda o, t: _bce(o, t)
    if known == "by activation":
        loss.activation = nn.Identity()
    learn = Learner(dls, tiny_model(), loss_func=loss, progress=False)
    learn.task.predictions(torch.rand(2, 3), learn.loss_func)
    lines = [r.getMessage() for r in caplog.records if "activation" in r.getMessage()]
    assert len(lines) == (known == "no" and task != "regression")
    if known != "no":
        outputs = torch.rand(2, 3)
        assert torch.equal(learn.task.predictions(outputs, learn.loss_func), outputs)
