"""Losses: what their outputs mean, those of this library, names, and losses of single items.

The loss of a batch is the plain mean over its items, weighted or not, so that it does not depend on
how they are batched, accumulated or shared out among processes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layergroups._checks import number
from layergroups._formatting import name_of
from layergroups._suggestions import nearest
from layergroups._torch import compiled_from
from layergroups.errors import CheckpointError, TrainingError

LossFunc = Callable[[Tensor, Tensor], Tensor]
MeanSquaredError = nn.MSELoss
L1 = nn.L1Loss
Huber = nn.HuberLoss


class Meaning(Enum):
    """How a loss interprets the outputs of a model."""

    SOFTMAX = "scores of classes, of which one is right"
    SIGMOID = "scores of labels, each by itself"
    PROBABILITIES = "probabilities"
    NUMBERS = "numbers"
    RATES = "expected counts"
    LOG_RATES = "logarithms of expected counts"


_CLASSES: Final[dict[Meaning, tuple[type[Any], ...]]] = {
    Meaning.SOFTMAX: (nn.CrossEntropyLoss, nn.NLLLoss),
    Meaning.SIGMOID: (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss),
    Meaning.PROBABILITIES: (nn.BCELoss,),
    Meaning.NUMBERS: (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
}
_FUNCTIONS: Final[dict[Meaning, tuple[Callable[..., Any], ...]]] = {
    Meaning.SOFTMAX: (F.cross_entropy, F.nll_loss),
    Meaning.SIGMOID: (F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss),
    Meaning.PROBABILITIES: (F.binary_cross_entropy,),
    Meaning.NUMBERS: (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
}


def _unwrapped(loss_func: Any) -> tuple[Any, dict[str, Any]]:
    """What partials and compiled losses call, and the arguments that partials set."""
    settings: dict[str, Any] = {}
    while True:
        if isinstance(loss_func, partial):
            settings = loss_func.keywords | settings
            loss_func = loss_func.func
        elif (inner := compiled_from(loss_func)) is not None:
            loss_func = inner
        else:
            return loss_func, settings


def meaning_of(loss_func: object) -> Meaning | None:
    """How a loss interprets outputs, by its class or function; None if unknown.

    Its name does not count: another library's `BinaryCrossEntropy` may be for one class per item.
    """
    loss_func, settings = _unwrapped(loss_func)
    if isinstance(loss_func, NamedLoss):
        return loss_func.meaning
    if isinstance(loss_func, nn.PoissonNLLLoss) or loss_func is F.poisson_nll_loss:
        logarithms = getattr(loss_func, "log_input", settings.get("log_input", True))
        return Meaning.LOG_RATES if logarithms else Meaning.RATES
    for meaning, classes in _CLASSES.items():
        if isinstance(loss_func, classes) or any(loss_func is f for f in _FUNCTIONS[meaning]):
            return meaning
    return None


def apply(meaning: Meaning, outputs: Tensor) -> Tensor:
    """Outputs (N, C) as predictions, float32: probabilities or numbers."""
    outputs = outputs.to(torch.float32)
    if meaning is Meaning.SOFTMAX:
        return outputs.softmax(dim=1)  # of log-probabilities too, as NLLLoss takes them
    if meaning is Meaning.SIGMOID:
        return outputs.sigmoid()
    return outputs.exp() if meaning is Meaning.LOG_RATES else outputs


def ignored_index(loss_func: object) -> int:
    """The class that a loss leaves out; by default -100, as in torch."""
    loss_func, settings = _unwrapped(loss_func)
    return int(settings.get("ignore_index", getattr(loss_func, "ignore_index", -100)))


def loss_name(loss_func: object) -> str:
    loss_func, _ = _unwrapped(loss_func)
    return name_of(loss_func)


def checked_loss(loss_func: LossFunc, outputs: Tensor, targets: Tensor) -> Tensor:
    fault = (
        f"The loss {loss_name(loss_func)} does not fit outputs {tuple(outputs.shape)} "
        f"{outputs.dtype} and targets {tuple(targets.shape)} {targets.dtype}: "
    )
    try:
        loss = loss_func(outputs, targets)
    except Exception as cause:
        raise TrainingError(f"{fault}{cause}.") from cause
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
        raise TrainingError(
            f"{fault}it returned {got}. It must return one number, the mean over the batch, as a "
            "tensor."
        )
    return loss


def item_losses(loss_func: LossFunc, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each item, shape (N,)."""
    loss_func = compiled_from(loss_func) or loss_func  # not to compile it for other shapes
    losses = _unreduced(loss_func, outputs, targets)
    if losses is not None and losses.ndim:
        return losses.reshape(len(losses), -1).mean(dim=1)
    pairs = zip(outputs.split(1), targets.split(1), strict=True)
    return torch.stack([loss_func(output, target) for output, target in pairs])


