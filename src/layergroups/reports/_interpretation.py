"""Interpret the predictions of a model: errors, confusion, calibration, heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from layergroups import _drawing as drawing
from layergroups._checks import number, whole_number
from layergroups._drawing import Figure
from layergroups._formatting import figure, in_notebook_text, plain_text, table
from layergroups._suggestions import SuggestsNames
from layergroups._torch import tree_map_only
from layergroups.data import data_source, paths_of, texts_of
from layergroups.errors import LayerGroupsError
from layergroups.reports._grad_cam import grad_cam
from layergroups.reports._images import (
    MASKS_SHOWN,
    LengthRow,
    Pixels,
    TopLoss,
    as_pixels,
    images_of,
    inputs_at,
    mask_pictures,
    overlay,
)
from layergroups.reports._protocols import Answering
from layergroups.reports._word_scores import Marked, word_scores
from layergroups.reports.figures import draw_calibration, draw_confusion, draw_residuals
from layergroups.tasks import (
    BINS,
    TASKS,
    Calibration,
    ClassReport,
    Confusion,
    ConfusionMatrix,
    MaskReport,
    Measures,
    Residuals,
    Task,
    checked_task,
)

_Measure = TypeVar("_Measure")
_CAM_BATCH = 16
_SHOWN = 9
_WIDTH = 60  # characters of a text in a table


@dataclass(frozen=True, eq=False, repr=False)
class Interpretation(SuggestsNames):
    """Predictions, targets and losses of all items, with measures and pictures of them.

    Create it with `Interpretation.from_learner(learn)`. `grad_cam` and pictures with it use the
    current model.

    Attributes:
        predictions: probabilities (N, C); for a regression the predicted numbers (N, K).
        targets: the actual classes, int (N,); for several labels 0 or 1, (N, C); for a regression
            numbers (N, K).
        losses: of each item, (N,).
        paths: the file of each item; None if unknown.
        texts: the text of each item; empty if they are not texts.
        classes: names of the classes or targets.
        task: what the model predicts.
        threshold: for several labels, the probability above which a label is predicted.
        learner: the source of the predictions; None for tensors without a learner.
        batches: the source of the images; None likewise.
    """

    predictions: Tensor
    targets: Tensor
    losses: Tensor
    paths: tuple[Path | None, ...]
    classes: tuple[str, ...]
    task: Task = TASKS["multiclass"]
    threshold: float = 0.5
    learner: Answering | None = field(default=None)
    batches: Any = field(default=None)
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", checked_task(self.task, LayerGroupsError))
        _check(self)

    @classmethod
    def from_learner(
        cls, learn: Answering, dl: Any = None, *, threshold: float | None = None
    ) -> Interpretation:
        """Predict the validation items of a learner, or other batches; changes nothing.

        Args:
            learn: the learner.
            dl: batches (inputs, targets) in a fixed order; None for `learn.dls.valid`.
            threshold: for several labels, the probability above which a label is predicted; None
                for `learn.thresh`, like `learn.predict`.

        Raises:
            LayerGroupsError: the batches have no targets, or targets of a different task.
        """
        if not hasattr(learn, "get_preds") or not hasattr(learn, "dls"):
            raise LayerGroupsError(
                f"A {type(learn).__name__} is not a learner: Interpretation.from_learner(learn)."
            )
        batches = learn.dls.valid if dl is None else dl
        found: tuple[Any, ...] = learn.get_preds(batches, with_loss=True)
        predictions, targets, losses = found
        data, task, paths = data_source(learn.dls), learn.task, paths_of(batches)
        return cls(
            predictions=task.rows(predictions),
            targets=task.rows(targets),
            losses=losses,
            paths=paths if len(paths) == len(predictions) else (None,) * len(predictions),
            classes=data.vocab or task.default_names(task.rows(predictions).shape[1]),
            task=task,
            threshold=learn.thresh if threshold is None else threshold,
            learner=learn,
            batches=batches,
            texts=texts_of(batches),
        )

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def predicted(self) -> Tensor:
        """The predicted classes, int (N,); for several labels bool (N, C); else the numbers."""
        return self.task.decide(self.predictions, self.threshold)

    @property
    def correct(self) -> Tensor:
        """Whether the class, or every label, of each item is predicted correctly, bool (N,).

        Raises:
            LayerGroupsError: the task is a regression.
        """
        found = self._correct()
        return self._refuse("correct") if found is None else found

    def _correct(self) -> Tensor | None:
        return self.task.correct(self.predictions, self.targets, self.threshold)

    def is_right(self, index: int) -> bool | None:
        """Whether an item is predicted correctly; None for a regression."""
        found = self._correct()
        return None if found is None else bool(found[index])

    def top_losses(
        self, k: int | None = 9, *, largest: bool = True, by: str = "loss"
    ) -> tuple[TopLoss, ...]:
        """The items with the largest losses, the largest first.

        Args:
            k: how many; None for all.
            largest: False for the smallest.
            by: "loss"; or "iou": the masks with the smallest IoU first, see `ious`.

        Raises:
            LayerGroupsError: `by` is "iou", and the task has no masks.
        """
        if by not in ("loss", "iou"):
            raise LayerGroupsError(f'by={by!r}: expected "loss", or "iou" for masks.')
        error = self.losses
        if by == "iou":
            error = (1 - self.ious()).nan_to_num(-1 if largest else 2)  # undefined ones are last
        order = torch.argsort(error, descending=largest, stable=True).tolist()
        most = len(order) if k is None else whole_number("k", k, 0, 9, LayerGroupsError)
        return tuple(self.item(i) for i in order[:most])

    def ious(self) -> Tensor:
        """The IoU of each mask, float64 (N,): the mean over the classes that it has or is given.

        NaN where there is none: no pixel has a label, and none is predicted.

        Raises:
            LayerGroupsError: the task has no masks.
        """
        found = [self.mask_report(i).mean_iou for i in range(len(self))]
        return torch.tensor(found, dtype=torch.float64)

    def mask_report(self, index: int) -> MaskReport:
        """IoU, Dice, precision and recall of each class in one mask; prints as a table.

        Raises:
            LayerGroupsError: the task has no masks, or there is no such item.
        """
        index = self._position(index)
        own = slice(index, index + 1)
        args = (self.predictions[own], self.targets[own], self.classes, self.threshold)
        found = self.task.measures(*args) if self.task.per_pixel else None
        return found if isinstance(found, MaskReport) else self._refuse("the IoU of a mask")

    def item(self, index: int) -> TopLoss:
        """The facts about one item, by its position."""
        values = self.predictions[index]
        return TopLoss(
            index=index,
            path=self.paths[index],
            text=self.texts[index] if self.texts else "",
            actual=self.task.text(self.targets[index], self.classes),
            predicted=self.task.text(self.predicted[index], self.classes),
            probability=self.task.confidence(values),
            loss=float(self.losses[index]),
            iou=self._iou(index),
        )

    def _iou(self, index: int) -> float | None:
        found = self.mask_report(index).mean_iou if self.task.per_pixel else math.nan
        return None if math.isnan(found) else found

    def confusion_matrix(self) -> ConfusionMatrix:
        """How many items, or pixels of masks, of each class were predicted as each class.

        Raises:
            LayerGroupsError: the task is not one class for each item or pixel.
        """
        found = self.measures()
        if isinstance(found, MaskReport) and found.confusion is not None:
            return found.confusion
        return self._measured(ConfusionMatrix, "confusion_matrix")

    def measures(self) -> Measures:
        """The measures of the task: a confusion matrix, a report of classes, or residuals."""
        args = (self.predictions, self.targets, self.classes, self.threshold)
        return self.task.measures(*args)

    def _position(self, index: int) -> int:
        """From 0 on; negative ones count from the end."""
        if not -len(self) <= index < len(self):
            raise LayerGroupsError(f"There is no item {index}: the items are 0 to {len(self) - 1}.")
        return index % len(self)

    def _measured(self, kind: type[_Measure], what: str) -> _Measure:
        found = self.measures()
        return found if isinstance(found, kind) else self._refuse(what)

    def most_confused(self, min_val: int = 1) -> tuple[Confusion, ...]:
        """Pairs of classes that were confused at least min_val times, the most frequent first.

        Raises:
            LayerGroupsError: the task is not one class for each item.
        """
        number("min_val", min_val, -math.inf, math.inf, 2, LayerGroupsError)
        found = self.confusion_matrix().most_confused(len(self.classes) ** 2)
        return tuple(c for c in found if c.count >= min_val)

    def class_report(self) -> ClassReport:
        """Precision, recall, F1 and support of each class, or of each label; prints as a table.

        Raises:
            LayerGroupsError: the task is a regression.
        """
        found = self.measures()
        if isinstance(found, ConfusionMatrix):
            return ClassReport.from_classes(self.predicted, self.targets, self.classes)
        if isinstance(found, MaskReport):
            return found.class_report()
        return self._measured(ClassReport, "class_report")

    def calibration(self, bins: int = BINS) -> Calibration:
        """Compare the confidence of predictions with their accuracy.

        Raises:
            LayerGroupsError: the task is a regression.
        """
        graded = self.task.graded(self.predictions, self.targets, self.threshold)
        if graded is None:
            self._refuse("calibration")
        return Calibration.from_predictions(*graded, bins)

    def residuals(self) -> Residuals:
        """The errors of predicted numbers; prints as a table.

        Raises:
            LayerGroupsError: the task is not a regression.
        """
        return self._measured(Residuals, "residuals")

    def images(self, indices: Sequence[int]) -> list[Pixels]:
        """The input images of items, each float32 (H, W, 3), 0..1.

        Raises:
            LayerGroupsError: there is no learner, or the batches cannot be iterated again.
        """
        spec = data_source(self._known_learner().dls).input
        return [as_pixels(image, spec) for image in images_of(self._inputs(indices))]

    def grad_cam(self, indices: Sequence[int], target: int | None = None) -> Tensor:
        """Heat maps of items, float32 (n, H, W), 0..1; see `layergroups.reports.grad_cam`.

        Args:
            indices: of the items.
            target: the class; None for the predicted class.

        Raises:
            AnatomyError: the network has no spatial map.
            LayerGroupsError: as `images`.
        """
        learner = self._known_learner()
        anatomy = learner.layer_groups.anatomy
        inputs = self._inputs(indices)
        parts = [slice(i, i + _CAM_BATCH) for i in range(0, len(indices), _CAM_BATCH)]
        batches = [tree_map_only(Tensor, itemgetter(part), inputs) for part in parts]
        return torch.cat([grad_cam(learner.model, x, target, anatomy=anatomy) for x in batches])

    def words(self, index: int) -> Marked:
        """The text of an item in pieces, each with how much it spoke for the prediction, -1 to 1.

        Raises:
            LayerGroupsError: there is no learner, no such item, or the items are not texts.
        """
        learner = self._known_learner()
        if not self.texts:
            raise LayerGroupsError("The items are not texts: use interp.grad_cam(indices).")
        return word_scores(learner, self.texts[self._position(index)])

    def by_length(self, parts: int = 4) -> tuple[LengthRow, ...]:
        """Loss and share of correct predictions of short and long texts, in parts of equal size.

        Raises:
            LayerGroupsError: the items are not texts.
        """
        whole_number("parts", parts, 1, 4, LayerGroupsError)
        if not self.texts:
            raise LayerGroupsError("The items are not texts, so they have no length.")
        words = torch.tensor([len(text.split()) for text in self.texts])
        right, rows = self._correct(), []
        for inside in words.argsort(stable=True).tensor_split(min(parts, len(words))):
            share = None if right is None else float(right[inside].float().mean())
            found = words[inside]
            loss = float(self.losses[inside].mean())
            rows.append(LengthRow(int(found.min()), int(found.max()), len(inside), loss, share))
        return tuple(rows)

    def masks(self, index: int, image: Pixels) -> tuple[Pixels, ...]:
        """An image with its actual mask, with its predicted one, and their differences."""
        colours = self.task.colours(len(self.classes))
        return mask_pictures(image, self.targets[index], self._decided(index), colours)

    def confused_pixels(self, index: int, actual: int, predicted: int) -> Tensor:
        """Which pixels of a mask are of one class and predicted as another, bool (H, W)."""
        return (self.targets[index] == actual) & (self._decided(index) == predicted)

    def _decided(self, index: int) -> Tensor:
        return self.task.decide(self.predictions[[index]], self.threshold)[0]

    def _inputs(self, indices: Sequence[int]) -> Any:
        wrong = [i for i in indices if not isinstance(i, int) or not 0 <= i < len(self)]
        if wrong or not indices:
            raise LayerGroupsError(
                f"indices={list(indices)!r} must be positions from 0 to {len(self) - 1}, such as "
                "[item.index for item in interp.top_losses(9)]."
            )
        return inputs_at(self.batches, indices, self.targets)

    def _known_learner(self) -> Answering:
        if self.learner is None:
            raise LayerGroupsError(
                "This interpretation has no images; use Interpretation.from_learner(learn)."
            )
        return self.learner

    def _refuse(self, what: str) -> NoReturn:
        instead = {
            ConfusionMatrix: "confusion_matrix() and class_report()",
            ClassReport: "class_report()",
            Residuals: "residuals()",
            MaskReport: "measures()",
        }.get(self.task.measures_type, "measures()")
        raise LayerGroupsError(
            f"{what} is not available for {self.task.items_have} (the task is {self.task.name!r}). "
            f"Use interp.{instead}."
        )

    @property
    def _counted(self) -> str:
        return "pixels" if self.task.per_pixel else "items"

    def plot_confusion_matrix(self, path: str | Path | None = None) -> Path | Figure:
        """Draw the confusion matrix.

        Args:
            path: a file ending with .png, .svg or .pdf; None returns the figure of matplotlib.

        Raises:
            LayerGroupsError: as `confusion_matrix`; a different ending, or the file cannot be
                written.
        """
        found = self.confusion_matrix()
        return drawing.save_or_return(
            draw_confusion(found.matrix, found.classes, self._counted), path
        )

    def plot_top_losses(
        self,
        k: int = 9,
        path: str | Path | None = None,
        *,
        cam: bool = True,
        largest: bool = True,
        by: str = "loss",
    ) -> Path | Figure:
        """Draw the input images with the largest losses.

        Args:
            k: how many.
            path: as in `plot_confusion_matrix`.
            cam: beside each image a heat map of the prediction; see `grad_cam`.
            largest: False for the smallest losses.
            by: as in `top_losses`.

        Raises:
            AnatomyError: with `cam`: the network has no spatial map.
            LayerGroupsError: as `images`; a different ending, or the file cannot be written.
        """
        items = self.top_losses(k, largest=largest, by=by)
        if not items:
            raise LayerGroupsError(f"k={k!r} must be at least 1: plot_top_losses(9).")
        indices = [item.index for item in items]
        shown: list[tuple[Pixels, ...]] = [(pixels,) for pixels in self.images(indices)]
        masks = self.task.per_pixel
        if masks:
            shown = [(*p, *self.masks(i, p[0])) for i, p in zip(indices, shown, strict=True)]
        elif cam:
            heat = self.grad_cam(indices)
            shown = [(p[0], overlay(p[0], h)) for p, h in zip(shown, heat, strict=True)]
        tiles = [self._tile(item, pictures) for item, pictures in zip(items, shown, strict=True)]
        note = MASKS_SHOWN if masks else ""
        if cam and not masks:
            note = "Beside each image: Grad-CAM heat map of the prediction"
        title = f"{'Largest' if largest else 'Smallest'} losses"
        if by == "iou":
            title = f"{'Smallest' if largest else 'Largest'} IoU"
        each = self.task.colours(len(self.classes))
        colours = dict(zip(self.classes, each, strict=True)) if masks else None
        figure = drawing.draw_images(tiles, title, note, classes=colours)
        return drawing.save_or_return(figure, path)

    def _tile(self, item: TopLoss, pictures: tuple[Pixels, ...]) -> drawing.Tile:
        confidence = "" if item.probability is None else f", confidence {item.probability:.2f}"
        name = () if item.path is None else (item.path.name,)
        iou = "" if item.iou is None else f"IoU {item.iou:.2f}, "
        lines = (f"actual {item.actual}", f"{iou}loss {item.loss:.3g}{confidence}", *name)
        return drawing.Tile(pictures, item.predicted, self.is_right(item.index), lines)

    def plot_calibration(self, path: str | Path | None = None, bins: int = BINS) -> Path | Figure:
        """Draw the accuracy at each confidence; see `calibration` and `plot_confusion_matrix`."""
        return drawing.save_or_return(draw_calibration(self.calibration(bins)), path)

    def plot_residuals(self, path: str | Path | None = None) -> Path | Figure:
        """Draw predicted numbers over actual ones; see `residuals`, `plot_confusion_matrix`."""
        errors = self.residuals().outputs
        return drawing.save_or_return(draw_residuals(self.predictions, self.targets, errors), path)

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON-ready values, without the predictions of each item."""
        found: dict[str, Any] = {
            "task": self.task.name,
            "classes": list(self.classes),
            "items": len(self),
            "loss": float(self.losses.mean()),
            "top_losses": [item.to_dict() for item in self.top_losses(_SHOWN)],
        }
        measured: Any = self.measures()
        if isinstance(measured, Residuals):
            return found | {"residuals": [asdict(row) for row in measured.outputs]}
        if isinstance(measured, ConfusionMatrix):
            found["confusion"] = measured.to_dict()
            measured = self.class_report()
        found["report"] = measured.to_dict()
        if self.task.graded(self.predictions, self.targets) is not None:
            found |= {"calibration": self.calibration().to_dict()}
        return found

    def __repr__(self) -> str:
        classes, loss = self.task.count(len(self.classes)), f"{self.losses.mean():.4g}"
        line = f"Interpretation of {len(self)} items, {classes}: mean loss {loss}"
        right = self._correct()
        return line if right is None else f"{line}, {right.float().mean():.1%} correct"

    def _repr_html_(self) -> str:
        report: Any = self.measures()
        if isinstance(report, ConfusionMatrix):
            report = self.class_report()
        rows = [
            (
                "/".join(t.path.parts[-2:]) if t.path else t.text[:_WIDTH] or str(t.index),
                *(t.actual, t.predicted, figure(t.probability), figure(t.loss)),
            )
            for t in self.top_losses(_SHOWN)
        ]
        headings = ("largest losses", "actual", "predicted", "probability", "loss")
        top = table(headings, rows, left=("actual", "predicted"))
        return in_notebook_text(f"{self!r}\n\n{report}\n\n{plain_text(top)}")


