"""MixUp and CutMix: batches in which every image is a mixture of two."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from layergroups._checks import number
from layergroups._random import mixed, private_randomness
from layergroups.errors import TrainingError
from layergroups.training.loop import FitContext

_log = logging.getLogger("layergroups")


class _Mixes:
    """Applies a torchvision transform to the batches of a fit, with its own seed."""

    kind: Literal["MixUp", "CutMix"]

    def __init__(self, alpha: float, p: float) -> None:
        self.alpha = number("alpha", alpha, 0, 1e3, 0.4, open_ends=True)
        self.p = number("p", p, 0, 1, 1.0)
        self._mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def before_fit(self, run: FitContext) -> None:
        from torchvision.transforms import v2

        self._mix = getattr(v2, self.kind)(alpha=self.alpha)
        if run.needs_features:
            _log.warning("%s is off: the head trains on cached outputs of the body.", self.kind)
        else:
            run.use_no_features(f"{self.kind} mixes the images")

    def before_step(self, run: FitContext) -> None:
        if run.needs_features or run.mixed or len(run.targets) < 2:
            return
        _check_images(run.inputs, self.kind)
        seed = mixed(run.learner.epoch_seed(), self.kind, run.batch)
        with private_randomness(seed % 2**32):
            if float(torch.rand(())) < self.p:
                assert self._mix is not None
                run.inputs, run.targets = self._mix(run.inputs, soft_targets(run, self.kind))
                run.mixed = True


class MixUp(_Mixes):
    """Trains on mixtures: each image is blended with the next of its batch, and so are the targets.

    Targets become soft, float (N, C). Cross entropy (also with label smoothing or class weights)
    and binary cross entropy take them; a custom loss must too. The training loss is higher than
    that of whole images, which validation uses. Mixtures depend only on seed, epoch and batch;
    several processes mix within their shares. Outputs of frozen layers are not cached, since their
    inputs differ in each epoch; the first phase of `fine_tune` trains on cached outputs and is not
    mixed. With `CutMix` in the same list, a batch is mixed once, by the first that draws it:
    `[MixUp(p=0.5), CutMix()]` gives each about half of the batches. In fastai: MixUp.

    Source: Zhang et al. 2018, «mixup: Beyond Empirical Risk Minimization»;
    torchvision.transforms.v2.MixUp.

    Args:
        alpha: of the Beta distribution of the blend; small values blend little.
        p: part of the batches that are mixed.

    Raises:
        TrainingError: an argument is wrong; or in a fit, the batches are not images, or the data do
            not define the number of classes.
    """

    kind = "MixUp"

    def __init__(self, alpha: float = 0.4, p: float = 1.0) -> None:
        super().__init__(alpha, p)


class CutMix(_Mixes):
    """Trains on collages: a rectangle of each image comes from the next image of its batch.

    Targets are blended by area. Otherwise it works as `MixUp`. In fastai: CutMix.

    Source: Yun et al. 2019, «CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features»; torchvision.transforms.v2.CutMix.

    Args:
        alpha: of the Beta distribution of the area that stays.
        p: part of the batches that are mixed.
    """

    kind = "CutMix"

    def __init__(self, alpha: float = 1.0, p: float = 1.0) -> None:
        super().__init__(alpha, p)


def soft_targets(run: FitContext, who: str) -> Tensor:
    """The targets of a batch as float (N, C)."""
    targets = run.targets
    if targets.ndim == 2 and targets.is_floating_point():
        return targets
    classes = run.learner.data.n_outputs
    if targets.ndim != 1 or targets.is_floating_point() or not classes:
        raise TrainingError(
            f"{who} needs classes (N,) and their number, or float targets (N, C), not "
            f"{tuple(targets.shape)} {targets.dtype} of {classes} classes. Give the data an "
            "attribute vocab or c."
        )
    return functional.one_hot(targets, classes).float()


def _check_images(inputs: Any, who: str) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TrainingError(
            f"{who} mixes images, float (N, channels, height, width); the inputs are {shape}."
        )