def _unreduced(loss_func: LossFunc, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """What a loss gives with the reduction "none"; None if it has none that can be set."""
    if (before := getattr(loss_func, "reduction", None)) is None:
        return None
    each: Any = copy.copy(loss_func)
    try:
        each.reduction = "none"
    except (AttributeError, RuntimeError):  # a frozen dataclass, TorchScript
        return None
    try:
        losses: Tensor = each(outputs, targets)
        return losses
    finally:
        each.reduction = before  # it may be that of a loss inside, which the copy shares


# lower bound, upper bound, and an example of fields
_RANGES: Final = {"label_smoothing": (0, 1, 0.1), "gamma": (0, float("inf"), 2)}
Reduction = Literal["mean", "sum", "none"]
Weights = str | Sequence[float] | Tensor | None


@dataclass(kw_only=True)
class NamedLoss(ABC):
    """Base of the losses in this file; `reduction` "none" gives the losses of the items."""

    reduction: Reduction = "mean"
    meaning: ClassVar[Meaning | None]
    weighted_by: ClassVar[str] = ""  # the field that holds weights of classes, if there is one

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum", "none"):
            raise TrainingError(f'reduction={self.reduction!r}: use "mean", "sum" or "none".')
        if self.weighted_by:
            self._check_weights(self.weighted_by)
        for name, bounds in _RANGES.items():
            if hasattr(self, name):
                number(name, getattr(self, name), *bounds)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = self.each(outputs.float(), targets)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean()

    @abstractmethod
    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The losses of the items, before they are reduced."""

    def balanced(self, targets: Tensor, n_outputs: int) -> NamedLoss:
        """The loss with "balanced" weights as numbers, from the targets of all training items."""
        if not self.is_balanced:
            return self
        count = positive_weights if self.weighted_by == "pos_weight" else balanced_weights
        changed: dict[str, Any] = {self.weighted_by: count(targets, n_outputs)}
        return replace(self, **changed)

    @property
    def is_balanced(self) -> bool:
        """Whether the weights depend on the training data."""
        return bool(self.weighted_by) and isinstance(getattr(self, self.weighted_by), str)

    def _check_weights(self, name: str) -> None:
        value = getattr(self, name)
        if value is None or (isinstance(value, str) and value == "balanced"):
            return
        try:
            weights = tuple(float(v) for v in value)
            wrong = not weights or min(weights) < 0 or isinstance(value, str)
        except (TypeError, ValueError):
            wrong = True
        if wrong:
            raise TrainingError(
                f'{name}={value!r} must be "balanced", or a number from 0 for each class: '
                f"{type(self).__name__}({name}=[1.0, 5.0])."
            )
        setattr(self, name, weights)

    def _tensor(self, outputs: Tensor) -> Tensor | None:
        name, value = self.weighted_by, getattr(self, self.weighted_by)
        if value is None:
            return None
        if isinstance(value, str):
            raise TrainingError(
                f'{name}="balanced" takes the weights from the training data: give the loss to the '
                f"learner, loss_func={type(self).__name__}({name}={value!r})."
            )
        if len(value) != outputs.shape[1]:
            raise TrainingError(
                f"{name} has {len(value)} numbers for {outputs.shape[1]} outputs: give one for "
                "each class, in the order of dls.vocab."
            )
        return torch.tensor(value, device=outputs.device, dtype=torch.float32)


@dataclass
class CrossEntropy(NamedLoss):
    """Cross entropy, for one class per item.

    Targets are classes (N,), or a probability for each class (N, C), as mixup makes them. It is
    `torch.nn.CrossEntropyLoss` but for weights: the mean is over the items, where torch divides by
    the sum of the weights that happen to be in the batch.

    Attributes:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        weight: of each class; "balanced" makes rare classes count as much as frequent ones, by the
            training data of each fit: items / (classes * items of the class).
    """

    label_smoothing: float = 0.0
    weight: Weights = None
    meaning = Meaning.SOFTMAX
    weighted_by = "weight"

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs (N, C); for outputs (N, C, H, W) one per pixel."""
        return F.cross_entropy(
            outputs,
            targets,
            weight=self._tensor(outputs),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )


@dataclass
class FocalLoss(NamedLoss):
    """Cross entropy times (1 - p)^gamma, where p is the probability of the right class.

    Easy items count little, so that training focuses on hard ones. Source: Lin et al. 2017,
    «Focal Loss for Dense Object Detection», here for one class per item;
    `BinaryFocalLoss` is for several labels.

    Attributes:
        gamma: 0 is cross entropy.
        weight: of each class, or "balanced"; as in `CrossEntropy`.
    """

    gamma: float = 2.0
    weight: Weights = None
    meaning = Meaning.SOFTMAX
    weighted_by = "weight"

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs (N, C) and classes (N,) or probabilities (N, C)."""
        logs = outputs.float().log_softmax(dim=1)
        losses = -((1 - logs.exp()) ** self.gamma) * logs
        weight = self._tensor(outputs)
        if weight is not None:
            losses = losses * weight.view(1, -1, *[1] * (losses.ndim - 2))
        if targets.is_floating_point():
            return (losses * targets).sum(dim=1)
        known = targets >= 0  # -100 is left out, as in cross entropy
        chosen = losses.gather(1, targets.long().clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(known, chosen, 0.0)


@dataclass
class DiceLoss(NamedLoss):
    """1 - Dice, the mean over the classes, for a class for every pixel.

    It is of each image by itself, so that it does not depend on how images are batched; classes
    that are not in the mask count where they are predicted. Source: Milletari et al. 2016,
    «V-Net», here with a smoothing of one pixel.

    Attributes:
        cross_entropy: the share of cross entropy that is added; 0.5 is half of each. For weights of
            classes: `SumLoss([DiceLoss(), CrossEntropy(weight="balanced")])`.
    """

    cross_entropy: float = 0.0
    meaning = Meaning.SOFTMAX

    def __post_init__(self) -> None:
        super().__post_init__()
        number("cross_entropy", self.cross_entropy, 0, 1, 0.5)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs (N, C, H, W) and classes (N, H, W), -100 where ignored."""
        known = (targets >= 0)[:, None]
        chances = torch.where(known, outputs.softmax(dim=1), 0.0)
        places = targets.long().clamp(min=0)[:, None]
        truth = torch.zeros_like(chances).scatter_(1, places, known.to(chances))
        losses = _one_minus_dice(chances, truth)
        if not self.cross_entropy:
            return losses
        entropies = F.cross_entropy(outputs, targets, reduction="none").flatten(1).mean(dim=1)
        return (1 - self.cross_entropy) * losses + self.cross_entropy * entropies


@dataclass
class BinaryCrossEntropy(NamedLoss):
    """Binary cross entropy of every label, for any number of labels per item.

    Targets (N, C) are from 0 to 1.

    Attributes:
        label_smoothing: share of the target that is spread over yes and no.
        pos_weight: weight of present labels relative to absent ones; "balanced" is items without
            the label / items with it, from the training data of each fit.
    """

    label_smoothing: float = 0.0
    pos_weight: Weights = None
    meaning = Meaning.SIGMOID
    weighted_by = "pos_weight"

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N, C)."""
        smooth = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        weight = self._tensor(outputs)
        if weight is not None:
            weight = weight.view(-1, *[1] * (outputs.ndim - 2))
        losses = F.binary_cross_entropy_with_logits(
            outputs, smooth, pos_weight=weight, reduction="none"
        )
        return _counted(losses, targets)


@dataclass
class BinaryFocalLoss(NamedLoss):
    """The focal loss of every label, for any number of labels per item.

    It is `torchvision.ops.sigmoid_focal_loss`. Source: Lin et al. 2017, «Focal Loss for Dense
    Object Detection», equation 5.

    Attributes:
        gamma: 0 is binary cross entropy.
        alpha: weight of present labels, absent ones have 1 - alpha; None: both 1.
    """

    gamma: float = 2.0
    alpha: float | None = 0.25
    meaning = Meaning.SIGMOID

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            number("alpha", self.alpha, 0, 1, 0.25)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N, C)."""
        from torchvision.ops import sigmoid_focal_loss  # not loaded with the package

        alpha = -1.0 if self.alpha is None else self.alpha
        losses: Tensor = sigmoid_focal_loss(outputs, targets.float(), alpha, self.gamma)
        return _counted(losses, targets)


