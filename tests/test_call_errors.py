"""A layer of the wrong width, or weights of another type, are named wherever the model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layergroups import FineTuneDefaults, LayerGroups, TextDataLoaders, replace_head, text_learner
from layergroups.errors import AnatomyError, LayerGroupsError, ModelError, TrainingError
from layergroups.training import Learner
from tests.texts import model_folder, reviews
from tests.training.tiny import MaskLoaders, TinyLoaders


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def vectors() -> nn.Sequential:
    return nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def tokens() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(2), nn.Linear(256, 8))


WRONG = {
    "linear": (vectors(), nn.Linear(5, 3), "nn.Linear(8, 3)"),
    "linear in a head": (vectors(), nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), "nn.Linear(8, 3)"),
    "linear after tokens": (tokens(), nn.Linear(5, 3), "nn.Linear(8, 3)"),
    "linear after maps": (body(), nn.Linear(5, 3), "nn.Flatten(), nn.Linear(8, 3)"),
    "convolution": (body(), nn.Conv2d(5, 3, 1), "nn.Conv2d(8, 3, (1, 1))"),
    "convolution after vectors": (vectors(), nn.Conv2d(8, 3, 1), "nn.Linear(8, 3)"),
    "batch norm": (vectors(), nn.BatchNorm1d(5), "nn.BatchNorm1d(8)"),
    "batch norm of vectors": (body(), nn.BatchNorm1d(8), "nn.BatchNorm2d(8)"),
    "layer norm": (vectors(), nn.LayerNorm(5), "nn.LayerNorm(8)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_dry_run_names_the_layer_and_one_that_fits(kind: str) -> None:
    first, head, fitting = WRONG[kind]
    model = nn.ModuleDict({"body": first, "head": head})
    model.forward = lambda x: model["head"](model["body"](x))  # type: ignore[method-assign] # a forward
    with pytest.raises(AnatomyError) as raised:
        LayerGroups(model, example_input=torch.zeros(2, 3, 16, 16))
    message = str(raised.value)
    assert fitting in message
    assert "head" in message
    assert isinstance(raised.value.__cause__, RuntimeError | ValueError)
    assert "example_input=" not in message  # the input is right


def test_inputs_that_do_not_fit_are_not_the_fault_of_a_layer() -> None:
    with pytest.raises(AnatomyError, match="example_input=") as raised:
        LayerGroups(vectors(), example_input=torch.zeros(2, 1, 16, 16))
    assert "One that fits" not in str(raised.value)


@pytest.mark.parametrize("how", ["fit", "fine_tune", "validate", "predict"])
def test_a_head_that_is_assigned_to_a_learner(how: str) -> None:
    learn = Learner(
        TinyLoaders(n=16), nn.Sequential(vectors(), nn.Linear(8, 3)), split=["0.0", "1"],
        progress=False,
    )  # fmt: skip
    learn.model[1] = nn.Linear(5, 3)
    calls: dict[str, Any] = {
        "fit": lambda: learn.fit(1),
        "fine_tune": lambda: learn.fine_tune(1, defaults=FineTuneDefaults(head_steps=2)),
        "validate": learn.validate,
        "predict": lambda: learn.predict(torch.zeros(3, 16, 16)),
    }
    with pytest.raises(TrainingError, match=r"1 is a Linear for 5 .* nn\.Linear\(8, 3\)"):
        calls[how]()


@pytest.mark.parametrize(("ours", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_weights_of_another_type_than_the_inputs(ours: torch.dtype, name: str) -> None:
    model = nn.Sequential(vectors(), nn.Linear(8, 3))
    learn = Learner(TinyLoaders(n=16), model, split=["0.0", "1"], progress=False)
    learn.model.to(ours)
    for call in (learn.fit, learn.validate):
        with pytest.raises(TrainingError, match=rf"to\(torch\.float32\).*\"{name}\""):
            call(*[1] * (call == learn.fit))
    learn.model.to(torch.float32)
    learn.fit(1)
    learn.mixed_precision = name if ours == torch.bfloat16 else "no"
    learn.fit(1)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float64])
def test_inputs_of_another_type_than_the_weights(kind: torch.dtype) -> None:
    data = TinyLoaders(n=16)
    data.train = [(x.to(kind), y) for x, y in data.train]  # type: ignore[assignment] # batches
    model = nn.Sequential(vectors(), nn.Linear(8, 3))
    learn = Learner(data, model, split=["0.0", "1"], progress=False)
    with pytest.raises(TrainingError, match=r"weights are float32.*\.float\(\)"):
        learn.fit(1)


def test_a_head_of_masks() -> None:
    model = nn.Sequential(body(), nn.Conv2d(8, 3, 1))
    learn = Learner(MaskLoaders(n=8), model, split=["0.0", "1"], progress=False)
    learn.model[1] = nn.Conv2d(5, 3, 1)
    with pytest.raises(TrainingError, match=r"nn\.Conv2d\(8, 3, \(1, 1\)\)"):
        learn.fit(1)


def test_a_head_of_texts(tmp_path: Path) -> None:
    dls = TextDataLoaders.from_lists(*reviews(16), model=model_folder(tmp_path), batch_size=8)
    with pytest.raises(LayerGroupsError, match=r"1 is a Linear for 5 .* nn\.Linear\(16, 2\)"):
        text_learner(dls, pretrained=False, custom_head=nn.Linear(5, 2), progress=False)


def test_replace_head_takes_a_number() -> None:
    model = nn.Sequential(vectors(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"replace_head\(model, 3\).*set_submodule"):
        replace_head(model, nn.Linear(8, 3), example_input=torch.zeros(2, 3, 16, 16))  # type: ignore[arg-type] # wrong on purpose
