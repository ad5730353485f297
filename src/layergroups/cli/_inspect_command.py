"""`layergroups inspect`: the layer groups of a network, and why each split is where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from layergroups._drawing import check_ending
from layergroups._formatting import say, show, show_json
from layergroups._suggestions import nearest_folder
from layergroups.anatomy import Anatomy
from layergroups.checkpoints import DESCRIPTION
from layergroups.cli._parsing import split_rule
from layergroups.errors import CheckpointError, UnknownArchitectureError
from layergroups.groups import LayerGroup, LayerGroups, explanation_report
from layergroups.models import load_model
from layergroups.reports import network_picture
from layergroups.training import load_learner


def run(what: str, *, split: str | None, size: int | None, out: Path | None, json: bool) -> None:
    """Show the groups of a network of a library, or of an export.

    Raises:
        LayerGroupsError: there is no such network, or it cannot be divided like that.
    """
    if out is not None:
        check_ending(out)
    try:
        name, groups = (_export if _is_export(what) else _network)(what, split, size)
    except UnknownArchitectureError as cause:
        near = nearest_folder(Path(what), DESCRIPTION)
        if not Path(what).is_dir() and "/" not in what and not near:
            raise
        found = "is a folder without" if Path(what).is_dir() else "is not the folder of"
        hint = near or " `layergroups models` lists networks."
        raise CheckpointError(
            f"{what} {found} a model that `layergroups train` wrote, and no network has this name."
            f"{hint}"
        ) from cause
    if json:
        show_json(_described(name, groups))
    else:
        show(_headline(name, groups.anatomy))
        show(groups)
        show(explanation_report(groups.explain(), reasons=False))
    if out is not None:
        network_picture(groups, out, title=name)
        say(f"The network is drawn in {out}.")


def _is_export(what: str) -> bool:
    """Whether it is a folder of a model rather than the name of a network."""
    folder = Path(what)
    plain_name = folder.name == what and ":" not in what
    return (folder / DESCRIPTION).is_file() or (folder.is_dir() and not plain_name)


def _network(name: str, split: str | None, size: int | None) -> tuple[str, LayerGroups]:
    loaded = load_model(name, pretrained=False)
    height, width = (size, size) if size else loaded.input.size
    example = torch.zeros(2, loaded.input.channels, height, width)
    groups = LayerGroups(loaded.model, split_rule(split or "auto"), example_input=example)
    return loaded.name, groups


def _export(folder: str, split: str | None, size: int | None) -> tuple[str, LayerGroups]:
    learn = load_learner(folder)
    groups, blueprint = learn.layer_groups, learn.blueprint
    if split is not None or size is not None:
        dls: Any = learn.dls
        known = {} if blueprint is None else {"head": "1", "network": blueprint.network}
        example = dls.example()
        if dls.size is not None:
            height, width = (size, size) if size else dls.size
            example = torch.zeros(2, dls.input.channels, height, width)
        rule = split_rule(split or "auto")
        learn.unfreeze()  # what is frozen belongs to the groups of the run
        groups = LayerGroups(learn.model, rule, example_input=example, **known)
    arch = blueprint.arch if blueprint else type(learn.model).__name__
    return f"{folder}: {arch}", groups


def _headline(name: str, anatomy: Anatomy) -> str:
    parameters = sum(block.n_parameters for block in anatomy.blocks)
    image = "" if anatomy.image is None else f", images of {anatomy.image[0]} x {anatomy.image[1]}"
    return (
        f"{name}: {len(anatomy.blocks)} blocks, {parameters:,d} parameters{image}\n"
        f"head: {anatomy.head_reason}\n"
    )


def _described(name: str, groups: LayerGroups) -> dict[str, Any]:
    return {
        "name": name,
        "rule": groups.rule,
        "image": groups.anatomy.image,
        "head_reason": groups.anatomy.head_reason,
        "groups": [_group(group) for group in groups],
        "explanation": groups.explain().to_dict(),
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
