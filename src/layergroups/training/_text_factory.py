"""Learners of texts: `text_learner`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from layergroups._random import mixed
from layergroups._suggestions import unknown_option
from layergroups.checkpoints import Blueprint
from layergroups.data import TextDataLoaders
from layergroups.errors import ModelError, TrainingError
from layergroups.groups import LayerGroups, Split
from layergroups.models import (
    BodyWithHead,
    Cut,
    check_tokens,
    create_head,
    describe_text_encoder,
    load_text_encoder,
    measured_features,
)
from layergroups.tasks import LossFunc
from layergroups.training._learner import Learner, LearnerOptions
from layergroups.training.optim import OptFunc

_LOG = logging.getLogger("layergroups")


def text_learner(
    dls: TextDataLoaders,
    arch: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = True,
    pooling: str | None = None,
    split: Split = "auto",
    metrics: Any = (),
    lin_ftrs: Sequence[int] | None = (),
    ps: float | Sequence[float] = 0.3,
    custom_head: nn.Module | None = None,
    y_range: tuple[float, float] | None = None,
    loss_func: LossFunc | str | None = None,
    opt_func: OptFunc = "adamw",
    seed: int | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """A learner whose model is an encoder of transformers and a new head for the data.

    The encoder is the one whose tokenizer the data have: `TextDataLoaders.from_table(..., model=)`.
    It starts frozen, as in `vision_learner`: `fit` trains the head, `fine_tune`,
    `gradual_unfreeze` or `unfreeze` the rest. A pooler is left out.

    Args:
        dls: the texts and their classes, labels or numbers.
        arch: the encoder whose tokenizer the data have, or None for that one.
        pretrained: start with pretrained weights.
        pooling: "mean" of the tokens, "cls" (the first) or "last"; None for what the encoder was
            trained with, which the model and its files show.
        split: the rule that divides the model into layer groups.
        metrics: names, torchmetrics objects or functions.
        lin_ftrs: sizes of the hidden layers of the head; none by default.
        ps: dropout of the head.
        custom_head: used instead of the default head; it takes vectors (N, F).
        y_range: for regression: limits of the numbers, a little beyond the targets.
        loss_func: a name or a function, as for `Learner`; None for the default of the task.
        opt_func: as for `Learner`.
        seed: as for `Learner`; also of the initial weights.
        **options: those of `Learner`.

    Raises:
        TrainingError: the data are not texts, or have the tokenizer of another model.
        ArgumentError: there is no option of this name.
        UnknownArchitectureError: there is no such encoder, or it needs code of its own.
        WeightsError: the weights cannot be loaded.
    """
    if not isinstance(dls, TextDataLoaders):
        raise TrainingError(
            f"The data ({type(dls).__name__}) are not texts. Use "
            'text_learner(TextDataLoaders.from_table("reviews.csv", text="text", label="label")).'
        )
    for option in options:
        if option not in LearnerOptions.__annotations__:
            raise unknown_option(text_learner, option, LearnerOptions.__annotations__)
    if arch is not None and os.fspath(arch) != dls.transform.model:
        raise TrainingError(
            f"The texts are tokens of {dls.transform.model}, not of {arch}. Name the encoder when "
            f"you make the data: TextDataLoaders.from_table(..., model={os.fspath(arch)!r})."
        )
    task = dls.task
    if y_range is not None:
        task.check_range(y_range, dls.targets())
        if custom_head is not None:
            raise ModelError("y_range= only works with the default head.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(mixed(seed, "first weights"))
        name = dls.transform.model
        body, reason = load_text_encoder(name, pretrained=pretrained, pooling=pooling)
        check_tokens(body, name, dls.transform.max_length, dls.train.items.highest_token)
        features = measured_features(body, dls.example())
        units = None if y_range else task.target_units(dls.targets())
        head = custom_head or create_head(
            features, dls.n_outputs, pool=False, lin_ftrs=lin_ftrs, ps=ps, y_range=y_range,
            units=units,
        )  # fmt: skip
    model = BodyWithHead(body, head)
    network = type(body.encoder).__name__
    groups = LayerGroups(model, split, example_input=dls.example(), head="1", network=network)
    learner = Learner(
        dls, model, groups=groups, split=split, metrics=metrics, loss_func=loss_func,
        opt_func=opt_func, seed=seed, **options,
    )  # fmt: skip
    learner.blueprint = Blueprint(
        arch=f"transformers:{Path(name).name if Path(name).is_dir() else name}",
        kwargs=describe_text_encoder(body),
        cut=Cut("whole", (), (), f"its tokens are pooled ({body.pooling}): {reason}"),
        network=network,
    )
    learner.pretrained = pretrained
    if pretrained and len(groups) > 1:
        learner.freeze()
    return learner
