"""Why groups begin where they do, as data (`explain`) and as tables (`explanation_report`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from layergroups._formatting import Printable, count, first_few
from layergroups.anatomy import (
    Anatomy,
    Block,
    Boundary,
    choose_splits,
    split_candidates,
)
from layergroups.errors import GroupingError
from layergroups.groups._partition import Partition
from layergroups.groups._rules import classic_paths, divide

_FEW_GROUPS = 6  # each is described by itself
_MOST = 4  # alternatives
_WORDS = 92  # columns of a sentence where there is room
_FIGURES = ("block", "layers", "pixels", "channels", "params", "FLOPs")


@dataclass(frozen=True)
class BoundaryReason(Boundary):
    """One place where a network is divided, or could be, and the reason.

    All that a `Boundary` has, and more. Depth and shares are those of the body; the head begins
    where all of the body is before it.

    Attributes:
        group: the group that begins there; None for an alternative.
        blocks: number of blocks of the network.
        stride: `side_before / side_after`; 1 where the resolution does not fall.
        sentence: why, or why not, in plain words.
    """

    group: str | None
    blocks: int
    stride: float
    sentence: str


@dataclass(frozen=True)
class Classic:
    """What fastai's classic table says of the network.

    Attributes:
        paths: the modules before which it splits.
        same: whether the groups hold the same parameters as with that split.
        sentence: both in plain words.
    """

    paths: tuple[str, ...]
    same: bool
    sentence: str


@dataclass(frozen=True)
class Explanation(Printable):
    """Why a network is divided as it is.

    Attributes:
        network: class of the network.
        rule: the rule in words.
        chosen: a reason for each group but the first, nearest the input first.
        alternatives: the best other places, at most 4, each with why it was not taken.
        classic: the classic table's split; None where the table has none.
        implied: for a rule by hand, what it implies for parameters, depth and blocks; else None.
    """

    network: str
    rule: str
    chosen: tuple[BoundaryReason, ...]
    alternatives: tuple[BoundaryReason, ...]
    classic: Classic | None
    implied: str | None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        classic = self.classic and {**asdict(self.classic), "paths": list(self.classic.paths)}
        return {
            "network": self.network,
            "rule": self.rule,
            "chosen": [asdict(why) for why in self.chosen],
            "alternatives": [asdict(why) for why in self.alternatives],
            "classic": classic,
            "implied": self.implied,
        }

    def __rich__(self) -> RenderableType:
        return explanation_report(self)


def explain(anatomy: Anatomy, partition: Partition, model: nn.Module, network: str) -> Explanation:
    """Explain the groups of a model.

    Args:
        anatomy: of the model.
        partition: its groups.
        model: the model.
        network: class of the network that it was made from, for the classic table.
    """
    group_of = {n: partition.group_of[n] for n, _ in model.named_parameters()}
    starts = _starts(anatomy, group_of)
    cut = _cut_through(anatomy, group_of)
    chosen = tuple(
        _why(anatomy, start, _sentence(anatomy, partition, i, start, cut), partition.names[i])
        for i, start in sorted(starts.items())
        if i
    )
    between = [why.block for why in chosen if why.path not in cut]
    taken = [block for block in between if not anatomy.blocks[block].in_head]
    return Explanation(
        network=network,
        rule=partition.rule,
        chosen=chosen,
        alternatives=_alternatives(anatomy, taken),
        classic=_classic(anatomy, group_of, model, network),
        implied=_implied(anatomy, partition, model, cut) if partition.by_hand else None,
    )


def _alternatives(anatomy: Anatomy, taken: Sequence[int]) -> tuple[BoundaryReason, ...]:
    """The best few other boundaries, in order, where the body is divided as "auto" divides it.

    Otherwise what "auto" would take, if that is somewhere else.
    """
    found = split_candidates(anatomy.boundaries, anatomy.blocks, anatomy.image, len(taken) + 1)
    if not taken or [c.boundary.block for c in found if c.chosen] != list(taken):
        auto = choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, 2)
        return tuple(
            _why(anatomy, best.block, f"split='auto' begins a group here: {reason}")
            for best, reason in auto
            if best.block not in taken
        )
    others = [c for c in found if not c.chosen]
    # the middle of the repeated blocks first, then the falls nearest to half of the depth
    others.sort(key=lambda c: (c.boundary.downsamples, abs(c.boundary.share - 0.5)))
    best_few = sorted(others[:_MOST], key=lambda c: c.boundary.block)
    return tuple(_why(anatomy, c.boundary.block, c.reason) for c in best_few)


def _starts(anatomy: Anatomy, group_of: Mapping[str, int]) -> dict[int, int]:
    """For each group the block in which it begins."""
    starts: dict[int, int] = {}
    for block in anatomy.blocks:
        for name in block.parameters:
            if name in group_of:
                starts.setdefault(group_of[name], block.index)
    return starts


def _cut_through(anatomy: Anatomy, group_of: Mapping[str, int]) -> list[str]:
    """Names of the blocks whose parameters are in several groups."""
    return [
        block.name
        for block in anatomy.blocks
        if len({group_of[name] for name in block.parameters if name in group_of}) > 1
    ]


def _why(anatomy: Anatomy, block: int, sentence: str, group: str | None = None) -> BoundaryReason:
    place = _place(anatomy, anatomy.blocks[block])
    return BoundaryReason(
        **asdict(place),
        group=group,
        blocks=len(anatomy.blocks),
        stride=round(place.side_before / place.side_after, 2) if place.downsamples else 1.0,
        sentence=sentence,
    )


def _place(anatomy: Anatomy, block: Block) -> Boundary:
    """The facts of the place where a block begins, also of the first block and of the head's."""
    for boundary in anatomy.boundaries:
        if boundary.block == block.index:
            return boundary
    last = anatomy.boundaries[-1] if anatomy.boundaries else None
    given = block.shape[0 if len(block.shape) == 3 else -1] if block.shape else 0
    done = float(block.in_head)
    depth = sum(b.weight_ops for b in anatomy.body)
    return Boundary(
        block=block.index,
        path=block.name,
        weight_ops_before=depth if block.in_head else 0,
        weight_ops=depth,
        side_before=last.side_after if last and block.in_head else 0,
        side_after=0,
        channels_before=last.channels_after if last and block.in_head else 0,
        channels_after=given if block.in_head else 0,
        parameters=done,
        flops=done,
    )


