"""A program as a user writes it, which type checkers read (tests/test_typing.py)."""

from pathlib import Path

import torch
from torch import Tensor, nn

import layergroups as lg
from layergroups import (
    Augmentation,
    CrossEntropy,
    EarlyStopping,
    History,
    ImageDataLoaders,
    Interpretation,
    LayerGroups,
    Learner,
    SaveBest,
    decay,
    vision_learner,
)
from layergroups.training import FitContext, LabelsPrediction


class Counter:
    """A callback."""

    steps: int = 0

    def after_step(self, run: FitContext) -> None:
        self.steps += 1


def train(photos: Path) -> History:
    dls = ImageDataLoaders.from_folder(
        photos, size=160, batch_size=32, augment=Augmentation(flip=0.5), num_workers=0
    )
    counter = Counter()
    learn: Learner = vision_learner(
        dls,
        "resnet18",
        metrics=["accuracy"],
        loss_func=CrossEntropy(label_smoothing=0.1),
        callbacks=[counter, EarlyStopping(patience=2), SaveBest()],
        mixed_precision="bf16",
        weight_decay=0.05,
        img_size=160,
        seed=42,
    )
    rates: tuple[float, ...] = learn.layer_groups.rates
    history: History = learn.fine_tune(3, 1e-3)
    history += learn.fit_one_cycle(2, lr=slice(1e-5, 1e-3), checkpoint_dir="saved")
    learn.freeze()
    learn.unfreeze()
    learn.fit(1, decay(1e-3, 0.75), callbacks=[counter])
    found = learn.lr_find()
    learn.fit(1, lr=found.rates)
    accuracy: float = history[-1].metrics["accuracy"]
    loss: float = learn.validate()["valid_loss"]
    print(len(rates), accuracy, loss, counter.steps, dls.vocab[0], dls.c)
    return history


def use(learn: Learner, photo: Path) -> str:
    probabilities, targets = learn.get_preds()
    both: Tensor = probabilities.argmax(1)
    _, _, losses = learn.get_preds(with_loss=True)
    worst: int = int(losses.argmax())
    label: str = learn.predict(photo).label
    labels: tuple[str, ...] = learn.predict(photo, LabelsPrediction).labels
    views, _ = learn.tta(n=2)
    for path, prediction in learn.iter_preds([photo]):
        print(path.name, prediction)
    interp = Interpretation.from_learner(learn)
    right: float = interp.confusion_matrix().accuracy
    learn.export("model.onnx")
    learn.report("run.html")
    vocabulary: tuple[str, ...] = learn.dls.vocab
    print(both, targets, worst, views.shape, right, vocabulary, labels)
    return label


def own_loop(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    groups = LayerGroups(model, "layerwise", example_input=batches[0][0])
    optimizer = groups.optimizer(torch.optim.SGD, lr=1e-2, momentum=0.9)
    groups.freeze_to(-1)
    for group in groups:
        print(group.name, group.lr, group.frozen)
    for inputs, targets in batches:
        groups.sync()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()  # pyright: ignore[reportUnknownMemberType] # torch does not type it
        optimizer.step()
    lg.replace_head(model, 5)
