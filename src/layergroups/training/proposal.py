"""From what was measured to a proposal: what to freeze, and at which rates to train the rest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from layergroups.training.evidence import Evidence

if TYPE_CHECKING:
    from layergroups.training.looking import Looking

_LITTLE: Final = 0.05  # of the highest relative gradient, below which a group is left frozen
_MOSTLY_NOISE: Final = 0.01  # signal to noise below which a group's gradient says little


@dataclass(frozen=True)
class Advice:
    """What is proposed for one layer group, and why.

    Attributes:
        evidence: what was measured.
        rate: its learning rate; 0 where it is to be frozen.
        reason: in words.
    """

    evidence: Evidence
    rate: float
    reason: str

    @property
    def name(self) -> str:
        """Of the group."""
        return self.evidence.name

    @property
    def frozen(self) -> bool:
        """Whether it is to be frozen."""
        return self.rate == 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {**self.evidence.to_dict(), "rate": self.rate, "reason": self.reason}


@dataclass(frozen=True)
class GroupProposal:
    """What to freeze and at which rates to train, with the measurements; prints as tables.

    Attributes:
        groups: advice for each layer group, nearest the input first.
        blocks: for each block the name of its group and what was measured.
        base_lr: rate of the group that needs it most.
        batches: that were measured.
        head_batches: by which the last group was trained before, on trial; 0 if it was not.
    """

    groups: tuple[Advice, ...]
    blocks: tuple[tuple[str, Evidence], ...]
    base_lr: float
    batches: int
    head_batches: int

    @property
    def rates(self) -> dict[str, float]:
        """A rate for each group, 0 for those to be frozen: `learn.fine_tune(3, lr=p.rates)`.

        A group with rate 0 rests like a frozen one.
        """
        return {advice.name: advice.rate for advice in self.groups}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the groups to freeze."""
        return tuple(advice.name for advice in self.groups if advice.frozen)

    def apply(self, learner: Looking) -> None:
        """Freeze, thaw, and set the rates of a learner's groups.

        Groups that are frozen keep their base rates, for the day when they are thawed.

        Raises:
            GroupingError: the learner has no groups of these names.
        """
        groups = learner.layer_groups
        groups.set_rates({a.name: a.rate for a in self.groups if not a.frozen})
        groups.unfreeze(*(a.name for a in self.groups if not a.frozen))
        if self.frozen:
            groups.freeze(*self.frozen)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {
            "groups": [advice.to_dict() for advice in self.groups],
            "blocks": [{"group": group, **found.to_dict()} for group, found in self.blocks],
            "base_lr": self.base_lr,
            "batches": self.batches,
            "head_batches": self.head_batches,
        }

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120, color_system=None, highlight=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich__(self) -> Group:
        why = Table(box=None, pad_edge=False, show_header=False)
        for advice in self.groups:
            why.add_row(Text(f"{advice.name}:", style="bold"), Text(advice.reason))
        tables = (_group_table(self), why, _block_table(self.blocks))
        return Group(*tables, Text(_measured(self)), Text(_calls(self)))


def propose(
    groups: Sequence[Evidence],
    blocks: Sequence[tuple[str, Evidence]],
    *,
    base_lr: float,
    batches: int,
    head_batches: int,
) -> GroupProposal:
    """A rate for each group in proportion to its relative gradient, as Auto-RGN has it.

    The group whose gradient is largest beside its weights gets `base_lr`. One below a twentieth of
    it, or whose gradient is hardly more than noise, is left frozen; the last group always trains.

    Source: Lee et al. 2022; that groups are frozen by both criteria at once is ours.
    """
    highest = max((found.relative_gradient for found in groups), default=0.0)
    advice = [
        _advice(found, highest, base_lr, last=i == len(groups) - 1)
        for i, found in enumerate(groups)
    ]
    return GroupProposal(tuple(advice), tuple(blocks), base_lr, batches, head_batches)


def _advice(found: Evidence, highest: float, base_lr: float, *, last: bool) -> Advice:
    share = found.relative_gradient / highest if highest else 1.0
    told = f"its gradient is {share:.0%} of the largest, beside its weights"
    if share == 1:
        told = "its gradient is the largest, beside its weights"
    if found.signal_to_noise < _MOSTLY_NOISE and not last:
        ratio = f"signal to noise is {found.signal_to_noise:.2g}"
        return Advice(found, 0.0, f"frozen: from batch to batch its gradient is noise; {ratio}")
    if share < _LITTLE and not last:
        return Advice(found, 0.0, f"frozen: {told}")
    return Advice(found, base_lr * max(share, _LITTLE), f"trains: {told}")


def _measured(proposal: GroupProposal) -> str:
    words = f"Measured on {proposal.batches} training batches"
    if proposal.head_batches:
        words += f", after the last group had trained on {proposal.head_batches} others, on trial"
    return f"{words}."


def _calls(proposal: GroupProposal) -> str:
    """What to type, and what `apply` does."""
    trains = {a.name: float(f"{a.rate:.2g}") for a in proposal.groups if not a.frozen}
    lines = [f"learn.layer_groups.set_rates({trains})"]
    lines.append(f"learn.unfreeze({', '.join(map(repr, trains))})")
    if proposal.frozen:
        lines.append(f"learn.freeze({', '.join(map(repr, proposal.frozen))})")
    use = "learn.fine_tune(3, lr=proposal.rates), or proposal.apply(learn), which is"
    return "\n".join([use, *(f"    {line}" for line in lines)])


_HEADINGS: Final = ("parameters", "rel. gradient", "signal/noise", "change")


def _group_table(proposal: GroupProposal) -> Table:
    table = _table("group")
    table.add_column("proposed rate", justify="right", no_wrap=True)
    for advice in proposal.groups:
        rate = "frozen" if advice.frozen else f"{advice.rate:.1e}"
        table.add_row(Text(advice.name, style="bold"), *_figures(advice.evidence), rate)
    return table


def _block_table(blocks: Sequence[tuple[str, Evidence]]) -> Table:
    table = _table("block")
    table.add_column("group", overflow="fold")
    for group, found in blocks:
        table.add_row(Text(found.name), *_figures(found), Text(group))
    return table


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _figures(found: Evidence) -> tuple[str, ...]:
    change = "-" if found.change is None else f"{found.change:.2g}"
    figures = (f"{found.relative_gradient:.2g}", f"{found.signal_to_noise:.2g}")
    return (f"{found.parameters:,d}", *figures, change)
