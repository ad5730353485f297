"""Exported models: a folder with `model.safetensors` and `learner.json`, enough to predict.

Loading creates the architecture by name, cuts its body in the same way, and builds the head from a
list of plain layers. The export tries this at once: names, shapes and outputs must agree. If they
do not (a custom module, a changed body), the folder records that it needs the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layergroups._forward import call_model
from layergroups._from_dict import from_dict
from layergroups._suggestions import nearest_folder
from layergroups._torch import tree_map_only
from layergroups.anatomy import eval_mode
from layergroups.checkpoints import _file as file
from layergroups.checkpoints._state_dicts import load_weights
from layergroups.data import EvalTransform, is_text_config
from layergroups.errors import CheckpointError, CutError, LayerGroupsError
from layergroups.input_spec import InputSpec
from layergroups.models import (
    BodyWithHead,
    Cut,
    Segmenter,
    apply_cut,
    build_text_encoder,
    describe_head,
    head_from_description,
    load_model,
    model_of,
    with_channels,
)
from layergroups.tasks import (
    TASKS,
    Meaning,
    Task,
    check_metrics,
    checked_threshold,
    loss_from,
    stand_in,
    task_named,
)

VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
DESCRIPTION: Final = "learner.json"
_CUT_KINDS: Final = ("chain", "whole", "reset", "by hand")
_KINDS: Final = (nn.Sequential, BodyWithHead, Segmenter)  # of a body and a head
_LARGEST_SIDE: Final = 10_000  # pixels
_LARGEST_STATISTIC: Final = 1000.0
_REFUSED: Final = {
    "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "weights", "weights_backbone",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """How a model of body and head was created, JSON-ready.

    `arch` has its library, "torchvision:resnet18"; "module:Name" cannot be rebuilt. `size` is
    height and width of the images, `input` their statistics; both None for inputs of other kinds.
    `network` is the class of the original network.
    """

    arch: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    cut: Cut
    network: str
    size: tuple[int, int] | None = None
    input: InputSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    classes: tuple[str, ...]  # names of classes, labels or targets, in the order of the outputs
    blueprint: Blueprint | None  # None for a model that is not from `vision_learner`
    head: list[dict[str, Any]] | None  # a list of plain layers; None if it has others
    needs_model: str  # empty, or why the model cannot be rebuilt from this file
    transform: Mapping[str, Any]  # for validation
    groups: Mapping[str, Any]  # the state of the layer groups
    loss: str  # its name
    metrics: tuple[str, ...] = ()
    task: Task = TASKS["multiclass"]
    thresh: float = 0.5
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    outputs: str = ""  # how the loss interprets outputs, a name of `Meaning`; empty if unknown
    keyword: str = ""  # the argument of a model that takes the images by name
    pretrained: bool | None = None  # whether its first weights were pretrained

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {"version": VERSION} | asdict(self) | {"task": self.task.name}


def rebuild(blueprint: Blueprint, head: list[dict[str, Any]]) -> nn.Sequential:
    """Create body and head as described, with initial weights; the global random state is kept."""
    refused = sorted(_REFUSED.intersection(blueprint.kwargs))
    if refused:
        raise CheckpointError(
            f"The description passes {', '.join(refused)} to {blueprint.arch}, which could read "
            "other files. An exported model never needs them."
        )
    with torch.random.fork_rng(devices=[]):
        if blueprint.size is None or blueprint.input is None:
            encoder = build_text_encoder(**blueprint.kwargs)
            return BodyWithHead(encoder, head_from_description(head))
        loaded = load_model(blueprint.arch, pretrained=False, **blueprint.kwargs)
        loaded, _ = with_channels(loaded, blueprint.input.channels, size=blueprint.size)
        try:
            body = apply_cut(loaded.model, blueprint.cut)
        except (CutError, AttributeError) as cause:
            raise CheckpointError(f"The body of {blueprint.arch} cannot be cut: {cause}") from cause
        return model_of(body, head_from_description(head))


def why_not_rebuilt(
    model: nn.Module,
    blueprint: Blueprint | None,
    head: list[dict[str, Any]] | None,
    example: Any = None,
) -> str:
    """Try to rebuild the model from its description: empty on success, else the reason.

    The outputs are compared in eval mode on one random image, or on the inputs `example`.
    """
    if blueprint is None or blueprint.arch.startswith("module:"):
        return "it was created from a module, not from the name of an architecture"
    if not _has_body_and_head(model):
        return "it is no longer a Sequential of body and head"
    if head is None:
        return "its head has layers other than plain ones"
    try:
        again = rebuild(blueprint, head)
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        load_weights(again, weights, "the model")
    except LayerGroupsError as cause:
        return f"its body was changed or cannot be rebuilt ({cause})"
    if _shared(model) != _shared(again):
        return "parameters are shared between layers, or no longer are"
    if not _same_outputs(model, again, blueprint, example):
        return "a model rebuilt from its name has different outputs, so layers were replaced"
    return ""


def _shared(model: nn.Module) -> set[frozenset[str]]:
    """The names of each parameter that has several."""
    names: dict[nn.Parameter, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, set()).add(name)
    return {frozenset(each) for each in names.values() if len(each) > 1}


def write_export(folder: Path, model: nn.Module, exported: Exported) -> Path:
    """Write weights and description; a missing folder is created."""
    file.write(folder / WEIGHTS, model.state_dict(), {"kind": "export"})
    text = json.dumps(exported.to_dict(), indent=2, ensure_ascii=False)
    file.write_text(folder / DESCRIPTION, text + "\n")
    return folder


def read_export(folder: Path) -> tuple[dict[str, Tensor], Exported]:
    path = folder / DESCRIPTION
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, not a folder that learn.export(folder) wrote. Run .onnx with "
            "onnxruntime and .pt2 with torch.export.load; read a file of learn.save with "
            "learn.load(name)."
        )
    if not folder.is_dir():
        hint = nearest_folder(folder, DESCRIPTION) or " Write one: learn.export(folder)."
        raise CheckpointError(f"There is no folder {folder}.{hint}")
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not an exported model: it has no {DESCRIPTION}. Write one: "
            "learn.export(folder). To read a file of learn.save: learn.load(name)."
        )
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text, parse_float=_finite, parse_constant=_finite)
        version = fields.pop("version", None) if isinstance(fields, dict) else None
        known = type(version) is int and version == VERSION
        exported = _checked(fields) if known else None
    except (OSError, ValueError, RecursionError, LayerGroupsError) as cause:
        raise CheckpointError(f"{path} is damaged: {' '.join(str(cause).split())}") from cause
    if exported is None:
        raise CheckpointError(
            f"{path} has version {version!r:.40}; this release reads version {VERSION}. Upgrade "
            "layergroups, or export again."
        )
    tensors, _ = file.read(folder / WEIGHTS)
    return tensors, exported


def load_export(folder: Path, model: nn.Module | None = None) -> tuple[nn.Module, Exported]:
    """The exported model with its weights, and its description; some need a `model` for them."""
    tensors, exported = read_export(folder)
    if model is None:
        if exported.needs_model or exported.blueprint is None or exported.head is None:
            raise CheckpointError(
                f"The model in {folder} cannot be rebuilt, because {exported.needs_model}. Create "
                f'it and pass it: load_learner("{folder}", model=your_module).'
            )
        model = rebuild(exported.blueprint, exported.head)
    load_weights(model, tensors, str(folder / WEIGHTS))
    return model, exported


def described_head(model: nn.Module) -> list[dict[str, Any]] | None:
    """The head of a `Sequential` of body and head as a list of plain layers, or None."""
    return describe_head(model.get_submodule("1")) if _has_body_and_head(model) else None


def _has_body_and_head(model: nn.Module) -> bool:
    return type(model) in _KINDS and [name for name, _ in model.named_children()] == ["0", "1"]


@dataclass(frozen=True, kw_only=True)
class _Groups:
    rule: str
    names: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    members: Mapping[str, tuple[str, ...]]
    frozen: tuple[bool, ...]
    freed: tuple[str, ...] = ()
    norm: str = "freeze"
    rates: tuple[float, ...]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def _checked(fields: Any) -> Exported:
    """The content of a description, if types and values make sense."""
    if isinstance(fields, dict):
        fields["task"] = task_named(fields.get("task", "multiclass"))
    made = from_dict(Exported, fields)
    classes, task = made.classes, made.task
    if len(set(classes)) < len(classes) or not all(name.strip() for name in classes):
        raise ValueError(f"classes={list(classes)} must be different names, none of them empty")
    checked_threshold(made.thresh)
    check_metrics(made.metrics, task)
    loss = loss_from(made.loss, made.loss_settings)
    if made.outputs and made.outputs not in Meaning.__members__:
        raise ValueError(f"outputs={made.outputs!r}: expected {', '.join(Meaning.__members__)}")
    task.check_loss(loss or stand_in(made.outputs) or task.default_loss())
    known = {name: v for name, v in made.groups.items() if name in _Groups.__annotations__}
    groups = from_dict(_Groups, known, "groups")  # it may have more in newer releases
    if not len(groups.names) == len(groups.frozen) == len(groups.rates) == len(groups.members):
        raise ValueError("groups: names, members, frozen and rates must have the same length")
    if not is_text_config(made.transform):
        own = {
            name: value for name, value in made.transform.items() if name not in ("squash", "masks")
        }
        _check_input(InputSpec.from_dict(own), "transform")
    if made.blueprint is not None:
        if made.blueprint.cut.kind not in _CUT_KINDS:
            raise ValueError(f"blueprint.cut.kind: expected {', '.join(_CUT_KINDS)}")
        _check_blueprint(made.blueprint.input, made.blueprint.size)
    ends = [layer for layer in made.head or () if {"out_features", "layers"} & layer.keys()]
    n = ends[-1].get("out_features", len(classes)) if ends else len(classes)
    if n != len(classes):
        raise ValueError(f"{len(classes)} classes, but the head has {n} outputs")
    return made


def _check_blueprint(spec: InputSpec | None, size: tuple[int, int] | None) -> None:
    if spec is not None and size is not None:
        _check_input(spec, "blueprint.input")
        _check_input(replace(spec, size=size), "blueprint")
    elif spec is not None or size is not None:
        raise ValueError("blueprint: give both size and input, for images, or none of them")


def _check_input(spec: InputSpec, name: str) -> None:
    EvalTransform(spec.size, spec, spec.crop_pct)  # checks most of it
    if not all(0 < side <= _LARGEST_SIDE for side in spec.size):
        raise ValueError(f"{name}.size={spec.size} must be two sides from 1 to {_LARGEST_SIDE}")
    if max(map(abs, (*spec.mean, *spec.std))) > _LARGEST_STATISTIC:
        raise ValueError(f"{name}: mean={spec.mean} and std={spec.std} are for fractions 0 to 1")


def _same_outputs(model: nn.Module, again: nn.Module, blueprint: Blueprint, example: Any) -> bool:
    first = next(model.parameters())
    if blueprint.input is not None and blueprint.size is not None:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, blueprint.input.channels, *blueprint.size, generator=generator)
        example = image.to(first.dtype)

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(first.device)

    with torch.no_grad(), eval_mode(model):
        ours = call_model(model, tree_map_only(Tensor, there, example)).float().cpu()
        theirs = call_model(again.eval().to(first.dtype), example).float()
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)
