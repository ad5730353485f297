"""Colours of the page have the contrast that they need."""

from __future__ import annotations

import re

from layergroups.reports.page._colours import DARK, LIGHT, cell_styles, contrast, visible


def test_colours_can_be_told_from_the_ground_and_text_can_be_read() -> None:
    for colour in ("#0b559f", "#5aaedb", "#d55e00", "#fde725", "#ffffff", "#000000"):
        assert contrast(visible(colour, LIGHT), LIGHT) >= 3
        assert contrast(visible(colour, DARK), DARK) >= 3
    shades = re.findall(r"background:(#\w{6});color:(#\w{6})", cell_styles())
    assert len(shades) == 44
    assert min(contrast(*pair) for pair in shades) >= 4.5