def _check(of: Interpretation) -> None:
    if not isinstance(of.threshold, int | float) or not 0 <= of.threshold <= 1:
        raise LayerGroupsError(f"threshold={of.threshold!r} must be a probability, such as 0.5.")
    tensors = {"predictions": of.predictions, "targets": of.targets, "losses": of.losses}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise LayerGroupsError(f"{name} must be a tensor, not {type(value).__name__}.")
    n, wide = len(of.predictions), of.predictions.shape[1:]
    maps = tuple(wide[1:]) if of.task.per_pixel else ()
    expected = {
        "predictions": (n, len(of.classes) or wide.numel(), *maps),
        "targets": of.task.targets_shape(of.predictions.shape),
        "losses": (n,),
    }
    for name, value in tensors.items():
        if tuple(value.shape) != expected[name]:
            raise LayerGroupsError(
                f"{name} has shape {tuple(value.shape)}; the task {of.task.name!r} with "
                f"{len(of.classes)} classes and {n} items needs {expected[name]}."
            )
    if len(of.paths) != n:
        raise LayerGroupsError(f"There are {len(of.paths)} paths for {n} items.")


def confusion_matrix(learn: Answering, dl: Any = None) -> ConfusionMatrix:
    """The confusion matrix of a learner on its validation items, or on other batches.

    Raises:
        LayerGroupsError: the batches have no targets.
    """
    probabilities, targets, *_ = learn.get_preds(dl)
    names = data_source(learn.dls).vocab
    return ConfusionMatrix.from_predictions(probabilities, targets, names)
