"""Colours of the page, light and dark, with the contrast that WCAG 2.2 requires."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

Colour = tuple[float, float, float]
CORRECT: Final = (46, 125, 190)  # of a heat map, on light and dark
WRONG: Final = (216, 100, 20)
LIGHT: Final = "#ffffff"  # background of charts
DARK: Final = "#1b2128"
INK: Final = "#1b2733"
PAPER: Final = "#f3f5f7"
LEVELS: Final = 10  # shades of a cell of the confusion matrix
_GRAPHICS: Final = 3.0  # contrast that WCAG 2.2 asks of lines and areas
_TEXT: Final = 4.5  # and of text
_KINDS: Final = {"right": ("#0b559f", "#5aa7e0"), "wrong": ("#c04f00", "#f08a3c")}
_HEX: Final = re.compile(r"#[0-9a-fA-F]{6}")


def safe_colour(text: str) -> str:
    """The colour if it is valid, "#rrggbb"; else grey."""
    return text if _HEX.fullmatch(text) else "#808080"


def visible(colour: str, background: str, least: float = _GRAPHICS) -> str:
    """The colour, darkened or lightened until its contrast with the background suffices."""
    goal = (0.0, 0.0, 0.0) if _luminance(_rgb(background)) > 0.5 else (1.0, 1.0, 1.0)
    own = _rgb(colour)
    for step in range(21):
        mixed = _mixed(own, goal, step / 20)
        if contrast(_hex(mixed), background) >= least:
            return _hex(mixed)
    return _hex(goal)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1..21, as WCAG 2.2 defines it."""
    low, high = sorted((_luminance(_rgb(one)), _luminance(_rgb(other))))
    return (high + 0.05) / (low + 0.05)


def group_styles(scope: str, colours: Sequence[str]) -> Markup:
    """The colours of layer groups as CSS variables --g0, --g1, … of an element, light and dark."""
    light, dark = (
        "".join(f"--g{i}:{visible(safe_colour(c), back)};" for i, c in enumerate(colours))
        for back in (LIGHT, DARK)
    )
    lines = "".join(f".g{i}{{stroke:var(--g{i})}}" for i in range(len(colours)))
    return Markup(_both(f"{scope}{{{light}}}", f"{scope}{{{dark}}}") + lines)


def cell_styles() -> Markup:
    """The shades of the cells of a confusion matrix, with readable text on each."""
    rules: tuple[list[str], list[str]] = ([], [])
    for kind, colours in _KINDS.items():
        for theme, (colour, back) in enumerate(zip(colours, (LIGHT, DARK), strict=True)):
            for level in range(LEVELS + 1):
                shade = _hex(_mixed(_rgb(back), _rgb(colour), 0.08 + 0.92 * level / LEVELS))
                text = _readable(shade)
                rules[theme].append(f".matrix .{kind}-{level}{{background:{shade};color:{text}}}")
    return _both("".join(rules[0]), "".join(rules[1]))


def _readable(background: str) -> str:
    known = ("#ffffff", INK, "#000000")
    return next(text for text in known if contrast(text, background) >= _TEXT)


def level(part: float) -> int:
    """The shade for a fraction, 0..1."""
    return round(min(1.0, max(0.0, part)) * LEVELS)


def _both(light: str, dark: str) -> Markup:
    return Markup(f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}")


def _rgb(colour: str) -> Colour:
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return r, g, b


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{round(value * 255):02x}" for value in colour)


def _mixed(one: Colour, other: Colour, part: float) -> Colour:
    r, g, b = (a + (c - a) * part for a, c in zip(one, other, strict=True))
    return r, g, b


def _luminance(colour: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
