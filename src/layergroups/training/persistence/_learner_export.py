"""The export of a learner, and layer groups from an export."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._formatting import name_of
from layergroups._torch import is_sharded
from layergroups.checkpoints import (
    ENDINGS,
    INPUT,
    Exported,
    Portable,
    described_head,
    trial_pixels,
    why_not_rebuilt,
    write_export,
    write_portable,
    write_text,
)
from layergroups.data import (
    EvalTransform,
    TextTransform,
    is_text_config,
    normalise,
    transform_from_config,
)
from layergroups.errors import CheckpointError, TrainingError
from layergroups.groups import RULE_NAMES, LayerGroups, Split
from layergroups.tasks import describe_loss, loss_name, meaning_of, saved_name
from layergroups.training.loop import predict_all
from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
_OTHER_FORMATS = (  # a folder of such a name would be a mistake
    ".bin", ".ckpt", ".h5", ".keras", ".mlmodel", ".mlpackage", ".pb", ".pkl", ".pt", ".pth",
    ".safetensors", ".tflite", ".torchscript", ".zip",
)  # fmt: skip


def export(learner: LearnerState, target: Path) -> Path:
    """Write the export of a learner: a folder, or a `.pt2` or `.onnx` file."""
    if any(map(is_sharded, learner.model.parameters())):
        raise TrainingError(
            "FSDP2 has spread the weights over the processes. Use learn.save(name) here; then, in "
            "one process, learn.load(name).export(folder)."
        )
    if target.suffix.lower() in ENDINGS:
        return _export_portable(learner, target)
    if target.suffix.lower() in _OTHER_FORMATS:
        raise CheckpointError(
            f'{target.name} is not a format that is written: learn.export("model") makes a folder '
            "for load_learner; a name that ends in .onnx or .pt2 makes one file for other programs."
        )
    transform = learner.data.transform_config()
    model = learner.layer_groups.model  # without the wrapper of torch.compile
    head = described_head(model)
    reason = why_not_rebuilt(model, learner.blueprint, head, learner.data.example())
    if reason:
        _log.warning("load_learner(folder, model=...) will need the model, because %s.", reason)
    named = [metric for metric in learner.metrics if isinstance(metric, str)]
    unnamed = [name_of(metric) for metric in learner.metrics if not isinstance(metric, str)]
    if unnamed:
        _log.warning(
            "The export leaves out the metrics %s: only metrics given by name can be saved. After "
            "load_learner, assign them to learn.metrics again.",
            ", ".join(unnamed),
        )
    meaning = meaning_of(learner.loss_func)
    exported = Exported(
        classes=learner.data.vocab,
        blueprint=learner.blueprint,
        head=head,
        needs_model=reason,
        transform=transform,
        groups=learner.layer_groups.state_dict(),
        loss=saved_name(learner.loss_func),
        metrics=tuple(named),
        task=learner.task,
        thresh=learner.thresh,
        loss_settings=describe_loss(learner.loss_func),
        outputs="" if meaning is None else meaning.name,
        keyword="" if learner.data.input is None else _keyword(learner.data.example()),
        pretrained=learner.pretrained,
    )
    write_export(target, model, exported)
    learner.data.save_transform(target)
    return target


def _keyword(example: object) -> str:
    if not isinstance(example, Mapping):
        return ""
    if len(example) != 1:
        raise TrainingError(
            f"export holds the transform of one image, but a batch has {', '.join(example)}. Save "
            "the weights alone: learn.save(name)."
        )
    return str(next(iter(example)))


def _export_portable(learner: LearnerState, path: Path) -> Path:
    transform, inputs, fed, keyword = _trial(learner)
    model, accelerator = learner.placed_model(), learner.accelerator
    expected, _, _ = predict_all(learner, [fed])
    wanted = Portable(
        classes=learner.data.vocab,
        transform=transform,
        activation=partial(learner.task.predictions, loss_func=learner.loss_func),
        loss=loss_name(learner.loss_func),
        task=learner.task,
        thresh=learner.thresh,
        keyword=keyword,
    )
    exact = (
        accelerator.device.type == "cpu"
        and accelerator.mixed_precision == "no"
        and all(parameter.dtype == torch.float32 for parameter in model.parameters())
    )
    write_portable(path, model, wanted, inputs=inputs, expected=expected, exact=exact)
    if isinstance(transform, TextTransform):
        tokenizer = transform.tokenizer.backend_tokenizer.to_str()
        write_text(path.with_name(f"{path.name}.tokenizer.json"), tokenizer)
    return path


def _trial(
    learner: LearnerState,
) -> tuple[EvalTransform | TextTransform, dict[str, Tensor], Any, str]:
    """The transform, inputs of a graph to try it with, the same for the model, and its keyword."""
    config, example = learner.data.transform_config(), learner.data.example()
    if is_text_config(config):
        texts: Any = learner.data
        tokens = texts.transform.trial()
        return texts.transform, tokens, tokens, ""
    transform, keyword = transform_from_config(config), _keyword(example)
    pixels = trial_pixels(transform.size, transform.input.channels)
    images = normalise(pixels, transform.input)
    return transform, {INPUT: pixels}, {keyword: images} if keyword else images, keyword


def groups_of_export(model: nn.Module, exported: Exported, options: dict[str, Any]) -> LayerGroups:
    """Layer groups as they were, frozen flags and rates too; `options` are for `LayerGroups`."""
    saved = exported.groups
    try:
        members: Split = {
            group: "|".join(map(re.escape, names)) for group, names in saved["members"].items()
        }
        groups = LayerGroups(model, _by_rule(str(saved["rule"])) or members, **options)
        if groups.state_dict()["members"] != saved["members"]:
            groups = LayerGroups(model, members, **options)
        groups.load_state_dict(saved)
    except (KeyError, ValueError) as cause:
        raise CheckpointError(f"The saved layer groups do not fit the model: {cause}") from cause
    return groups


def _by_rule(rule: str) -> Split | None:
    """The rule that a name of one stands for; None for groups that were made by hand."""
    number = re.fullmatch(r"(\d+) groups", rule)
    return int(number[1]) if number else rule if rule in RULE_NAMES else None
