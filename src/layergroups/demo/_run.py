"""Run the demo: print the data, network and layer groups, fine-tune, show the results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups._formatting import say, show
from layergroups.data import ImageDataLoaders
from layergroups.demo._demo_weights import ARCHITECTURE, efficientnet_lite0_weights
from layergroups.reports import (
    ConfusionMatrix,
    Interpretation,
    RunFiles,
    claim_folder,
    network_picture,
    record_run,
    write_rows,
    write_run,
)
from layergroups.tasks import Prediction
from layergroups.training import vision_learner

if TYPE_CHECKING:
    from layergroups.training import Learner


PHOTOS = Path(__file__).parent / "photos"
SIZE = 160  # pixels
_ERRORS_SHOWN = 2


@dataclass(frozen=True)
class DemoResult:
    confusion: ConfusionMatrix  # on the validation photos
    # predictions for the first photo of each class, and for confident errors
    shown: tuple[tuple[Path, Prediction], ...]
    files: RunFiles  # the files of the run
    network: Path  # the picture of the network and its layer groups
    seconds: float  # wall-clock time of the whole demo


def run(
    out: str | Path = "demo-run",
    *,
    epochs: int = 3,
    seed: int = 42,
    folder: str | Path = PHOTOS,
    config: str | None = None,
) -> DemoResult:
    """Fine-tune EfficientNet-Lite0 on the photos of the demo, and print each step.

    Args:
        out: the folder for model and pictures; new, empty, or with an earlier model.
        epochs: after one epoch of the head only.
        seed: of all randomness.
        folder: the photos, split into train and valid.
        config: what run.yaml says; without it `layergroups reproduce` cannot repeat the run.

    Raises:
        WeightsError: the package with the weights is not installed.
        CheckpointError: `out` has other content.
    """
    started = time.perf_counter()
    weights = efficientnet_lite0_weights()
    target = Path(out)
    claim_folder(target)
    learn = _prepare(folder, weights, seed)
    say(
        "\nTraining: first only the head, on cached features of the frozen body; then all layer "
        "groups."
    )
    learn.fine_tune(epochs)
    interp = Interpretation.from_learner(learn)
    confusion = interp.confusion_matrix()
    record = record_run(learn, interp=interp)
    files = write_run(learn, target, confusion, record, config)
    picture = network_picture(learn.layer_groups, target / "network.png", title=ARCHITECTURE)
    shown = tuple(_chosen(interp, Path(folder)))
    result = DemoResult(confusion, shown, files, picture, time.perf_counter() - started)
    _show(result)
    return result


def _prepare(folder: str | Path, weights: Path, seed: int) -> Learner:
    say("Fine-tune a pretrained network on a folder of photos, by layer groups.\n")
    dls = ImageDataLoaders.from_folder(folder, size=SIZE, seed=seed)
    say(
        f"Photos:  {len(dls.train_images)} for training, {len(dls.valid_images)} for validation; "
        f"{dls.c} classes: {', '.join(dls.vocab)}"
    )
    learn = vision_learner(dls, ARCHITECTURE, weights=weights, metrics=["accuracy"], seed=seed)
    say(
        f"Network: {ARCHITECTURE}, pretrained on ImageNet; a new head for {dls.c} classes replaces "
        "its classifier for 1000"
    )
    say("Groups:  layers that share a learning rate and are frozen or trained together")
    say(learn.layer_groups)
    return learn


def _chosen(interp: Interpretation, folder: Path) -> Iterator[tuple[Path, Prediction]]:
    targets = interp.targets.tolist()
    chosen = [targets.index(label) for label in sorted(set(targets))]
    wrong = (item.index for item in interp.top_losses(None) if not interp.is_right(item.index))
    chosen += [index for index in wrong if index not in chosen][:_ERRORS_SHOWN]
    for index in chosen:
        path: Any = interp.paths[index]
        found: Any = interp.task.decode(interp.predictions[index], interp.classes)
        yield path.relative_to(folder), found


def _show(result: DemoResult) -> None:
    confusion, files = result.confusion, result.files
    say()
    show(
        f"Accuracy: {confusion.accuracy:.3f} ({confusion.correct} of {confusion.total} validation "
        f"photos), after {result.seconds:.0f} s\n"
    )
    show("The first photo of each class, and the largest errors:\n")
    paths = [str(path) for path, _ in result.shown]
    write_rows("table", result.shown, Prediction, confusion.classes, paths)
    show(
        f"\nconfusion matrix   {files.picture}\n"
        f"network in groups  {result.network}\n"
        f"model              {files.folder}"
    )
    say(
        "\nNext steps:\n"
        f"  layergroups report {files.folder}  # a page with all results\n"
        f"  layergroups predict {files.folder} your-photo.jpg\n"
        f"  layergroups train --from {files.folder} --epochs 3 --out longer\n"
        "  layergroups train your-photos --arch resnet18 --out your-model  # needs a model hub"
    )
