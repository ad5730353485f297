"""Which layer groups to train and at which rates, by measurement on a person's data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from layergroups.errors import TrainingError
from layergroups.training.as_it_was import as_it_was
from layergroups.training.evidence import Evidence, Gradients, change_of, gradients, grams
from layergroups.training.lr_find import Steps
from layergroups.training.proposal import GroupProposal, propose
from layergroups.training.recipes import FineTuneDefaults
from layergroups.training.run import new_run
from layergroups.training.schedules import Flat, OneCycle, Schedule
from layergroups.training.trial_batches import Room, Shortcut, TrialBatches

if TYPE_CHECKING:
    from layergroups.training.learner import Learner
    from layergroups.training.looking import Looking

_LEAST: Final = 3
_HEAD_PASSES: Final = 10


@dataclass(frozen=True)
class Look:
    """What `suggest_groups` was asked for, checked.

    Attributes:
        base_lr: rate of the groups that train.
        batches: that are measured.
        train_head: whether the last group is trained before; None: if nothing has trained yet.
    """

    base_lr: float
    batches: int
    train_head: bool | None

    def __post_init__(self) -> None:
        rate = self.base_lr
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise TrainingError(f"base_lr={rate!r} must be a rate above 0, such as 1e-4.")
        whole = isinstance(self.batches, int) and not isinstance(self.batches, bool)
        if not whole or self.batches < _LEAST:
            raise TrainingError(
                f"batches={self.batches!r} must be a whole number, {_LEAST} or more: noise is told "
                "from signal by how batches differ. The usual number is 16."
            )
        if self.train_head not in (None, True, False):
            raise TrainingError(f"train_head={self.train_head!r} must be True, False or None.")


def usual_rate() -> float:
    """The rate at which `fine_tune` trains all groups."""
    figures = FineTuneDefaults()
    return figures.base_lr * figures.unfrozen_ratio


def suggest_groups(learner: Looking, look: Look) -> GroupProposal:
    """Measure on some batches, and propose; afterwards everything is as before.

    Raises:
        TrainingError: there are too few batches, or the loss is not finite.
    """
    with as_it_was(learner) as moment:
        return _Measuring(moment.learner, look).proposal()


class _Measuring:
    """All that is measured, one thing after another.

    Args:
        learner: within `as_it_was`.
        look: what was asked for.
    """

    def __init__(self, learner: Learner, look: Look) -> None:
        self.learner = learner
        self.look = look
        self.room = Room(learner.store_options.memory)
        trained = learner.epochs_done or learner.fits_done
        self.trains_head = not trained if look.train_head is None else look.train_head

    def proposal(self) -> GroupProposal:
        """Train the head if need be, measure, and propose."""
        for_head, measured = self._batches()
        learner, groups = self.learner, self.learner.groups
        if for_head:
            self._train_head(for_head)
        groups.unfreeze()
        groups.set_rates(self.look.base_lr)
        learner.begin_epoch(learner.dls.train)
        with learner.reporter.bar("gradients", len(measured)) as bar:
            found = gradients(learner, measured, bar.advance)
        return propose(
            *self._evidence(found, self._changes(measured)),
            base_lr=self.look.base_lr,
            batches=len(measured),
            head_batches=len(for_head),
        )

    def _batches(self) -> tuple[list[Any], list[Any]]:
        """Those by which the head trains, and as many others that are measured.

        Raises:
            TrainingError: there are too few, or no room for them.
        """
        wanted = self.look.batches * (2 if self.trains_head else 1)
        with closing(TrialBatches(self.learner, self.room)) as batches:
            kept = batches.first(wanted)
        if len(kept) < _LEAST:
            raise TrainingError(
                f"{len(kept)} training batches cannot tell signal from noise; {_LEAST} or more "
                "can. Give more photos, a smaller batch_size, or, where there is no room for the "
                "batches, learn.store_options = StoreOptions(memory=4 << 30)."
            )
        several = self.trains_head and len(self.learner.groups) > 1 and len(kept) >= 2 * _LEAST
        heads = len(kept) // 2 if several else 0
        return kept[:heads], kept[heads:]

    def _train_head(self, batches: list[Any]) -> None:
        """Train the last group by the usual rate, as `fine_tune` begins."""
        learner, figures = self.learner, FineTuneDefaults()
        learner.groups.freeze_to(-1)
        learner.groups.set_rates(figures.base_lr)
        self._train(batches, OneCycle(), _HEAD_PASSES * len(batches), "the head")

    def _changes(self, batches: list[Any]) -> dict[int, float]:
        """How the outputs of each block change while all groups train for some steps."""
        learner, blocks = self.learner, self.learner.groups.anatomy.blocks
        before = grams(learner, blocks, batches[0])
        self._train(batches, Flat(), len(batches), "all groups")
        after = grams(learner, blocks, batches[0])
        return {i: change_of(before[i], after[i]) for i in before if i in after}

    def _train(self, batches: list[Any], schedule: Schedule, steps: int, title: str) -> None:
        """Some steps by these batches.

        Raises:
            TrainingError: a loss is not finite.
        """
        learner = self.learner
        learner.begin_epoch(learner.dls.train)
        run = new_run(learner, 1, schedule, "suggest_groups")
        run.steps = run.epoch_steps = steps
        shortcut = Shortcut(learner, batches[0], self.room)
        trial = Steps(run, cycle(enumerate(batches)), shortcut)
        with learner.reporter.bar(title, steps) as bar:
            for number in range(steps):
                loss = trial.step()
                if not math.isfinite(loss):
                    raise TrainingError(_not_finite(loss, number, title))
                bar.advance(loss)
        shortcut.forget()

    def _evidence(
        self, found: Gradients, changes: Mapping[int, float]
    ) -> tuple[tuple[Evidence, ...], tuple[tuple[str, Evidence], ...]]:
        """Of each layer group, and of each block with the name of its group."""
        model, groups = self.learner.groups.model, self.learner.groups
        whole, parts = [], []
        for group in groups:
            blocks = group.blocks
            change = [changes[block.index] for block in blocks if block.index in changes]
            members = dict(group.named_parameters())
            whole.append(found.evidence(group.name, members, change[-1] if change else None))
            for block in blocks:
                own = {name: model.get_parameter(name) for name in block.parameters}
                evidence = found.evidence(block.name, own, changes.get(block.index))
                parts.append((group.name, evidence))
        return tuple(whole), tuple(parts)


def _not_finite(loss: float, step: int, title: str) -> str:
    return (
        f"The loss is {loss} at step {step} of training {title} on trial. Usual causes: inputs "
        "that are not finite or not normalised, spoilt weights, or base_lr too high: "
        "learn.suggest_groups(base_lr=1e-5)."
    )
