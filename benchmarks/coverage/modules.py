"""Checks of models as they are: transformers, segmentation, video, detection backbones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.coverage import laws, tiny
from benchmarks.coverage.classification import Verdict
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from layergroups.anatomy import read_anatomy
from layergroups.anatomy._anatomy import first_trace
from layergroups.groups import LayerGroups
from layergroups.models import replace_head

_OTHER = 7


def check(family: str, name: str) -> Verdict:
    """Run the checks that hold for any model, on the first form of it that runs."""
    errors = []
    for model, example, words in _models(family, name):
        try:
            verdict = _check(model, example, has_head=family != "detection")
        except Exception as error:
            cause = error.__cause__ or error
            errors.append(f"{words}: {type(error).__name__}: {cause}")
            continue
        verdict.facts["cut"] = words
        if not verdict.failed:
            return verdict
        errors.append(f"{words}: {verdict.failed}")
    raise RuntimeError(" / ".join(errors))


def _models(family: str, name: str) -> Iterator[tuple[nn.Module, Any, str]]:
    if family.startswith("transformers"):
        example = tiny.EXAMPLES.get((family, name))
        yield from ((model, example, words) for model, words in tiny.make(family, name))
        return
    from torchvision import models

    backbone = {} if family == "video" else {"weights_backbone": None}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **backbone)
    if family == "detection":
        yield model.backbone, torch.zeros(2, 3, 320, 320), "backbone"
    elif family == "segmentation":
        yield model, torch.zeros(2, 3, 128, 128), "whole"
    else:
        preset = models.get_model_weights(name).DEFAULT.transforms()
        yield model, torch.zeros(2, 3, 16, *preset.crop_size), "whole"


def _reached(model: nn.Module, example: Any) -> set[str]:
    """Names of the parameters that a backward pass in training mode reaches."""
    model.train()
    model.zero_grad()
    device = next(model.parameters()).device
    arguments = tree_map_only(Tensor, lambda t: t.to(device), example)
    out = model(**arguments) if isinstance(arguments, dict) else model(arguments)
    given = out.logits if hasattr(out, "logits") else out
    leaves = [t for t in tree_leaves(given) if isinstance(t, Tensor) and t.requires_grad]
    sum((t.sum() for t in leaves), torch.zeros((), device=device)).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return reached


def _new_head(model: nn.Module, groups: LayerGroups, example: Any) -> str:
    """`replace_head` gives other outputs, and the groups follow; returns what is wrong, or ""."""
    paths = replace_head(model, _OTHER, example_input=example)
    groups.sync()
    if wrong := laws.cover(groups) or laws.freezing(groups, None):
        return wrong
    groups.unfreeze()
    reached = _reached(model, example)
    missed = [p for p in paths if f"{p}.weight" not in reached]
    old = [c.path for c in read_anatomy(model, example).classifiers if c.out_features != _OTHER]
    return f"no gradient reaches {missed}" if missed else f"old outputs: {old}" if old else ""


def _check(model: nn.Module, example: Any, *, has_head: bool) -> Verdict:
    verdict = Verdict()
    used, found = first_trace(model, example)
    alone = _reached(model, used)
    groups = LayerGroups(model, "auto" if has_head else 3, example_input=used)
    tied = bool(groups.anatomy.classifiers) and not groups.anatomy.has_head  # of the embedding
    verdict.note("cover", laws.cover(groups))
    verdict.note("order", laws.order(groups, found))
    verdict.note("groups", laws.enough(groups, 2 if tied else 3))
    if has_head:
        verdict.note("head", "" if groups.anatomy.classifiers else groups.anatomy.head_reason)
    verdict.note("freeze", laws.freezing(groups, None))
    groups.unfreeze()
    missed = alone - _reached(model, used)
    verdict.note("backward", f"no gradient reaches {laws.some(missed)}" if missed else "")
    verdict.note("trained", laws.few(alone, found))
    if has_head and not verdict.failed:
        verdict.note("new head", _new_head(model, groups, used))
    device = next(model.parameters()).device
    verdict.facts = {
        "parameters": sum(p.numel() for p in model.parameters()), "groups": len(groups),
        "blocks": len(groups.anatomy.blocks), "source": groups.anatomy.source,
        "unused": len(groups.anatomy.unused), "split": " | ".join(groups.reasons[1:-1]),
        "removed": "", "numbers": device.type == "cpu",
    }  # fmt: skip
    return verdict
