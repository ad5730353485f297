"""Gradual unfreezing as a callback."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, first_to_train
from layergroups.training.loop import FitContext

_log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class GradualUnfreezing:
    """A callback that unfreezes one more layer group every few epochs, from the head down.

    What is frozen depends only on the epoch of the fit, so missed or repeated events do no harm.
    The optimizer has all groups from the first step, so none is added to it and none loses its
    state. `Thaw` is an alias.

    Source: Howard and Ruder 2018, «Universal Language Model Fine-tuning for Text Classification»
    (ULMFiT), which unfreezes a group each epoch.

    Attributes:
        every: epochs from one group to the next. `learn.fit` unfreezes at the start of epochs; the
            loops of transformers and Lightning in the middle too, with `every=0.5`.
        start: name or index of the lowest group that trains in the first epoch.
        norm: "train" also trains the norm layers of frozen groups.
        unit: what `every` counts; "steps" of the optimizer are for `layergroups.integrations`.
    """

    every: float = 1
    start: int | str = -1
    norm: str = "freeze"
    unit: Literal["epochs", "steps"] = "epochs"

    def __post_init__(self) -> None:
        first_to_train(0, 0, self.every)
        if self.unit not in ("epochs", "steps"):
            raise TrainingError(f'unit={self.unit!r} must be "epochs" or "steps".')

    def epochs_for(self, groups: LayerGroups) -> int:
        """The smallest number of epochs after which all groups train."""
        return math.ceil(groups[self.start].index * self.every) + 1

    def before_fit(self, run: FitContext) -> None:
        if self.unit == "steps":
            raise TrainingError(
                'GradualUnfreezing(unit="steps") is for layergroups.integrations; learn.fit '
                "unfreezes at the start of epochs: GradualUnfreezing(every=1)."
            )
        first = run.groups[self.start].index
        last = first_to_train(run.epochs - 1, first, self.every)
        if last:
            _log.warning(
                "%d epochs are too few to unfreeze all layer groups: %s will not train. Use %d or "
                "more epochs, or a lower start, such as GradualUnfreezing(every=%g, start=%d)",
                run.epochs, ", ".join(run.groups.names[:last]), self.epochs_for(run.groups),
                self.every, (run.epochs - 1) // self.every,
            )  # fmt: skip

    def before_epoch(self, run: FitContext) -> None:
        run.groups.gradual_unfreeze(run.epoch, every=self.every, start=self.start, norm=self.norm)


Thaw = GradualUnfreezing