def _sentence(
    anatomy: Anatomy, partition: Partition, group: int, start: int, cut: list[str]
) -> str:
    """The reason of the rule; where it was given by hand, with what is there."""
    reason = partition.parts[group].reason
    if not partition.by_hand:
        return reason
    block = anatomy.blocks[start]
    if block.name in cut and partition.group_of.get(block.parameters[0]) != group:
        return f"{reason}, inside the block {block.name}, which is cut in two"
    here = next((b.describe() for b in anatomy.boundaries if b.block == start), None)
    return f"{reason}: {here or ('the head' if block.in_head else 'the first block')}"


def _classic(
    anatomy: Anatomy, group_of: Mapping[str, int], model: nn.Module, network: str
) -> Classic | None:
    paths = classic_paths(network, model)
    if not paths:
        return None
    words = f"fastai's classic table splits {network} at {', '.join(paths)}"
    try:
        split = divide(model, anatomy, "classic", network=network)
    except GroupingError as error:
        return Classic(paths, False, f"{words}, which does not fit this model: {error}")
    there = {name: split.group_of[name] for name in group_of}
    if there == group_of:
        return Classic(paths, True, f"{words}: the same parameters in each group")
    starts = _starts(anatomy, there)
    places = [_place(anatomy, anatomy.blocks[starts[i + 1]]) for i in range(len(paths))]
    depths = ", ".join(f"{p.weight_ops_before} of {p.weight_ops}" for p in places)
    return Classic(paths, False, f"{words}, after {depths} layers: not the same groups")


