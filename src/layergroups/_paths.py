"""Paths as people give them, checked before anything is opened or written."""

from __future__ import annotations

import os
from pathlib import Path

from layergroups.errors import LayerGroupsError


def path_of(value: object, error: type[LayerGroupsError], right: str) -> Path:
    """A path, of text or of another path.

    Args:
        value: what was given.
        error: which error to raise.
        right: a call that would be right.

    Raises:
        LayerGroupsError: of the kind `error`; it is no path, or no system could have such a file.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise error(f"{_short(value)} is no path. Right would be {right}.")
    if "\0" in text:
        raise error(f"{text!r} holds the letter NUL, which no path has. Right would be {right}.")
    return Path(text)


def _short(value: object) -> str:
    """A value as it would be typed, or its kind where that is long."""
    text = repr(value)
    plain = value is None or isinstance(value, bool | int | float)
    return text if plain else f"A {type(value).__name__}"
