"""The laws that hold for layer groups on any model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from layergroups.anatomy import Trace
from layergroups.groups import LayerGroups


def cover(groups: LayerGroups) -> str:
    """Every parameter is in exactly one group; returns what is wrong, or ""."""
    held = [name for group in groups for name, _ in group.named_parameters()]
    names = {name for name, _ in groups.model.named_parameters()}
    if len(held) != len(set(held)):
        return "a parameter is in two groups"
    return f"not covered: {some(names - set(held))}" if names - set(held) else ""


def order(groups: LayerGroups, found: Trace) -> str:
    """By first use the parameters of each group come after those of the group before."""
    last = -1
    for group in groups:
        times = [found.first_use[n] for n, _ in group.named_parameters() if n in found.first_use]
        if times and min(times) < last:
            return f"group {group.name} begins before the group before it has ended"
        last = max([last, *times])
    return ""


def enough(groups: LayerGroups, wanted: int) -> str:
    """There are as many groups as `split="auto"` promises."""
    return "" if len(groups) >= wanted else f"{len(groups)} groups: {', '.join(groups.names)}"


def freezing(groups: LayerGroups, head: nn.Module | None) -> str:
    """After `freeze()` exactly the parameters of the head (or of the last group) train."""
    groups.freeze()
    last = (head if head is not None else groups[-1]).parameters()
    wanted = {id(p) for p in last if p not in groups._by_user}
    trains = {id(p) for p in groups.model.parameters() if p.requires_grad}
    return "" if trains == wanted else f"{len(trains)} parameters train, the head has {len(wanted)}"


def leading(found: Trace) -> tuple[str, ...]:
    """Names of the parameters from which a gradient flows to an output, not through indices."""
    names: dict[str, None] = {}
    seen: set[int] = set()
    todo = list(found.outputs)
    while todo:
        producer = found.values[todo.pop()].producer
        if producer >= 0 and producer not in seen:
            seen.add(producer)
            names.update(dict.fromkeys(found.ops[producer].parameters))
            todo.extend(v for v in found.ops[producer].reads if found.values[v].floating)
    return tuple(names)


def few(reached: set[str], found: Trace) -> str:
    """What the network itself trains is what its dataflow says leads to the output, nearly all.

    Networks cut some gradients themselves: quantised steps, biases looked up under `no_grad`.
    """
    missed = set(leading(found)) - reached
    return f"no gradient of its own: {some(missed)}" if len(missed) > len(reached) / 2 else ""


def backward(groups: LayerGroups, loss: torch.Tensor, used: Iterable[str]) -> str:
    """One backward pass reaches every used parameter that its author lets train."""
    loss.backward()
    named = dict(groups.model.named_parameters())
    names = (n for n in used if named[n] not in groups._by_user)
    missed = [n for n in names if named[n].grad is None]
    return f"no gradient reaches {some(missed)}" if missed else ""


def some(names: Iterable[str], n: int = 6) -> str:
    """The first few names."""
    listed = sorted(names)
    return ", ".join(listed[:n]) + (f" and {len(listed) - n} more" if len(listed) > n else "")
