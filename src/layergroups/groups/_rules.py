"""Rules that divide a model into layer groups: from an anatomy to a `Partition`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from torch import nn

from layergroups._formatting import first_few
from layergroups._paths import ancestors
from layergroups._suggestions import nearest
from layergroups.anatomy import Anatomy, choose_splits, has_decoder, towers_of
from layergroups.errors import GroupingError
from layergroups.groups._partition import (
    Part,
    Partition,
    by_block,
    complete,
    consecutive,
    parameter_order,
    start_at_block,
    start_at_path,
)

log = logging.getLogger("layergroups")

Split = str | int | Sequence[str] | Mapping[str, str] | Callable[[nn.Module], Iterable[Any]]
RULE_NAMES: Final = ("auto", "layerwise", "classic", "classic-v1")


def divide(
    model: nn.Module, anatomy: Anatomy, split: Split = "auto", *, network: str | None = None
) -> Partition:
    """Divide a model by a rule.

    Args:
        model: the model.
        anatomy: from a dry run of it.
        split: "auto": early body, late body, head, and before them the embeddings of tokens. An
            int n: n groups. "layerwise": a group for each block. "classic": fastai's table
            ("classic-v1": that of version 1). A list of module paths: a new group begins at each.
            A dict name -> pattern: the parameters whose names begin with the pattern. A function
            of the model that returns lists of parameters or modules, as fastai's splitters do.
        network: class of the network that the body was made from, for the classic table.

    Raises:
        GroupingError: the rule matches nothing, overlaps, or leaves parameters over.
    """
    if isinstance(split, bool):
        raise GroupingError(f"split={split} is not a rule; give split='auto' or a number of groups")
    if isinstance(split, int):
        return by_number(model, anatomy, split)
    if isinstance(split, str):
        return _by_word(model, anatomy, split, network or anatomy.model)
    if isinstance(split, Mapping):
        partition = by_pattern(model, anatomy, split)
    elif callable(split):
        partition = by_function(model, anatomy, split)
    elif isinstance(split, Sequence) and split:
        partition = by_path(model, anatomy, split)
    else:
        raise GroupingError(
            f"split={split!r} is not a rule; give 'auto', a number of groups, a list of module "
            f"paths, a dict of patterns, or a function of the model"
        )
    return replace(partition, by_hand=True)


def _by_word(model: nn.Module, anatomy: Anatomy, word: str, network: str) -> Partition:
    if word == "auto":
        n = 2 + anatomy.has_head + has_decoder(anatomy.blocks)
        return by_number(model, anatomy, n, rule="auto")
    if word == "layerwise":
        return layerwise(model, anatomy)
    if word in ("classic", "classic-v1"):
        return classic(model, anatomy, network, version=1 if word.endswith("v1") else 2)
    raise GroupingError(
        f"no rule is called {word!r}; give 'auto', 'layerwise', 'classic', 'classic-v1', a number "
        f"of groups, a list of module paths ([{word!r}]), a dict of patterns or a function"
    )


def by_number(model: nn.Module, anatomy: Anatomy, n: int, rule: str | None = None) -> Partition:
    """Groups of about the same depth, divided where the resolution falls; the head is the last."""
    if n < 1:
        raise GroupingError(f"split={n}: there must be at least one layer group")
    rule = rule or f"{n} groups"
    parts = n - 1 if anatomy.has_head else n
    chosen = (
        choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, parts) if parts else []
    )
    towers = towers_of(anatomy.blocks)
    begins = [[c for c in chosen if c[0].block in {b.index for b in tower}] for tower in towers]
    made = max(map(len, begins)) + 1
    if made < parts:
        log.warning(
            "the body of %s has %d block(s): %d layer groups, not %d",
            anatomy.model, len(anatomy.body), made + anatomy.has_head, n,
        )  # fmt: skip
    if parts == 0 or not anatomy.body:
        only = Part("all", "one group was asked for" if parts == 0 else anatomy.head_reason)
        return by_block(model, anatomy, rule, [only], {})
    part_of = dict.fromkeys((b.index for b in anatomy.body), made - 1)
    part_of |= {b.index: 0 for b in anatomy.body if len(towers) > 1 and b.tower >= 0}
    for tower, starts in zip(towers, begins, strict=True):
        part_of |= {b.index: sum(at.block <= b.index for at, _ in starts) for b in tower}
    reasons = ["the input"] + [
        "; ".join(
            f"{starts[k][0].path}: {starts[k][1]}" if len(towers) > 1 else starts[k][1]
            for starts in begins if k < len(starts)
        )
        for k in range(made - 1)
    ]  # fmt: skip
    names = _body_names(made, decoder=made == 3 and rule == "auto")
    named = list(map(Part, names, reasons))
    if rule == "auto" and len(towers) == 1:
        named, part_of = _embeddings_apart(anatomy, named, part_of)
    return _with_head(model, anatomy, rule, named, part_of)


def _embeddings_apart(
    anatomy: Anatomy, parts: list[Part], part_of: dict[int, int]
) -> tuple[list[Part], dict[int, int]]:
    """A part of their own for the embeddings of tokens, if more of the first part remains.

    They are often half of the parameters, and each batch updates few of their rows.
    """
    first, *rest = (b for b in anatomy.body if part_of[b.index] == 0)
    if not first.embeds or not any(b.weight_ops for b in rest):
        return parts, part_of
    embeddings = Part("embeddings", "the input: a vector for each token")
    encoder = Part(parts[0].name, f"the first {rest[0].kind}, after the embeddings")
    later = {index: part + (index != first.index) for index, part in part_of.items()}
    return [embeddings, encoder, *parts[1:]], later


def _body_names(n: int, *, decoder: bool = False) -> list[str]:
    if n == 1:
        return ["body"]
    if decoder:
        return ["early", "late", "decoder"]
    return ["early", "late"] if n == 2 else [f"body-{i + 1}" for i in range(n)]


def _with_head(
    model: nn.Module, anatomy: Anatomy, rule: str, parts: list[Part], part_of: dict[int, int]
) -> Partition:
    if anatomy.has_head:
        part_of = part_of | {b.index: len(parts) for b in anatomy.head}
        parts = [*parts, Part("head", anatomy.head_reason)]
    return by_block(model, anatomy, rule, parts, part_of)


def layerwise(model: nn.Module, anatomy: Anatomy) -> Partition:
    """A group for each block of the body, and one for the head."""
    body = [b for b in anatomy.body if b.parameters]
    if not body:
        return by_number(model, anatomy, 1, rule="layerwise")
    parts = [Part(b.name, f"a {b.kind} begins" if i else "the input") for i, b in enumerate(body)]
    part_of = {b.index: max(sum(c.index <= b.index for c in body) - 1, 0) for b in anatomy.body}
    return _with_head(model, anatomy, "layerwise", parts, part_of)


def by_path(model: nn.Module, anatomy: Anatomy, paths: Iterable[str]) -> Partition:
    """A new group begins at each of the module paths."""
    listed = list(paths)
    known = {path for path, _ in model.named_modules() if path}
    for path in listed:
        if not isinstance(path, str) or path not in known:
            children = ", ".join(name for name, _ in model.named_children())
            raise GroupingError(
                f"no module is at {path!r}.{nearest(str(path), known)} The model's children are "
                f"{children}."
            )
    starts = [start_at_path(anatomy, p, p, f"asked for at {p}") for p in listed]
    starts.sort(key=lambda s: (s.parameter, s.layer))
    first = anatomy.blocks[0].name if anatomy.blocks[0].name not in listed else "input"
    rule = f"split at {', '.join(listed)}"
    return consecutive(model, anatomy, rule, Part(first, "the input"), starts)


def by_pattern(model: nn.Module, anatomy: Anatomy, patterns: Mapping[str, str]) -> Partition:
    """Groups of the parameters whose names begin with a regular expression."""
    compiled = {group: _compiled(group, pattern) for group, pattern in patterns.items()}
    found: dict[str, list[str]] = {group: [] for group in patterns}
    for name, _ in model.named_parameters():
        hits = [group for group, pattern in compiled.items() if pattern.match(name)]
        if len(hits) > 1:
            raise GroupingError(f"{name} matches the patterns of {hits}; make one narrower")
        for group in hits:
            found[group].append(name)
    empty = [group for group, names in found.items() if not names]
    if empty:
        tops = ", ".join(dict.fromkeys(n.split(".")[0] for n, _ in model.named_parameters()))
        raise GroupingError(
            f"the patterns of {empty} match no parameter; patterns are matched from the beginning "
            f"of the name, and names begin with: {tops}"
        )
    return _from_lists(model, anatomy, f"patterns for {', '.join(patterns)}", found)


def _compiled(group: str, pattern: object) -> re.Pattern[str]:
    try:
        re.compile(pattern)  # type: ignore[call-overload]  # any value may be given
        return re.compile(rf"(?:{pattern})(?=\.|$)")
    except (TypeError, re.error) as cause:
        raise GroupingError(
            f"the pattern {pattern!r} of group {group!r} is not a regular expression ({cause}); "
            f"give one that names begin with, such as 'layer1|layer2'"
        ) from cause


def by_function(
    model: nn.Module, anatomy: Anatomy, function: Callable[[nn.Module], Iterable[Any]]
) -> Partition:
    """Groups that a function returns: lists of parameters, lists of modules, or modules."""
    called = getattr(function, "__name__", type(function).__name__)
    try:
        groups = [_parameters_of(item) for item in function(model)]
    except Exception as cause:
        raise GroupingError(
            f"the split function {called} does not work on {type(model).__name__}: "
            f"{type(cause).__name__}: {cause}. It takes the model and returns for each group "
            f"modules or parameters, such as lambda m: [m.body, m.head]"
        ) from cause
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, list[str]] = {}
    for index, parameters in enumerate(groups):
        if any(id(p) not in names for p in parameters):
            raise GroupingError(f"group {index} of {called} has a parameter from elsewhere")
        found[f"group-{index}"] = list(dict.fromkeys(names[id(p)] for p in parameters))
    return _from_lists(model, anatomy, f"function {called}", found)


def _parameters_of(item: Any) -> list[nn.Parameter]:
    if isinstance(item, nn.Parameter):
        return [item]
    if isinstance(item, nn.Module):
        return list(item.parameters())
    return [p for inner in item for p in _parameters_of(inner)]


def _from_lists(
    model: nn.Module, anatomy: Anatomy, rule: str, found: Mapping[str, Sequence[str]]
) -> Partition:
    owner: dict[str, str] = {}
    for group, names in found.items():
        for name in names:
            if name in owner:
                raise GroupingError(f"{name} is in two groups, {owner[name]} and {group}")
            owner[name] = group
    left = [n for n, _ in model.named_parameters() if n not in owner]
    if left:
        raise GroupingError(f"{rule}: {len(left)} parameters are in no group: {first_few(left)}")
    order = {name: i for i, name in enumerate(parameter_order(anatomy))}
    last = len(order)
    ranked = sorted(found, key=lambda g: min((order.get(n, last) for n in found[g]), default=last))
    if ranked != list(found):
        log.warning("layer groups are in the order of execution: %s", ", ".join(ranked))
    group_of = {name: ranked.index(group) for name, group in owner.items()}
    below: dict[str, int] = {}  # the group of the first parameter at or below each path
    for name, index in group_of.items():
        for path in (name, *ancestors(name)):
            below.setdefault(path, index)
    index = 0  # a layer without parameters joins the layer that ran before it
    for path in anatomy.layers:
        index = group_of[path] = below.get(path, index)
    return complete(model, rule, tuple(Part(g, rule) for g in ranked), group_of)


# -- fastai's table, optional ---------------------------------------------------------------------

# class of the network -> (module that is split, children before which it is split).
# Source: fastai 1 and 2, vision/learner.py; MobileNetV2 as common among its users
_CLASSIC: dict[str, tuple[str, tuple[int, ...]]] = {
    "ResNet": ("", (6,)),
    "VGG": ("features", (22,)),
    "DenseNet": ("features", (7,)),
    "SqueezeNet": ("features", (5,)),
    "AlexNet": ("features", (6,)),
    "MobileNetV2": ("features", (10,)),
}
_CLASSIC_V1 = {**_CLASSIC, "SqueezeNet": ("features", (5, 8))}
_RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def classic(model: nn.Module, anatomy: Anatomy, network: str, *, version: int = 2) -> Partition:
    """The split in fastai's table; the head is the last group."""
    paths = classic_paths(network, model, version=version)
    if not paths:
        raise GroupingError(
            f"the classic table has no split for {network}, only for {', '.join(_CLASSIC)}. "
            f"split='auto' works for any architecture"
        )
    first, *names = _body_names(len(paths) + 1)
    starts = [
        start_at_path(anatomy, path, name, f"the classic table splits {network} at {path}")
        for path, name in zip(paths, names, strict=True)
    ]
    if anatomy.has_head:
        block = anatomy.head[0].index
        starts.append(start_at_block(anatomy, block, "head", anatomy.head_reason))
    return consecutive(model, anatomy, "classic", Part(first, "the input"), starts)


def classic_paths(network: str, model: nn.Module, *, version: int = 2) -> tuple[str, ...]:
    """Where the table of fastai's version 1 or 2 splits a network; empty without an entry.

    The model is that network, or a `Sequential(body, head)` made from it.
    """
    inside, indices = (_CLASSIC if version == 2 else _CLASSIC_V1).get(network, ("", ()))
    for path, module in model.named_modules() if indices else ():
        names = [name for name, _ in module.named_children()]
        # count the children of a long enough Sequential, or of the body of the ResNet
        if len(names) > max(indices) and (not inside or isinstance(module, nn.Sequential)):
            if not inside:
                names = [n for n in _RESNET_CHILDREN if n in names] or names
            return tuple(f"{path}.{names[i]}".removeprefix(".") for i in indices)
    return ()
