"""What all pictures have in common: text that fits, and colours."""

from __future__ import annotations

import pytest

from layergroups._drawing import fitted, group_colours


def test_text_is_fitted() -> None:
    assert fitted("short", 5, 9) == "short"
    shorter = fitted("encoder.layers.encoder_layer_11", 1, 9)
    assert "…" in shorter
    assert shorter.endswith("_11")
    assert len(shorter) < 20


def test_names_with_line_breaks_are_drawn_in_one_line() -> None:
    assert fitted("new\nline\tand more", 5, 9) == "new line and more"  # warnings are errors


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_every_group_has_its_colour(n: int) -> None:
    colours = group_colours(n, True)
    assert len(set(colours)) == len(colours) == n + 1
