"""What all pictures have in common: text that fits, and colours."""

from __future__ import annotations

import pytest

from layergroups._drawing import fitted, group_colours, text_width, wrapped


def test_text_is_fitted_and_wrapped() -> None:
    assert fitted("short", 5, 9) == "short"
    shorter = fitted("encoder.layers.encoder_layer_11", 1, 9)
    assert "…" in shorter
    assert shorter.endswith("_11")
    assert text_width(shorter, 9) <= 1
    lines = wrapped("one two three four five six", 0.8, 9)
    assert len(lines) > 1
    assert " ".join(lines) == "one two three four five six"


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_every_group_has_its_colour(n: int) -> None:
    colours = group_colours(n, True)
    assert len(set(colours)) == len(colours) == n + 1