@dataclass
class BinaryDiceLoss(DiceLoss):
    """1 - Dice, the mean over labels that may overlap; as `DiceLoss`, for masks of each label.

    Attributes:
        cross_entropy: the share of binary cross entropy that is added; 0.5 is half of each.
    """

    meaning = Meaning.SIGMOID

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs and targets (N, C, H, W): 0, 1, or -100 where ignored."""
        truth = _counted(targets.float(), targets)
        losses = _one_minus_dice(_counted(outputs.sigmoid(), targets), truth)
        if not self.cross_entropy:
            return losses
        entropies = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        entropies = _counted(entropies, targets).flatten(1).mean(dim=1)
        return (1 - self.cross_entropy) * losses + self.cross_entropy * entropies


@dataclass
class SumLoss(NamedLoss):
    """A weighted sum of losses that interpret outputs in the same way.

    `SumLoss([DiceLoss(), FocalLoss()])` is half of each, as is the name `"dice+focal"`. A function
    that is not known is taken to interpret outputs as the known losses do.

    Attributes:
        losses: names or objects; their weights may be "balanced".
        weights: of the losses; None: equal, with the sum 1.

    Raises:
        TrainingError: the losses do not fit together, or the weights do not fit them.
    """

    losses: Sequence[LossFunc | str]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        example = "SumLoss([DiceLoss(), FocalLoss()], weights=[0.5, 0.5])"
        if isinstance(self.losses, str) or not isinstance(self.losses, Sequence) or not self.losses:
            raise TrainingError(f"losses={self.losses!r} must be a list of losses: {example}.")
        self.losses = tuple(as_loss(each) for each in self.losses)
        self.weights = _shares(self.weights, len(self.losses), example)
        _check_parts(self._parts)
        parts = zip(self.weights, self._parts, strict=True)
        # for reports and messages, as functions have it
        self.__name__ = " + ".join(f"{weight:.3g} {loss_name(part)}" for weight, part in parts)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.reduction != "mean":
            return super().__call__(outputs, targets)
        return self._sum([part(outputs.float(), targets) for part in self._parts])

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,)."""
        return self._sum([item_losses(part, outputs, targets) for part in self._parts])

    def balanced(self, targets: Tensor, n_outputs: int) -> SumLoss:
        """The sum with the "balanced" weights of its losses as numbers."""

        def weighted(part: LossFunc) -> LossFunc:
            return part.balanced(targets, n_outputs) if isinstance(part, NamedLoss) else part

        return replace(self, losses=tuple(map(weighted, self._parts)))

    @property
    def is_balanced(self) -> bool:
        return any(part.is_balanced for part in self._parts if isinstance(part, NamedLoss))

    @property
    def meaning(self) -> Meaning | None:  # type: ignore[override] # it depends on the losses
        return next(filter(None, map(meaning_of, self._parts)), None)

    @property
    def activation(self) -> Callable[[Tensor], Tensor] | None:
        """What a loss that is not known says of its outputs."""
        found = [getattr(part, "activation", None) for part in self._parts]
        return next((each for each in found if callable(each)), None)

    @property
    def ignore_index(self) -> int:
        return ignored_index(self._parts[0])

    @property
    def _parts(self) -> tuple[LossFunc, ...]:
        return cast(tuple[LossFunc, ...], self.losses)

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        weighted = [w * value for w, value in zip(self.weights or (), values, strict=True)]
        return torch.stack(weighted).sum(dim=0)


