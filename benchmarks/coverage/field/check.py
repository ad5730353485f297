"""Checks one model of another library, and judges its head and parts by what people expect."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from benchmarks.coverage import laws
from benchmarks.coverage.classification import Verdict
from benchmarks.coverage.field import builders, expected
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from layergroups import LayerGroups, replace_head
from layergroups.anatomy import Anatomy, choose_splits, first_trace, has_decoder
from layergroups.errors import LayerGroupsError

_EDGE = 0.1


def check(full: str) -> Verdict:
    """All checks of "source:model"."""
    source, _, name = full.partition(":")
    wanted = expected.expectations()[source, name]
    model, example = builders.make(source, name)
    model.eval()
    before = {n: t.clone() for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    first_trace(model, example)
    groups = LayerGroups(model, example_input=example)
    anatomy = groups.anatomy
    verdict = Verdict()
    verdict.note("changed", _changed(before, model, example))  # by the look
    verdict.note("cover", laws.cover(groups))
    for what, wrong in (("head", _wrong_head), ("parts", _wrong_parts)):
        problems = [wrong(anatomy, answer) for answer in wanted[what].split(" | ")]
        verdict.note(what, min(problems, key=len))
    verdict.note("freeze", _frozen_move(model, groups, example))
    replaced = _replaced(source, name)
    if replaced.startswith("breaks"):
        verdict.note("replace_head", replaced)
    verdict.facts = {
        "parameters": sum(p.numel() for p in model.parameters()), "groups": len(groups),
        "blocks": len(anatomy.blocks), "source": anatomy.source, "unused": len(anatomy.unused),
        "split": " | ".join(groups.reasons[1:]), "new head": replaced,
        "head reason": anatomy.head_reason,
    }  # fmt: skip
    return verdict


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping) and not hasattr(example, "edge_index"):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def _changed(before: dict[str, Tensor], model: nn.Module, example: Any) -> str:
    """Whether the look changed the model, or left tensors of the dry run in it."""
    now = model.state_dict()
    differ = [n for n, t in before.items() if not torch.equal(now[n], t)]
    if differ:
        return f"values of {laws.some(differ)}"
    with torch.no_grad():
        given = [t for t in _tensors(_call(model, example)) if type(t).__name__ == "FakeTensor"]
    return "gives fake tensors" if given else ""


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of an output, also inside objects."""
    if not isinstance(value, (Tensor, Mapping, list, tuple)) and hasattr(value, "__dict__"):
        value = vars(value)
    values = value.values() if isinstance(value, Mapping) else tree_leaves(value)
    found = [value] if isinstance(value, Tensor) else []
    for inside in values if not found else ():
        found += _tensors(inside) if isinstance(inside, (Tensor, Mapping, list, tuple)) else []
    return found


def _below(name: str, paths: list[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _wrong_head(anatomy: Anatomy, expected: str) -> str:
    held = [n for b in anatomy.head for n in b.parameters]
    kind, _, words = expected.partition(": ")
    if kind in ("none", "tied"):
        if held:
            return f"has the head {laws.some(held)}"
        known = bool(anatomy.classifiers)
        said = re.search(words, anatomy.head_reason) and known == (kind == "tied")
        return "" if said else f"no head, because {anatomy.head_reason}"
    if not held:
        return f"none: {anatomy.head_reason}"
    must = [path for path in expected.split() if not path.startswith("(")]
    may = [path.strip("()") for path in expected.split()]
    other = [n for n in held if not _below(n, may)]
    if other:
        return f"{laws.some(other)} in the head"
    all_names = [n for b in anatomy.blocks for n in b.parameters] + list(anatomy.unused)
    missing = [n for n in all_names if _below(n, must) and n not in held]
    lost = [path for path in must if not any(_below(n, [path]) for n in held)]
    return f"not in the head: {laws.some([*missing, *lost])}" if missing or lost else ""


def _wrong_parts(anatomy: Anatomy, expected: str) -> str:
    if expected == "-":
        return ""
    parts = 3 if has_decoder(anatomy.blocks) else 2
    places = choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, parts)
    patterns = expected.split(" & ")
    paths = [boundary.path for boundary, _ in places]
    found = " & ".join(paths) or "none"
    if not paths or (len(patterns) > 1 and len(paths) != len(patterns)):
        return f"parts begin at {found}"
    matched = all(any(re.match(p, path) for path in paths) for p in patterns)
    if not matched or not all(any(re.match(p, path) for p in patterns) for path in paths):
        return f"parts begin at {found}"
    edge = [b for b, _ in places if not _EDGE <= b.share <= 1 - _EDGE]
    return f"{edge[0].path} begins after {edge[0].depths}" if edge else ""


def _frozen_move(model: nn.Module, groups: LayerGroups, example: Any) -> str:
    """One step with all groups but the last frozen moves nothing of them, to the bit."""
    wrong = laws.freezing(groups, None)
    if wrong:
        return wrong
    frozen = {n: t for g in list(groups)[:-1] for n, t in g.named_parameters()}
    own = {n for n, b in model.named_buffers() if _below(n, _homes(frozen))}
    before = {n: t.detach().clone() for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad] or
                                  [nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.1)  # fmt: skip
    model.train()
    try:
        out = _call(model, example)
    except Exception:  # a detector wants targets in training mode
        model.eval()
        out = _call(model, example)
    losses = [t.float().pow(2).mean() for t in _tensors(out) if t.requires_grad and t.numel()]
    if losses:
        torch.stack(losses).sum().backward()
        optimizer.step()
    now = model.state_dict()
    moved = [n for n in before if (n in frozen or n in own) and not _same(now[n], before[n])]
    groups.unfreeze()
    return f"frozen ones moved: {laws.some(moved)}" if moved else ""


def _homes(names: Mapping[str, Any]) -> list[str]:
    """The modules that hold these parameters alone."""
    return [n.rpartition(".")[0] for n in names if "." in n]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _replaced(source: str, name: str) -> str:
    """What `replace_head` did: the model runs with it, or it was refused, or it breaks."""
    model, example = builders.make(source, name)
    model.eval()
    try:
        paths = replace_head(model, 7, example_input=example)
    except LayerGroupsError as error:
        return f"refused: {str(error)[:150]}"
    except Exception as error:
        return f"breaks: {type(error).__name__}: {str(error)[:150]}"
    try:
        with torch.no_grad():
            _call(model, copy.deepcopy(example))
    except Exception as error:
        return f"breaks the model ({paths}): {type(error).__name__}: {str(error)[:150]}"
    return f"runs: {', '.join(paths)}"
