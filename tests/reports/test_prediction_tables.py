"""Tables say what they should, and take names as they are."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from layergroups.reports import ConfusionMatrix, per_class_table


def text_of(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_names_are_text() -> None:
    confusion = ConfusionMatrix(((3, 1), (0, 0)), ("[bold]cat", "dog"))
    assert "[bold]cat" in text_of(per_class_table(confusion))


def test_classes() -> None:
    confusion = ConfusionMatrix(((3, 1), (0, 0)), ("cat", "dog"))
    lines = [line.split() for line in text_of(per_class_table(confusion)).splitlines()]
    assert ["cat", "4", "3", "0.750", "1.000", "dog", "(1)"] in lines
    assert ["dog", "0", "0", "-", "0.000"] in lines
