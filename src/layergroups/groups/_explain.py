"""Why groups begin where they do, as data (`explain`) and as tables (`explanation_report`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from layergroups._formatting import Printable, count, first_few, table
from layergroups.anatomy import Anatomy, Block, Boundary, choose_splits, split_candidates, towers_of
from layergroups.errors import GroupingError
from layergroups.groups._partition import Partition
from layergroups.groups._rules import classic_paths, divide

_FEW_GROUPS = 6  # up to so many are described one by one
_MAX_ALTERNATIVES = 4
_TEXT_WIDTH = 92  # columns, where the terminal has them
_FIGURES = ("block", "weight layers", "pixels", "channels", "params", "FLOPs")


@dataclass(frozen=True)
class BoundaryReason(Boundary):
    """A boundary where a network is divided, or could be, and the reason.

    Depth and shares are those of the body; all of the body is before the head.
    """

    group: str | None  # the group that begins there; None for an alternative
    blocks: int  # number of blocks of the network
    stride: float  # `side_before / side_after`; 1 where the resolution does not fall
    sentence: str  # the reason in words


@dataclass(frozen=True)
class Classic:
    """The split of the network in fastai's classic table."""

    paths: tuple[str, ...]  # the modules before which it splits
    same: bool  # whether the groups hold the same parameters as with that split
    sentence: str  # both in words


@dataclass(frozen=True)
class Explanation(Printable):
    network: str  # class of the network
    rule: str  # such as "auto"
    # the start of each group but the first, nearest the input first
    chosen: tuple[BoundaryReason, ...]
    # the best other boundaries, at most 4, each with why it was not chosen
    alternatives: tuple[BoundaryReason, ...]
    classic: Classic | None  # the classic table's split; None where the table has none
    implied: str | None  # for a rule by hand, its effect on parameters, depth and blocks; else None

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return values

    def __rich__(self) -> RenderableType:
        return explanation_report(self)


def explain(anatomy: Anatomy, partition: Partition, model: nn.Module, network: str) -> Explanation:
    """Explain the groups of a model; `network` names its class in the classic table."""
    group_of = {n: partition.group_of[n] for n, _ in model.named_parameters()}
    starts = _starts(anatomy, group_of)
    cut = _cut_through(anatomy, group_of)
    chosen = tuple(
        _why(anatomy, start, _sentence(anatomy, partition, i, start, cut), partition.names[i])
        for i, start in sorted(starts.items())
        if i
    )
    taken = _taken(anatomy, group_of, cut)
    return Explanation(
        network=network,
        rule=partition.rule,
        chosen=chosen,
        alternatives=_alternatives(anatomy, taken),
        classic=_classic(anatomy, group_of, model, network),
        implied=_implied(anatomy, partition, model, cut) if partition.by_hand else None,
    )


def _alternatives(anatomy: Anatomy, taken: Sequence[int]) -> tuple[BoundaryReason, ...]:
    """The best others, if the body is divided as "auto" divides it; else that of "auto"."""
    parts = len(taken) // len(towers_of(anatomy.blocks)) + 1
    found = split_candidates(anatomy.boundaries, anatomy.blocks, anatomy.image, parts)
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
    best_few = sorted(others[:_MAX_ALTERNATIVES], key=lambda c: c.boundary.block)
    return tuple(_why(anatomy, c.boundary.block, c.reason) for c in best_few)


def _starts(anatomy: Anatomy, group_of: Mapping[str, int]) -> dict[int, int]:
    starts: dict[int, int] = {}
    for block in anatomy.blocks:
        for name in block.parameters:
            if name in group_of:
                starts.setdefault(group_of[name], block.index)
    return starts


def _taken(anatomy: Anatomy, group_of: Mapping[str, int], cut: list[str]) -> list[int]:
    """The blocks of the body that begin a group, each as against the block before in its tower."""
    taken = []
    for tower in towers_of(anatomy.blocks):
        before = None
        for block in (b for b in tower if b.parameters and b.parameters[0] in group_of):
            group = group_of[block.parameters[0]]
            if before is not None and group != before and block.name not in cut:
                taken.append(block.index)
            before = group
    return sorted(taken)


def _cut_through(anatomy: Anatomy, group_of: Mapping[str, int]) -> list[str]:
    """Names of the blocks whose parameters are in several groups."""
    return [
        block.name
        for block in anatomy.blocks
        if len({group_of[name] for name in block.parameters if name in group_of}) > 1
    ]


def _why(anatomy: Anatomy, block: int, sentence: str, group: str | None = None) -> BoundaryReason:
    at = _boundary_at(anatomy, anatomy.blocks[block])
    return BoundaryReason(
        **asdict(at),
        group=group,
        blocks=len(anatomy.blocks),
        stride=round(at.side_before / at.side_after, 2) if at.downsamples else 1.0,
        sentence=sentence,
    )


