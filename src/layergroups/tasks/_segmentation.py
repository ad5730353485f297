"""The tasks of masks: a class for every pixel of an image, or labels that may overlap."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from layergroups._drawing import palette
from layergroups.errors import DataError, LayerGroupsError, TrainingError
from layergroups.tasks._losses import BinaryDiceLoss, DiceLoss, Meaning, counts_ignored
from layergroups.tasks._measures import ConfusionMatrix, MaskReport
from layergroups.tasks._metrics import mean_of, named
from layergroups.tasks._multiclass import Multiclass
from layergroups.tasks._splitting import multilabel_split
from layergroups.tasks._task import (
    Column,
    Label,
    MaskFile,
    NamedMetric,
    Names,
    Parts,
    Task,
    Vocab,
    output_names,
)

IGNORED: Final = -100  # the class of pixels that count nowhere, as in torch
_NAMED: Final = 3  # classes that a line names
_PALETTE: Final = 256
_OVERVIEW: Final = 512  # the longer side of the probabilities of an image predicted by tiles


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """A class for every pixel of one image.

    Attributes:
        mask: position of the most likely class, int64 (H, W); at the size of the image.
        probabilities: of all classes, float (C, h, w), at the size that the network saw; of an
            image predicted by tiles at most some 512 pixels.
        names: of the classes.
        values: of the classes in the masks that the model was trained with, or their colours (red,
            green, blue); empty for 0, 1, ...
    """

    mask: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    values: tuple[Any, ...] = ()
    ending: ClassVar[str] = ".png"  # of a saved mask

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels of every class, 0 to 1."""
        counts = torch.bincount(self.mask.flatten(), minlength=len(self.names))
        return dict(zip(self.names, (counts / self.mask.numel()).tolist(), strict=True))

    @property
    def confidence(self) -> float:
        """The mean probability of the predicted classes."""
        return float(self.probabilities.max(dim=0).values.mean())

    def at_size(self, height: int, width: int) -> Self:
        """The same prediction with a mask of this size, from interpolated probabilities."""
        if self.mask.shape == (height, width):
            return self
        return replace(self, mask=self._resized(height, width).argmax(dim=0))

    def _resized(self, height: int, width: int) -> Tensor:
        return F.interpolate(self.probabilities[None], size=(height, width), mode="bilinear")[0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the mask as a PNG with a palette, or as .npy, like the masks of the training.

        Pixels are `values`, or positions of the classes whose colours are then in the palette.
        Values above 255 make a PNG of 16 bits, without a palette.

        Raises:
            LayerGroupsError: the name ends with neither .png nor .npy.
        """
        from PIL import Image

        path, n = Path(path), len(self.names)
        if path.suffix.lower() not in ("", ".png", ".npy"):
            raise LayerGroupsError(
                f'{path}: a mask is saved as PNG or as an array: save("{path.stem}.png"), or '
                f'"{path.stem}.npy". {path.suffix} would change values or leave out the colours.'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.array(self.values or range(n))
        small = np.uint8 if values.max() < _PALETTE else np.uint16
        if path.suffix.lower() == ".npy":
            np.save(path, values.astype(small)[self.mask.numpy()])
            return path
        colours = np.array(palette(n), np.uint8)
        if values.ndim == 2:
            values, colours = np.arange(n), values.astype(np.uint8)
        small = np.uint8 if values.max() < _PALETTE else np.uint16
        image = Image.fromarray(values.astype(small)[self.mask.numpy()])
        if small is np.uint8:
            table = np.zeros((_PALETTE, 3), np.uint8)
            table[values] = colours
            image.putpalette(table.tobytes())
        image.save(path, format="PNG")
        return path

    @classmethod
    def columns(cls, names: Names) -> tuple[Column, ...]:
        return Column("largest classes", 40), Column("confidence", len("confidence"), right=True)

    def cells(self) -> tuple[str, ...]:
        return self._largest, f"{self.confidence:.3f}"

    @property
    def _largest(self) -> str:
        found = sorted(self.shares.items(), key=lambda pair: -pair[1])
        return ", ".join(f"{name} {share:.1%}" for name, share in found[:_NAMED] if share)

    @classmethod
    def csv_columns(cls, names: Names) -> tuple[str, ...]:
        return ("confidence", *names)

    def csv_cells(self) -> tuple[object, ...]:
        return (self.confidence, *self.shares.values())

    def to_dict(self) -> dict[str, Any]:
        height, width = self.mask.shape[-2:]
        return {"size": [height, width], "confidence": self.confidence, "shares": self.shares}

    def __str__(self) -> str:
        height, width = self.mask.shape[-2:]
        return f"mask of {height} x {width} pixels: {self._largest}"


@dataclass(frozen=True, eq=False)
class LabelMasksPrediction(MaskPrediction):
    """A mask for each label of one image; they may overlap.

    Attributes:
        mask: where each label is, bool (C, H, W); at the size of the image.
        probabilities: of each label, float (C, h, w), as in `MaskPrediction`.
        names: of the labels.
        thresh: the probability above which a pixel has a label.
    """

    thresh: float = 0.5
    ending: ClassVar[str] = ".tif"

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that have each label, 0 to 1."""
        return dict(zip(self.names, self.mask.float().mean((1, 2)).tolist(), strict=True))

    @property
    def confidence(self) -> float:
        """The mean probability of what is predicted: that a pixel has a label, or has not."""
        return _sureness(self.probabilities)

    def at_size(self, height: int, width: int) -> Self:
        """The same prediction with masks of this size, from interpolated probabilities."""
        if self.mask.shape[1:] == (height, width):
            return self
        return replace(self, mask=self._resized(height, width) > self.thresh)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the masks as a TIFF with a page of 0 and 255 for each label, or as .npy (H, W, C).

        `SegmentationDataLoaders` with `overlapping=True` reads both.
        """
        from PIL import Image

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, self.mask.movedim(0, -1).numpy().astype(np.uint8))
        elif path.suffix in (".tif", ".tiff"):
            first, *rest = (
                Image.fromarray(page.numpy().astype(np.uint8) * 255) for page in self.mask
            )
            first.save(path, save_all=True, append_images=rest, compression="tiff_deflate")
        else:
            raise LayerGroupsError(
                f"{path} would hold one mask, but labels that overlap need one each: "
                f'save("{path.stem}.tif"), a page for each label, or "{path.stem}.npy".'
            )
        return path


_METRICS: Final = {
    "iou": named("ClassMean", figure="jaccard"),
    "dice": named("ClassMean", figure="f1"),
    "accuracy": mean_of("hits", higher=True),
    "balanced_accuracy": named("ClassMean", figure="recall"),
    "precision": named("ClassMean", figure="precision"),
    "recall": named("ClassMean", figure="recall"),
}
_METRICS_OF_LABELS: Final = {
    "iou": named("ClassMean", figure="jaccard", labels=True),
    "dice": named("ClassMean", figure="f1", labels=True),
    "accuracy": named("of_labels", kind="Accuracy", average="micro", ignore_index=IGNORED),
    "precision": named("ClassMean", figure="precision", labels=True),
    "recall": named("ClassMean", figure="recall", labels=True),
}
_OTHER_NAMES: Final = {"miou": "iou", "jaccard": "iou", "f1": "dice", "pixel_accuracy": "accuracy"}


class Segmentation(Multiclass):
    """A class for every pixel: targets int64 (N, H, W), -100 where a pixel does not count."""

    name = "segmentation"
    items_have = "a mask for each image"
    targets_are = "a class for each pixel, int64 (N, H, W)"
    usual_loss = "Dice and cross entropy, DiceLoss(cross_entropy=0.5)"
    metrics = _METRICS
    default_metrics = ("iou", "dice")
    more_metrics = ""
    prediction = MaskPrediction
    measures_type = MaskReport
    output_is = "the probability of each class at each pixel"
    reads_folders = False
    per_pixel = True
    few_items = "{} has one item"

    def recognises(self, values: Sequence[Any]) -> bool:
        return False

    def parse_labels(
        self, values: Sequence[Any], files: Names, vocab: Vocab | None, columns: Vocab
    ) -> tuple[Vocab, tuple[Label, ...]]:
        if vocab is None or not all(isinstance(value, MaskFile) for value in values):
            raise DataError(
                f"task={self.name!r} needs masks, which these data do not read. Use "
                'SegmentationDataLoaders.from_folders("images", "masks", classes=[...]).'
            )
        return vocab, tuple(values)

    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        return multilabel_split([_classes(label) for label in labels], valid_pct, seed)

    def target(self, label: Label | None, n_outputs: int) -> int:
        return -1  # a mask has the geometry of its image: the data read both together

    def targets(self, labels: Sequence[Label], n_outputs: int) -> Tensor:
        """How many pixels of each class each mask has, int64 (N, C)."""
        return torch.tensor([cast(MaskFile, label).pixels for label in labels])

    def counts(self, labels: Sequence[Label], n_outputs: int) -> tuple[int, ...]:
        """How many masks have each class."""
        counted = Counter(place for label in labels for place in _classes(label))
        return tuple(counted[place] for place in range(n_outputs))

    def words(self, value: Tensor, names: Names) -> list[str]:
        """The classes in a mask, the most frequent first."""
        known = value[(value >= 0) & (value < len(names))]
        counts = torch.bincount(known.flatten().long(), minlength=len(names))
        order = counts.argsort(descending=True, stable=True).tolist()
        return [names[index] for index in order if counts[index]]

    def default_loss(self) -> Any:
        return DiceLoss(cross_entropy=0.5)  # rare classes count, and the gradients are smooth

    def fitted(self, outputs: Tensor, like: Tensor) -> Tensor:
        """Scores at the size of the masks; SegFormer of transformers gives a quarter of it."""
        size = like.shape[-2:]
        if outputs.ndim != 4 or like.ndim < 3 or outputs.shape[2:] == size:
            return outputs
        factors = {large / small for large, small in zip(size, outputs.shape[2:], strict=True)}
        factor = min(factors)
        if len(factors) > 1 or factor < 1 or factor != int(factor):
            return outputs  # not an image of the same size: check_targets says so
        return F.interpolate(outputs, size=size, mode="bilinear")

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        if outputs.ndim != 4 or outputs.shape[2:] != targets.shape[1:]:
            smaller = " Smaller scores are enlarged by whole numbers: size=(64, 96), for example."
            raise TrainingError(
                f"The outputs {tuple(outputs.shape)} and the targets {tuple(targets.shape)} do not "
                "fit: for masks the model gives (N, classes, H, W), and targets are (N, H, W), as "
                f"segmentation_learner(dls, arch) does.{smaller if outputs.ndim == 4 else ''}"
            )
        super().check_targets(outputs, targets, loss_func)

    def metric(self, name: str) -> NamedMetric:
        return super().metric(_OTHER_NAMES.get(name, name))

    def decode(self, values: Tensor, names: Names, thresh: float = 0.5) -> Any:
        return self._prediction(self.decide(values[None], thresh)[0], values, names, thresh)

    def placed(self, prediction: Any, height: int, width: int, values: tuple[Any, ...] = ()) -> Any:
        return replace(prediction.at_size(height, width), values=values)

    def _prediction(self, mask: Tensor, values: Tensor, names: Names, thresh: float) -> Any:
        return MaskPrediction(mask, values, output_names(names, len(values)))

    def joined(
        self, strips: Iterable[Tensor], size: tuple[int, int], names: Names, thresh: float = 0.5
    ) -> MaskPrediction:
        mask, coarse, top, scale = torch.empty(0), [], 0, min(1.0, _OVERVIEW / max(size))
        for strip in strips:
            bottom, part = top + strip.shape[1], self.decide(strip[None], thresh)[0]
            if not top:
                mask = part.new_empty((*part.shape[:-2], *size))
            mask[..., top:bottom, :] = part
            small = [max(1, round(side * scale)) for side in strip.shape[1:]]
            coarse.append(F.interpolate(strip[None], size=small, mode="area")[0])
            top = bottom
        return self._prediction(mask, torch.cat(coarse, 1), names, thresh)  # type: ignore[no-any-return] # one of masks

    def correct(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Any:
        return None

    def confidence(self, values: Tensor) -> float:
        return float(values.max(dim=0).values.mean())

    def targets_shape(self, predictions: Sequence[int]) -> tuple[int, ...]:
        return (predictions[0], *predictions[2:])

    def graded(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Any:
        return None  # a calibration of all pixels would hold them all

    def measures(  # type: ignore[override] # of pixels
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> MaskReport:
        known = output_names(names, predictions.shape[1])
        predicted = self.decide(predictions)
        return MaskReport.from_confusion(ConfusionMatrix.from_classes(predicted, targets, known))

    def figures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> dict[str, float]:
        found = self.measures(predictions, targets, names, thresh)
        return {
            "mean IoU": found.mean_iou,
            "mean Dice": found.mean_dice,
            "pixel accuracy": found.accuracy,
        }


class MultilabelSegmentation(Segmentation):
    """Labels for every pixel, which may overlap: targets float32 (N, C, H, W) of 0 and 1.

    Targets are -100 where a pixel does not count.
    """

    name = "multilabel_segmentation"
    one, many = "label", "labels"
    items_have = "a mask of each label for each image"
    targets_are = "a mask of each label, float32 (N, C, H, W) of 0 and 1"
    usual_loss = "Dice and binary cross entropy, BinaryDiceLoss(cross_entropy=0.5)"
    meanings = frozenset({Meaning.SIGMOID, Meaning.PROBABILITIES})
    activation = Meaning.SIGMOID
    metrics = _METRICS_OF_LABELS
    least_outputs = 1
    has_confusion = False
    prediction = LabelMasksPrediction
    output_is = "the probability of each label at each pixel; those above the threshold are it"
    has_threshold = True

    def targets(self, labels: Sequence[Label], n_outputs: int) -> Tensor:
        """The share of the pixels of each mask that have each label, float32 (N, C)."""
        masks = cast(Sequence[MaskFile], labels)
        return torch.tensor([[n / max(1, each.size) for n in each.pixels] for each in masks])

    def words(self, value: Tensor, names: Names) -> list[str]:
        """The labels in the masks, the most frequent first."""
        counts = (value > 0.5).sum((1, 2))
        order = counts.argsort(descending=True, stable=True).tolist()
        return [names[index] for index in order if counts[index]]

    def default_loss(self) -> Any:
        return BinaryDiceLoss(cross_entropy=0.5)

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        if outputs.ndim != 4 or outputs.shape != targets.shape or not targets.is_floating_point():
            raise TrainingError(
                f"The outputs {tuple(outputs.shape)} and the targets {tuple(targets.shape)} "
                f"{targets.dtype} do not fit: for masks of labels that may overlap both are "
                "(N, labels, H, W), and targets are float32, as segmentation_learner(dls, arch) "
                "does."
            )
        counted = targets[targets != IGNORED]
        if not bool(((counted >= 0) & (counted <= 1)).all()):
            raise TrainingError(
                f"The targets range from {counted.min():g} to {counted.max():g}: for each label "
                f"they are 1 where a pixel has it, 0 where not, and {IGNORED} where it is ignored."
            )
        if counts_ignored(loss_func) and counted.numel() < targets.numel():
            raise TrainingError(
                "The masks have ignored pixels, which this loss of torch would count. Use "
                'loss_func="dice+bce", "binary_dice", "binary_focal" or "bce".'
            )

    def metric(self, name: str) -> NamedMetric:
        return Task.metric(self, _OTHER_NAMES.get(name, name))

    def for_metric(
        self, metric: object, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Metrics of labels need whole numbers as targets; -100 where a pixel is ignored."""
        return predictions, targets.round().long()

    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        return predictions > thresh

    def _prediction(self, mask: Tensor, values: Tensor, names: Names, thresh: float) -> Any:
        return LabelMasksPrediction(mask, values, output_names(names, len(values)), thresh=thresh)

    def confidence(self, values: Tensor) -> float:
        return _sureness(values)

    def targets_shape(self, predictions: Sequence[int]) -> tuple[int, ...]:
        return tuple(predictions)

    def measures(  # type: ignore[override] # of pixels
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> MaskReport:
        known = output_names(names, predictions.shape[1])
        return MaskReport.from_hits(self.decide(predictions, thresh), targets, known)

    def colours(self, n_outputs: int) -> list[tuple[int, int, int]]:
        return palette(n_outputs + 1)[1:]  # the first is black, for a background


def _sureness(probabilities: Tensor) -> float:
    return float(torch.maximum(probabilities, 1 - probabilities).mean())


def _classes(label: Label) -> tuple[int, ...]:
    return cast(MaskFile, label).classes