def _shares(weights: Any, n: int, example: str) -> tuple[float, ...]:
    if weights is None:
        return (1 / n,) * n
    try:
        values = tuple(float(weight) for weight in weights)
        fits = not isinstance(weights, str) and all(0 <= v < float("inf") for v in values)
    except (TypeError, ValueError):
        values, fits = (), False
    if not fits or len(values) != n or not any(values):
        raise TrainingError(
            f"weights={weights!r} must be a number from 0 for each of the {n} losses, not all of "
            f'them 0: {example}. Weights of classes are of a loss: CrossEntropy(weight="balanced").'
        )
    return values


def _check_parts(parts: Sequence[LossFunc]) -> None:
    meanings = {known: part for part in parts if (known := meaning_of(part)) is not None}
    if len(meanings) > 1:
        shown = "; ".join(f"{loss_name(part)}: {known.value}" for known, part in meanings.items())
        raise TrainingError(
            f"These losses interpret outputs in different ways ({shown}), so they have no sum. For "
            "one class per item or pixel use CrossEntropy, FocalLoss, DiceLoss; for several labels "
            "BinaryCrossEntropy, BinaryFocalLoss, BinaryDiceLoss."
        )
    if len(ignored := {ignored_index(part) for part in parts}) > 1:
        raise TrainingError(
            f"These losses leave out different classes, {', '.join(map(str, sorted(ignored)))}. "
            "Give all of them the same ignore_index; that of this library's losses is -100."
        )
    for part in parts:
        if (reduction := getattr(part, "reduction", "mean")) != "mean":
            raise TrainingError(
                f"{loss_name(part)} has reduction={reduction!r}. A sum takes means: leave it out, "
                f"or give it to the sum, SumLoss([...], reduction={reduction!r})."
            )


