"""`layergroups inspect`: the layer groups of a network, and why each split is where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layergroups._drawing import check_ending
from layergroups._formatting import say, show, show_json
from layergroups.checkpoints import DESCRIPTION
from layergroups.cli._parsing import split_rule
from layergroups.groups import LayerGroup, LayerGroups, explanation_report
from layergroups.models import load_model
from layergroups.reports import groups_report, network_picture
from layergroups.training import load_learner


@dataclass(frozen=True)
class Inspected:
    """A network by its name, in its layer groups."""

    name: str
    groups: LayerGroups


def run(what: str, *, split: str | None, size: int | None, out: Path | None, json: bool) -> None:
    """Show the groups of a network of a library, or of an export.

    Raises:
        LayerGroupsError: there is no such network, or it cannot be divided like that.
    """
    if out is not None:
        check_ending(out)
    found = _export(Path(what), split, size) if _is_export(what) else _network(what, split, size)
    if json:
        show_json(_described(found))
    else:
        show(_headline(found))
        show(groups_report(found.groups))
        show(explanation_report(found.groups.explain(), reasons=False))
    if out is not None:
        network_picture(found.groups, out, title=found.name)
        say(f"The network is drawn in {out}.")


def _is_export(what: str) -> bool:
    """Whether it is a folder of a model rather than the name of a network."""
    folder = Path(what)
    plain_name = folder.name == what and ":" not in what
    return (folder / DESCRIPTION).is_file() or (folder.is_dir() and not plain_name)


def _network(name: str, split: str | None, size: int | None) -> Inspected:
    loaded = load_model(name, pretrained=False)
    height, width = (size, size) if size else loaded.input.size
    example = torch.zeros(2, loaded.input.channels, height, width)
    groups = LayerGroups(loaded.model, split_rule(split or "auto"), example_input=example)
    return Inspected(loaded.name, groups)


def _export(folder: Path, split: str | None, size: int | None) -> Inspected:
    learn = load_learner(folder)
    groups, blueprint = learn.layer_groups, learn.blueprint
    if split is not None or size is not None:
        dls: Any = learn.dls
        height, width = (size, size) if size else dls.size
        known = {} if blueprint is None else {"head": "1", "network": blueprint.network}
        example = torch.zeros(2, dls.input.channels, height, width)
        rule = split_rule(split or "auto")
        groups = LayerGroups(learn.model, rule, example_input=example, **known)
    name = f"{folder}: {blueprint.arch if blueprint else type(learn.model).__name__}"
    return Inspected(name, groups)


def _headline(found: Inspected) -> str:
    anatomy = found.groups.anatomy
    parameters = sum(block.n_parameters for block in anatomy.blocks)
    image = "" if anatomy.image is None else f", images of {anatomy.image[0]} x {anatomy.image[1]}"
    return (
        f"{found.name}: {len(anatomy.blocks)} blocks, {parameters:,d} parameters{image}\n"
        f"head: {anatomy.head_reason}"
    )


def _described(found: Inspected) -> dict[str, Any]:
    anatomy = found.groups.anatomy
    return {
        "name": found.name,
        "rule": found.groups.rule,
        "image": anatomy.image,
        "head_reason": anatomy.head_reason,
        "groups": [_group(group) for group in found.groups],
        "explanation": found.groups.explain().to_dict(),
    }


def _group(group: LayerGroup) -> dict[str, Any]:
    return {
        "index": group.index,
        "name": group.name,
        "reason": group.reason,
        "blocks": [block.name for block in group.blocks],
        "layers": len(group.layers),
        "parameters": sum(p.numel() for p in group.parameters()),
        "trainable": sum(p.numel() for p in group.parameters() if p.requires_grad),
        "frozen": group.frozen,
        "rate": group.lr,
    }
