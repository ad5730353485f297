"""Tables say what they should, in 80 columns, and take names as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console, RenderableType

from layergroups import LayerGroups, load_model
from layergroups.reports import (
    ConfusionMatrix,
    groups_report,
    per_class_table,
    predictions_table,
)
from layergroups.tasks import Prediction


def text_of(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_markup_in_names_is_text() -> None:
    row = (
        Path("[red]a.jpg"),
        Prediction("[bold]dog", 0, torch.tensor([0.7, 0.3]), ("[bold]dog", "cow")),
    )
    assert "[red]a.jpg" in text_of(predictions_table([row]))
    assert "[bold]dog" in text_of(predictions_table([row]))


def test_the_actual_class_is_shown_where_it_is_known() -> None:
    row = (Path("a.jpg"), Prediction("dog", 0, torch.tensor([0.7, 0.3]), ("dog", "cow")))
    assert " actual " in text_of(predictions_table([row], ["cow"]))
    assert " actual " not in text_of(predictions_table([row]))
    assert "cow 0.300" in text_of(predictions_table([row]))


def test_classes() -> None:
    confusion = ConfusionMatrix(((3, 1), (0, 0)), ("cat", "dog"))
    lines = [line.split() for line in text_of(per_class_table(confusion)).splitlines()]
    assert ["cat", "4", "3", "0.750", "1.000", "dog", "(1)"] in lines
    assert ["dog", "0", "0", "-", "0.000"] in lines


@pytest.mark.parametrize("arch", ["resnet18", "vit_b_16"])
def test_layer_groups_fit_into_80_columns(arch: str) -> None:
    groups = LayerGroups(load_model(arch, pretrained=False).model)
    groups.freeze()
    text = text_of(groups_report(groups))
    assert "frozen" in text
    assert "late begins here:" in text
    for group in groups:
        assert f"{sum(p.numel() for p in group.parameters()):,d}" in text
