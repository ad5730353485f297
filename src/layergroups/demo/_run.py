"""The demo's story: photos, network, groups, training, result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups._formatting import say, show
from layergroups.data import ImageDataLoaders
from layergroups.demo._demo_weights import ARCHITECTURE, efficientnet_lite0_weights
from layergroups.reports import (
    ConfusionMatrix,
    RunFiles,
    claim_folder,
    groups_report,
    network_picture,
    predictions_table,
    write_run,
)
from layergroups.tasks import Prediction
from layergroups.training import vision_learner

if TYPE_CHECKING:
    from layergroups.training import Learner


PHOTOS = Path(__file__).parent / "photos"
SIZE = 160  # pixels
_MISTAKES_SHOWN = 2


_Shown = tuple[Path, Prediction, str]  # and the actual class


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        confusion: on the validation photos.
        shown: the predictions that were shown: the first photo of each class, and mistakes.
        files: the folder of the run.
        network: the picture of the network in its groups.
        seconds: from the first photo to the last prediction.
    """

    confusion: ConfusionMatrix
    shown: tuple[_Shown, ...]
    files: RunFiles
    network: Path
    seconds: float


def run(
    out: str | Path = "demo-run", *, epochs: int = 3, seed: int = 42, folder: str | Path = PHOTOS
) -> DemoResult:
    """Fine-tune EfficientNet-Lite0 on the demo's photos, telling the story.

    Args:
        out: the folder for the model and the pictures; new, empty, or an earlier model's.
        epochs: after one of the head alone.
        seed: of everything random.
        folder: the photos, divided into train and valid.

    Raises:
        WeightsError: the package with the weights is not installed.
        CheckpointError: `out` holds other things.
    """
    started = time.perf_counter()
    weights = efficientnet_lite0_weights()
    target = Path(out)
    claim_folder(target)
    learn = _prepare(folder, weights, seed)
    say(
        "\nTraining: first the head alone, on stored outputs of the frozen body; then all but the "
        "first group."
    )
    learn.fine_tune(epochs)
    probabilities, targets, *_ = learn.get_preds()
    dls: Any = learn.dls
    confusion = ConfusionMatrix.from_predictions(probabilities, targets, dls.vocab)
    files = write_run(learn, target, confusion)
    picture = network_picture(learn.layer_groups, target / "network.png", title=ARCHITECTURE)
    shown = tuple(_chosen(learn, probabilities, targets, Path(folder)))
    result = DemoResult(confusion, shown, files, picture, time.perf_counter() - started)
    _tell(result)
    return result


def _prepare(folder: str | Path, weights: Path, seed: int) -> Learner:
    """Read the photos, make the network, and say what they are."""
    say("From a folder of photos to a fine-tuned model, by layer groups.\n")
    dls = ImageDataLoaders.from_folder(folder, size=SIZE, seed=seed)
    say(
        f"Photos:  {len(dls.train_photos)} to learn from and {len(dls.valid_photos)} to measure "
        f"with; {dls.c} classes: {', '.join(dls.vocab)}"
    )
    learn = vision_learner(dls, ARCHITECTURE, weights=weights, metrics=["accuracy"], seed=seed)
    say(
        f"Network: {ARCHITECTURE}, pretrained on ImageNet; its classifier of 1000 classes is "
        f"replaced by a new head for {dls.c}"
    )
    say("Groups:  layers that are trained as a unit, one rate each, frozen or not")
    say(groups_report(learn.layer_groups))
    return learn


def _chosen(
    learn: Learner, probabilities: Tensor, targets: Tensor | None, folder: Path
) -> list[_Shown]:
    """The first photo of each class, and the surest mistakes."""
    dls: Any = learn.dls
    task: Any = learn.task
    labels = [] if targets is None else targets.tolist()
    rows = [
        (path.relative_to(folder), task.decode(found, dls.vocab), dls.vocab[label])
        for path, found, label in zip(dls.valid.paths, probabilities, labels, strict=True)
    ]
    first = {actual: (path, found, actual) for path, found, actual in reversed(rows)}
    shown = [first[name] for name in dls.vocab if name in first]
    wrong = sorted(
        (row for row in rows if row[1].label != row[2]), key=lambda row: -row[1].probability
    )
    paths = {row[0] for row in shown}
    return shown + [row for row in wrong if row[0] not in paths][:_MISTAKES_SHOWN]


def _tell(result: DemoResult) -> None:
    confusion, files = result.confusion, result.files
    say()
    show(
        f"Accuracy: {confusion.accuracy:.3f} ({confusion.correct} of {confusion.total} validation "
        f"photos), after {result.seconds:.0f} s in all\n"
    )
    show("The first photo of each class, and the surest mistakes:")
    rows = [(path, found) for path, found, _ in result.shown]
    show(predictions_table(rows, [actual for _, _, actual in result.shown]))
    show(
        f"confusion matrix   {files.picture}\n"
        f"network in groups  {result.network}\n"
        f"model              {files.folder}"
    )
    say(_next(files))


def _next(files: RunFiles) -> str:
    return (
        "\nWhat to try next:\n"
        f"  layergroups predict {files.folder} your-photo.jpg\n"
        "  layergroups inspect resnet18 --out resnet18.png\n"
        "  layergroups train your-photos --arch resnet18 --out your-model"
    )