def _boundary_at(anatomy: Anatomy, block: Block) -> Boundary:
    """The boundary before a block, also before the first one and the head's."""
    for boundary in anatomy.boundaries:
        if boundary.block == block.index:
            return boundary
    last = anatomy.boundaries[-1] if anatomy.boundaries else None
    channels = block.shape[0 if len(block.shape) == 3 else -1] if block.shape else 0
    depth = sum(b.weight_ops for b in anatomy.body)
    return Boundary(
        block=block.index,
        path=block.name,
        weight_ops_before=depth if block.in_head else 0,
        weight_ops=depth,
        side_before=last.side_after if last and block.in_head else 0,
        side_after=0,
        channels_before=last.channels_after if last and block.in_head else 0,
        channels_after=channels if block.in_head else 0,
        parameters=float(block.in_head),
        flops=float(block.in_head),
    )


def _sentence(
    anatomy: Anatomy, partition: Partition, group: int, start: int, cut: list[str]
) -> str:
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
    text = f"fastai's classic table splits {network} at {', '.join(paths)}"
    try:
        split = divide(model, anatomy, "classic", network=network)
    except GroupingError as error:
        return Classic(paths, False, f"{text}, which does not fit this model: {error}")
    classic_groups = {name: split.group_of[name] for name in group_of}
    if classic_groups == group_of:
        return Classic(paths, True, f"{text}: the same parameters in each group")
    starts = _starts(anatomy, classic_groups)
    found = [_boundary_at(anatomy, anatomy.blocks[starts[i + 1]]) for i in range(len(paths))]
    depths = ", ".join(f"{b.weight_ops_before} of {b.weight_ops}" for b in found)
    return Classic(paths, False, f"{text}, after {depths} weight layers: not the same groups")


def _implied(anatomy: Anatomy, partition: Partition, model: nn.Module, cut: list[str]) -> str:
    group_of = partition.group_of
    sizes, depths = [0] * len(partition.parts), [0] * len(partition.parts)
    for name, p in model.named_parameters():
        sizes[group_of[name]] += p.numel()
    for block in anatomy.blocks:
        if block.parameters and block.parameters[0] in group_of:
            depths[group_of[block.parameters[0]]] += block.weight_ops
    shares = [size / max(1, sum(sizes)) for size in sizes]
    if len(shares) <= _FEW_GROUPS:
        parts = [
            f"{name} holds {_percent(share)} of the parameters and {count(depth, 'layer')}"
            for name, share, depth in zip(partition.names, shares, depths, strict=True)
        ]
    else:
        parts = [
            f"{len(shares)} groups of {min(depths)} to {max(depths)} weight layers, each with "
            f"{_percent(min(shares))} to {_percent(max(shares))} of the parameters"
        ]
    blocks = f"cuts through {first_few(cut)}" if cut else "no block is cut through"
    order = [group_of[n] for block in anatomy.blocks for n in block.parameters if n in group_of]
    turns = "" if order == sorted(order) else "; the groups take turns in the order of execution"
    depth = sum(block.weight_ops for block in anatomy.blocks)
    return f"of {depth} weight layers in all: {'; '.join(parts)}; {blocks}{turns}"


def explanation_report(explanation: Explanation, *, reasons: bool = True) -> Group:
    """Tables of the chosen boundaries, then of the alternatives, each with its sentence."""
    title = f"Why {explanation.network} is split this way (rule: {explanation.rule})"
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
    classic = explanation.classic and explanation.classic.sentence
    for name, sentence in (("classic", classic), ("implied", explanation.implied)):
        if sentence:
            parts.append(_pairs([(name, sentence)]))
    return Group(*parts)


def _facts(reasons: Sequence[BoundaryReason], heading: str) -> Table:
    rows = []
    for why in reasons:
        named = why.group is not None and why.group != why.path
        cells = (
            Text.assemble((why.group or "", "bold"), f" {why.path}") if named else why.path,
            f"{why.block + 1} of {why.blocks}",
            f"{why.weight_ops_before} of {why.weight_ops}",
            _change(why.side_before, why.side_after),
            _change(why.channels_before, why.channels_after),
            _percent(why.parameters),
            _percent(why.flops),
        )
        rows.append(cells)
    return table((heading, *_FIGURES), rows, padding=(0, 1, 0, 0))


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _change(before: int, after: int) -> str:
    if not before and not after:
        return "-"
    return str(before) if before == after else f"{before or '-'} → {after or '-'}"


def _sentences(reasons: Sequence[BoundaryReason]) -> Table:
    return _pairs([(why.group or why.path, why.sentence) for why in reasons])


def _pairs(lines: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(max_width=_TEXT_WIDTH - max(len(name) for name, _ in lines))
    for name, sentence in lines:
        table.add_row(Text(f"{name}:"), Text(sentence))
    return table