def counts_ignored(loss_func: object) -> bool:
    """Whether a loss of labels, one of torch, would count targets of -100."""
    inner, _ = _unwrapped(loss_func)
    if isinstance(inner, SumLoss):
        return any(map(counts_ignored, inner.losses))
    return not isinstance(inner, NamedLoss) and meaning_of(inner) is not None


def _counted(values: Tensor, targets: Tensor) -> Tensor:
    """Values of labels, 0 where the target is -100: a pixel that counts nowhere."""
    return torch.where(targets >= 0, values, 0.0)


def _one_minus_dice(chances: Tensor, truth: Tensor) -> Tensor:
    both, sides = (chances * truth).sum((2, 3)), (chances + truth).sum((2, 3))
    losses: Tensor = 1 - ((2 * both + 1) / (sides + 1)).mean(dim=1)
    return losses


def balanced_weights(targets: Tensor, n_outputs: int) -> tuple[float, ...]:
    """For each class items / (classes * items of the class): their mean over the items is 1.

    A class without items has weight 1. It is scikit-learn's "balanced".
    """
    if targets.is_floating_point() and targets.ndim > 1:
        hot = targets > 0.5
        if not bool((hot.sum(dim=1) == 1).all()):
            raise TrainingError(
                'weight="balanced" needs one class for each item, but these have several labels, '
                'or none. Use BinaryCrossEntropy(pos_weight="balanced").'
            )
        targets = hot.long().argmax(dim=1)
    if targets.ndim == 2:  # how many pixels of each class each mask has
        counts = targets.sum(dim=0).tolist()
    else:
        counts = torch.bincount(targets.long().flatten(), minlength=n_outputs).tolist()
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 1.0 for count in counts)


def positive_weights(targets: Tensor, n_outputs: int) -> tuple[float, ...]:
    """For each label items without it / items with it; 1 if no item or every item has it."""
    if not targets.is_floating_point():
        targets = F.one_hot(targets.long(), n_outputs)
    # Of masks the targets are shares of pixels.
    items, counts = len(targets), targets.sum(dim=0).tolist()
    return tuple((items - n) / n if 0 < n < items else 1.0 for n in counts)


LOSSES: Final[dict[str, Callable[[], Any]]] = {
    "cross_entropy": CrossEntropy,
    "focal": FocalLoss,
    "dice": DiceLoss,
    "dice+cross_entropy": partial(DiceLoss, cross_entropy=0.5),
    "bce": BinaryCrossEntropy,
    "binary_focal": BinaryFocalLoss,
    "binary_dice": BinaryDiceLoss,
    "dice+bce": partial(BinaryDiceLoss, cross_entropy=0.5),
    "mse": MeanSquaredError,
    "l1": L1,
    "mae": L1,
    "huber": Huber,
}
# Losses in files. Before version 0.2 those of numbers were classes of this library.
_SAVED: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        CrossEntropy, FocalLoss, DiceLoss, BinaryCrossEntropy, BinaryFocalLoss, BinaryDiceLoss,
        SumLoss,
        nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.BCELoss, nn.NLLLoss, nn.PoissonNLLLoss,
        nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
    )
} | {"MeanSquaredError": nn.MSELoss, "L1": nn.L1Loss, "Huber": nn.HuberLoss}  # fmt: skip
_NOT_SAVED: Final = {"size_average", "reduce", "reduction"}  # arguments of the losses of torch