def _implied(anatomy: Anatomy, partition: Partition, model: nn.Module, cut: list[str]) -> str:
    """What a rule by hand does to parameters, depth and blocks."""
    group_of = partition.group_of
    shares, depths = _shares(anatomy, partition, model)
    if len(shares) <= _FEW_GROUPS:
        parts = [
            f"{name} holds {percent(share)} of the parameters and {count(depth, 'layer')}"
            for name, share, depth in zip(partition.names, shares, depths, strict=True)
        ]
    else:
        parts = [
            f"{len(shares)} groups of {min(depths)} to {max(depths)} layers, each with "
            f"{percent(min(shares))} to {percent(max(shares))} of the parameters"
        ]
    blocks = f"cuts through {first_few(cut)}" if cut else "no block is cut through"
    order = [group_of[n] for block in anatomy.blocks for n in block.parameters if n in group_of]
    turns = "" if order == sorted(order) else "; the groups take turns in the order of execution"
    depth = sum(block.weight_ops for block in anatomy.blocks)
    return f"of {depth} layers in all: {'; '.join(parts)}; {blocks}{turns}"


def _shares(
    anatomy: Anatomy, partition: Partition, model: nn.Module
) -> tuple[list[float], list[int]]:
    """For each group its share of all parameters, and its depth."""
    sizes, depths = [0] * len(partition.parts), [0] * len(partition.parts)
    for name, p in model.named_parameters():
        sizes[partition.group_of[name]] += p.numel()
    for block in anatomy.blocks:
        if block.parameters and block.parameters[0] in partition.group_of:
            depths[partition.group_of[block.parameters[0]]] += block.weight_ops
    return [size / max(1, sum(sizes)) for size in sizes], depths


# -- tables --------------------------------------------------------------------------------------


def explanation_report(explanation: Explanation, *, reasons: bool = True) -> Group:
    """The places that were chosen, then the alternatives, each with its sentence.

    Args:
        explanation: what to show.
        reasons: False to leave out the sentences of the places that were chosen.
    """
    title = f"Why {explanation.network} is divided so (rule: {explanation.rule})"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if explanation.chosen:
        parts.append(_facts(explanation.chosen, "group at"))
        parts += [_sentences(explanation.chosen), ""] if reasons else []
    else:
        parts += ["", "All is one group.", ""]
    if explanation.alternatives:
        parts += [_facts(explanation.alternatives, "not at")]
        parts += [_sentences(explanation.alternatives), ""]
    else:
        parts += ["There are no alternatives.", ""]
    if explanation.classic:
        parts.append(_pairs([("classic", explanation.classic.sentence)]))
    if explanation.implied:
        parts.append(_pairs([("implied", explanation.implied)]))
    return Group(*parts)


def _facts(places: Sequence[BoundaryReason], heading: str) -> Table:
    """A row for each place; layers, parameters and FLOPs are those of the body before it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(heading, overflow="fold")
    for figure in _FIGURES:
        table.add_column(figure, justify="right", no_wrap=True)
    for why in places:
        named = why.group is not None and why.group != why.path
        table.add_row(
            Text.assemble((why.group or "", "bold"), f" {why.path}") if named else Text(why.path),
            f"{why.block + 1} of {why.blocks}",
            f"{why.weight_ops_before} of {why.weight_ops}",
            _change(why.side_before, why.side_after),
            _change(why.channels_before, why.channels_after),
            percent(why.parameters),
            percent(why.flops),
        )
    return table


def percent(share: float) -> str:
    """A share of 0..1; a little is not nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _change(before: int, after: int) -> str:
    if not before and not after:
        return "-"
    return str(before) if before == after else f"{before or '-'} → {after or '-'}"


def _sentences(places: Sequence[BoundaryReason]) -> Table:
    return _pairs([(why.group or why.path, why.sentence) for why in places])


def _pairs(lines: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(max_width=_WORDS - max(len(word) for word, _ in lines))
    for word, sentence in lines:
        table.add_row(Text(f"{word}:"), Text(sentence))
    return table
