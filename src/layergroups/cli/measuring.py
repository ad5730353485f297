"""How good a model is, for each kind of task: figures for the terminal and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layergroups.reports import ClassReport, ConfusionMatrix, Residuals, per_class_table
from layergroups.training import Learner

Report = ConfusionMatrix | ClassReport | Residuals


@dataclass(frozen=True)
class Measured:
    """What photos with known answers say of a model.

    Attributes:
        loss: mean over the photos.
        photos: how many.
        figures: the most telling ones, by name.
        report: for classes a confusion matrix, for labels a row each, for numbers their errors.
    """

    loss: float
    photos: int
    figures: dict[str, float]
    report: Report

    @property
    def table(self) -> Any:
        """A row for each class, label or number."""
        return self.report if self.confusion is None else per_class_table(self.confusion)

    @property
    def confusion(self) -> ConfusionMatrix | None:
        """Only of one class for each photo."""
        return self.report if isinstance(self.report, ConfusionMatrix) else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        if isinstance(self.report, ConfusionMatrix):
            return {"loss": self.loss, **self.report.to_dict()}
        told = self.report.to_dict()
        told.pop("values", None)  # the error of each photo
        return {"loss": self.loss, "photos": self.photos, **self.figures, **told}


def measure(learn: Learner, batches: Any = None, *, found: Any = None) -> Measured:
    """Measure a learner on its validation photos, or on other batches (inputs, targets).

    Args:
        learn: the learner.
        batches: None for its validation photos.
        found: what `learn.get_preds(batches, with_loss=True)` has given, if it is known already.
    """
    known: Any = found or learn.get_preds(batches, with_loss=True)
    answers, targets, losses = known
    names = [str(name) for name in getattr(learn.dls, "vocab", ())]
    loss, photos = float(losses.mean()), len(losses)
    if learn.task == "multi":
        said, so = answers > learn.thresh, targets > 0.5
        report = ClassReport.from_hits(said, so, names)
        exact = float((said == so).all(dim=1).float().mean())
        figures = {"exact_match": exact, "f1": report.total.f1 or 0.0}
        return Measured(loss, photos, figures, report)
    if learn.task == "regression":
        errors = Residuals.from_predictions(answers, targets, names)
        mean = {f"mae of {row.name}": row.mean_absolute for row in errors.outputs}
        return Measured(loss, photos, mean, errors)
    confusion = ConfusionMatrix.from_predictions(answers, targets, names)
    return Measured(loss, photos, {"accuracy": confusion.accuracy}, confusion)