def as_loss(loss_func: Any) -> LossFunc:
    """A loss from its name or from names with + between them, or the given object."""
    if isinstance(loss_func, str):
        return _named(loss_func)
    if isinstance(loss_func, type):
        raise TrainingError(
            f"loss_func={loss_func.__name__} is a class; give an object: {loss_func.__name__}()."
        )
    if not callable(loss_func):
        raise TrainingError(
            f"loss_func={loss_func!r} cannot be called. Give a name ({', '.join(LOSSES)}) or a "
            "function of outputs and targets."
        )
    given: LossFunc = loss_func
    return given


def _named(name: str) -> LossFunc:
    parts = [part.strip() for part in name.split("+")]
    for known, make in LOSSES.items():
        if sorted(known.split("+")) == sorted(parts):
            made: LossFunc = make()
            return made
    for part in parts:
        if part not in LOSSES:
            raise TrainingError(
                f"No loss is called {part!r}.{nearest(part, LOSSES)} There are "
                f"{', '.join(LOSSES)}, and sums of them, such as dice+focal; or give any function "
                "of outputs and targets, such as torch.nn.functional.cross_entropy."
            )
    if any(meaning_of(LOSSES[part]()) is Meaning.SIGMOID for part in parts):
        parts = ["binary_dice" if part == "dice" else part for part in parts]  # as in dice+bce
    return SumLoss(parts)


def saved_name(loss_func: object) -> str:
    """The class name of a loss; with its module if it is neither of this file nor of torch.nn."""
    if _is_saved(loss_func):
        return type(loss_func).__name__
    loss_func, _ = _unwrapped(loss_func)
    return f"{getattr(loss_func, '__module__', '')}.{loss_name(loss_func)}"


def _is_saved(loss_func: object) -> bool:
    if isinstance(loss_func, SumLoss) and not all(map(_is_saved, loss_func.losses)):
        return False
    return _SAVED.get(type(loss_func).__name__) is type(loss_func)


def stand_in(meaning: str) -> LossFunc | None:
    """A loss of torch that interprets outputs in the same way; None if there is none."""
    if meaning in (Meaning.RATES.name, Meaning.LOG_RATES.name):
        return nn.PoissonNLLLoss(log_input=meaning == Meaning.LOG_RATES.name)
    classes = {known.name: classes for known, classes in _CLASSES.items()}.get(meaning)
    return None if classes is None else classes[0]()


def describe_loss(loss_func: Any) -> dict[str, Any]:
    """The settings of a loss of this file or of torch.nn, JSON-ready; empty for others."""
    kind = type(loss_func)
    if not _is_saved(loss_func):
        return {}
    if isinstance(loss_func, SumLoss):
        parts = [{"name": saved_name(p), "settings": describe_loss(p)} for p in loss_func.losses]
        own = {"weights": list(loss_func.weights or ()), "reduction": loss_func.reduction}
        return {"losses": parts, **own}
    if isinstance(loss_func, NamedLoss):
        settings = asdict(loss_func)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    names = [name for name in signature(kind).parameters if name not in _NOT_SAVED]
    values = {name: getattr(loss_func, name) for name in names}
    return {n: v.tolist() if isinstance(v, Tensor) else v for n, v in values.items()}


def loss_from(name: str, settings: Mapping[str, Any]) -> LossFunc | None:
    """The inverse of `describe_loss`, by the name of the class; None if unknown."""
    if name not in _SAVED:
        return None
    kind, values = _SAVED[name], dict(settings)
    if issubclass(kind, nn.Module):
        values = {n: torch.tensor(v) if isinstance(v, list) else v for n, v in values.items()}
        values.pop("reduction", None)
    if kind is SumLoss:
        values["losses"] = _saved_parts(values.get("losses"))
    try:
        made: LossFunc = kind(**values)
    except (TypeError, TrainingError) as cause:
        raise CheckpointError(
            f"{dict(settings)} are not settings of the loss {name}: {cause}."
        ) from cause
    return made


def _saved_parts(saved: Any) -> list[LossFunc | None]:
    try:
        return [loss_from(part["name"], part["settings"]) for part in saved]
    except (TypeError, KeyError, ValueError) as cause:
        raise CheckpointError(
            f"{saved!r} are not the losses of a SumLoss: a list with the name and the settings of "
            "each was expected."
        ) from cause
