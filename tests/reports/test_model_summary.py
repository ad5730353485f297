"""The summary of a model: every parameter once, in the order in which things run."""

from __future__ import annotations

import json

import pytest
import torch
from tests.laws.models import TinyResNet, TinyTransformer, image
from tests.training.tiny import TinyLoaders, tiny_model
from torch import nn

from layergroups import LayerGroups, Learner, load_model
from layergroups._formatting import name_of
from layergroups.reports._model_summary import model_summary


@pytest.mark.parametrize("detail", ["blocks", "layers"])
@pytest.mark.parametrize("kind", [TinyResNet, TinyTransformer])
def test_every_parameter_is_counted_once(kind: type[nn.Module], detail: str) -> None:
    model = kind()
    groups = LayerGroups(model, 2, example_input=image())
    groups.freeze()
    found = model_summary(groups, detail=detail, example_input=image())
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.frozen == found.parameters - found.trainable > 0
    for group in groups:
        held = sum(row.parameters for row in found.rows if row.group == group.name)
        assert held == sum(p.numel() for p in group.parameters())


def test_blocks_and_layers_in_the_order_of_execution() -> None:
    learn = Learner(TinyLoaders(), tiny_model(), split=["0.0", "0.7", "1"], progress=False)
    layers = learn.summary("layers").rows
    assert [row.name for row in layers[:4]] == ["0.0", "0.1", "0.2", "0.3"]
    assert (layers[0].kind, layers[0].shape) == ("Conv2d", (8, 8, 8))
    assert layers[-1].shape == (3,)
    blocks = learn.summary().rows
    assert [row.group for row in blocks] == ["0.0", "0.0", "0.7", "1"]
    assert blocks[-1].kind == "Linear"


def test_a_norm_that_holds_its_activation_is_one_layer() -> None:
    groups = LayerGroups(load_model("timm:efficientnet_lite0", pretrained=False).model)
    rows = {row.name: row for row in model_summary(groups, detail="layers").rows}
    assert rows["bn1"].kind == "BatchNormAct2d"
    assert rows["bn1"].parameters == 64
    assert not any(row.kind in ("parameter", "Identity") for row in rows.values())


def test_what_stands_below_the_table() -> None:
    learn = Learner(TinyLoaders(), tiny_model(), split=2, opt_func="sgd", progress=False)
    before = learn.summary()
    assert (before.optimizer, before.loss, before.optimizer_bytes) == (
        "sgd",
        "CrossEntropyLoss",
        None,
    )
    learn.opt_func = "adamw"
    learn.fit(1)
    after = learn.summary()
    assert after.optimizer == "AdamW"
    count = sum(p.numel() for p in learn.model.parameters())
    assert after.gradient_bytes == 4 * count
    assert after.optimizer_bytes is not None
    assert after.optimizer_bytes >= 8 * count
    text = str(after)
    for words in ("AdamW", "CrossEntropyLoss", "8×8×8", f"{count:,d}"):
        assert words in text
    assert json.loads(json.dumps(after.to_dict()))["parameters"] == count
    assert "8×8×8" in after._repr_html_()


def test_what_is_never_used_is_said() -> None:
    model = TinyResNet(width=4, blocks=1)
    model.spare = nn.Linear(2, 2)
    rows = model_summary(LayerGroups(model, example_input=image())).rows
    assert [(r.name, r.kind) for r in rows[-2:]] == [
        ("spare.weight", "never used"), ("spare.bias", "never used"),
    ]  # fmt: skip


def test_names_and_sizes_in_words() -> None:
    from functools import partial

    assert name_of(partial(torch.optim.SGD, momentum=0.9)) == "SGD"
    assert name_of(nn.functional.mse_loss) == "mse_loss"
