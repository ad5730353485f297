"""A new task is one class: an interval for each item, from labels to an export that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import NumberLoaders, pretrained, tiny_model
from torch import Tensor, nn

from layergroups.data import ImageDataLoaders
from layergroups.errors import DataError, LayerGroupsError, TrainingError
from layergroups.reports import Interpretation, RunReport, record_run, write_rows
from layergroups.tasks import TASKS, Column, Label, Meaning, NamedMetric, Task, register
from layergroups.tasks._splitting import random_split
from layergroups.training import load_learner, vision_learner


@dataclass(frozen=True)
class Interval:
    """From where to where."""

    low: float
    high: float

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        return Column("interval", 20), Column("width", 8, right=True)

    def cells(self) -> tuple[str, ...]:
        return str(self), f"{self.high - self.low:.3g}"

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        return "low", "high"

    def csv_cells(self) -> tuple[object, ...]:
        return self.low, self.high

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Overlap:
    """How much of true and predicted intervals is in both."""

    mean: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def overlap(predictions: Tensor, targets: Tensor) -> Tensor:
    low = torch.maximum(predictions[:, 0], targets[:, 0])
    high = torch.minimum(predictions[:, 1], targets[:, 1])
    least = torch.minimum(predictions[:, 0], targets[:, 0])
    most = torch.maximum(predictions[:, 1], targets[:, 1])
    return (high - low).clamp(min=0) / (most - least)


def mean_overlap(n: int, thresh: float) -> Any:
    from layergroups.tasks._item_metrics import MeanOf

    return MeanOf(overlap)


class Intervals(Task):
    name = "interval"
    one, many = "end", "ends"
    items_have = "an interval for each item"
    targets_are = "the two ends of an interval, float32 (N, 2)"
    usual_loss = "the absolute error, nn.L1Loss()"
    meanings = frozenset({Meaning.NUMBERS})
    activation = Meaning.NUMBERS
    metrics = {"overlap": NamedMetric(mean_overlap)}  # noqa: RUF012 - as short as a task can be
    default_metrics = ("overlap",)
    prediction = Interval
    measures_type = Overlap
    output_name = "intervals"
    output_is = "the two ends of an interval"
    has_counts = False

    def parse_labels(
        self, values: Sequence[Any], files: Sequence[str], vocab: Any, columns: Any
    ) -> tuple[tuple[str, ...], tuple[Label, ...]]:
        if any(len(value) != 2 for value in values):
            raise DataError("An interval has two ends.")
        return ("low", "high"), tuple((float(low), float(high)) for low, high in values)

    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Any:
        return random_split(len(labels), valid_pct, seed)

    def target(self, label: Label | None, n_outputs: int) -> int | Tensor:
        return -1 if label is None else torch.tensor(label, dtype=torch.float32)

    def words(self, value: Tensor, names: Sequence[str]) -> list[str]:
        return [str(Interval(*value.tolist()))]

    def default_loss(self) -> nn.L1Loss:
        return nn.L1Loss()

    def predictions(self, outputs: Tensor, loss_func: object = None) -> Tensor:
        return outputs.float().sort(dim=1).values

    def decode(self, values: Tensor, names: Sequence[str], thresh: float = 0.5) -> Interval:
        return Interval(*values.tolist())

    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        return predictions

    def confidence(self, values: Tensor) -> None:
        return None

    def measures(
        self, predictions: Tensor, targets: Tensor, names: Any, thresh: float = 0.5
    ) -> Any:
        return Overlap(float(overlap(predictions, targets).mean()))

    def figures(
        self, predictions: Tensor, targets: Tensor, names: Any, thresh: float = 0.5
    ) -> dict[str, float]:
        return {"overlap": float(overlap(predictions, targets).mean())}


@pytest.fixture
def interval() -> Iterator[Task]:
    yield register(Intervals())
    del TASKS["interval"]


class IntervalLoaders(NumberLoaders):
    """Its two numbers in rising order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.task = "interval"
        for batches in (self.train, self.valid):
            batches.y = batches.y.sort(dim=1).values


def test_it_is_trained_measured_saved_and_predicts(make: Any, interval: Task) -> None:
    dls = IntervalLoaders(n=96)
    learn = make(pretrained(tiny_model(2)), dls=dls, metrics="overlap")
    assert learn.task is interval
    assert isinstance(learn.loss_func, nn.L1Loss)
    before = learn.validate()["overlap"]
    history = learn.fit(6, 2e-2)
    assert history[-1].metrics["overlap"] == learn.validate()["overlap"] > before
    predictions, targets = learn.get_preds()
    assert (predictions[:, 0] <= predictions[:, 1]).all()
    one = learn.predict(dls.valid.x[0])
    assert isinstance(one, Interval)
    assert (one.low, one.high) == pytest.approx(predictions[0].tolist(), abs=1e-5)
    learn.save("intervals")
    again = make(pretrained(tiny_model(2)), dls=dls).load("intervals")
    assert torch.equal(again.get_preds()[0], predictions)
    interp = Interpretation.from_learner(learn)
    assert interp.measures() == Overlap(pytest.approx(float(overlap(predictions, targets).mean())))
    assert interp.to_dict()["task"] == "interval"
    assert "2 ends" in repr(interp)
    with pytest.raises(LayerGroupsError, match="interval"):
        interp.confusion_matrix()
    with pytest.raises(TrainingError, match=r"mse.*numbers.*overlap"):
        learn.metrics = "mse"
    with pytest.raises(TrainingError, match=r"CrossEntropyLoss .*'interval'.*L1Loss\(\)"):
        make(pretrained(tiny_model(2)), dls=dls, loss_func=nn.CrossEntropyLoss()).fit(1)


def test_it_reads_photos_and_its_export_comes_back(
    folder: Callable[..., Path], tmp_path: Path, interval: Task, capsys: Any
) -> None:
    files = sorted(folder(a=6, b=6).glob("*/*.jpg"))
    labels = [(i, i + 1 + i % 3) for i in range(12)]
    options: dict[str, Any] = {"size": 32, "batch_size": 4, "num_workers": 0}
    with pytest.raises(DataError, match="two ends"):
        ImageDataLoaders.from_lists(files, [(1, 2, 3)] * 12, task="interval", **options)
    dls = ImageDataLoaders.from_lists(files, labels, task="interval", **options)
    assert "2 ends" in str(dls)
    assert "low, high" in str(dls)
    assert dls.one_batch()[1].shape == (4, 2)
    assert len(dls.show_batch(n=2).labels) == 2
    assert dls.summary().to_dict()["task"] == "interval"
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, progress=False)
    learn.fit(1)
    record = record_run(learn)
    assert record.outcome is not None
    assert record.outcome.task == "interval"
    report = RunReport((record,))
    assert "overlap" in str(report)
    report.save(tmp_path / "run.html")
    assert "2 ends" in (tmp_path / "run.html").read_text("utf-8")
    again = load_learner(learn.export(tmp_path / "export"))
    assert again.task is interval
    assert str(again.predict(files[0])) == str(learn.predict(files[0]))
    for format in ("table", "csv", "jsonl"):
        write_rows(format, learn.iter_preds(files[:2]), Interval, dls.vocab, list(map(str, files)))
    assert '"low": ' in capsys.readouterr().out
