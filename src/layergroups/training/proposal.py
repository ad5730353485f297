"""From what was measured to a proposal: what to freeze, and at which rates to train the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from layergroups.plain_text import plain_text
from layergroups.training.evidence import Evidence

if TYPE_CHECKING:
    from layergroups.training.looking import Looking

_UNMOVED: Final = 0.01  # of the largest change of outputs, below which a group is left frozen


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
        base_lr: rate of the groups that train.
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

    def __repr__(self) -> str:
        return f"GroupProposal(rates={ {a.name: float(f'{a.rate:.2g}') for a in self.groups} })"

    def __str__(self) -> str:
        return plain_text(self.__rich__(), 120)

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
    """Freeze what hardly moves; all other groups train at `base_lr`.

    A group is left frozen where it gets no gradient, or where its outputs changed by less than a
    hundredth of the largest change while all groups trained at one rate: frozen it saves time, and
    little is lost. The last group always trains. Gradient beside weights, and signal to noise, are
    shown and decide nothing: rates in proportion to the former, and freezing by the latter, were
    tried here and cost accuracy.

    Source: Lee et al. 2022 for what is measured (Auto-RGN, Auto-SNR) and the thought of tuning some
    groups only; to choose by the change of outputs is ours.
    """
    changes = [found.change for found in groups if found.change is not None]
    most = max(changes, default=0.0)
    frozen = [*(_why_frozen(found, most) for found in groups[:-1]), ""]
    advice = [
        Advice(found, 0.0, f"frozen: {why}")
        if why
        else Advice(found, base_lr, _why_trains(found, most))
        for found, why in zip(groups, frozen, strict=True)
    ]
    return GroupProposal(tuple(advice), tuple(blocks), base_lr, batches, head_batches)


def _why_frozen(found: Evidence, most: float) -> str:
    """Why a group is not worth training; empty if it is."""
    if found.relative_gradient == 0:
        return "it gets no gradient"
    if found.change is not None and found.change < _UNMOVED * most:
        part = found.change / most
        return f"trained, its outputs change little, {part:.1%} of the largest change"
    return ""


def _why_trains(found: Evidence, most: float) -> str:
    if found.change is None or not most:
        return "trains: nothing speaks for freezing it"
    return f"trains: its outputs change, {found.change / most:.0%} of the largest change"


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
