"""Paths of modules within a model ("layer1.0.conv"; "" is the model), and paths of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

from torch import nn

from layergroups.errors import LayerGroupsError


def parent(path: str) -> str:
    """The path of the module that holds a module or a parameter."""
    return path.rpartition(".")[0]


def layer_of(name: str) -> str:
    """The path of the layer that a parameter belongs to, whether or not it is parametrized."""
    return f".{parent(name)}.".partition(".parametrizations.")[0].strip(".")


def ancestors(path: str) -> Iterator[str]:
    """The paths above a path, nearest first, ending with ""."""
    while path:
        path = parent(path)
        yield path


def is_within(path: str, place: str) -> bool:
    """Whether a path is that of a place or of what is inside it; all is inside the model."""
    return not place or path == place or path.startswith(f"{place}.")


def join(place: str, rest: str) -> str:
    return f"{place}.{rest}" if place and rest else place or rest


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a path, of scripted models too; AttributeError where there is none."""
    found: nn.Module = reduce(getattr, path.split("."), model) if path else model
    return found


def leaves(model: nn.Module) -> list[str]:
    """The paths of the modules without children, in the order of registration."""
    return [path for path, module in model.named_modules() if not any(module.children())]


def cache_folder() -> Path:
    """`$LAYERGROUPS_CACHE`, or "layergroups" in the user's cache folder."""
    own = os.environ.get("LAYERGROUPS_CACHE")
    if own:
        return Path(own)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # the XDG rules: a relative path is ignored
        return base / "layergroups"
    try:
        return Path.home() / ".cache" / "layergroups"
    except RuntimeError as cause:
        raise LayerGroupsError(
            "There is no home folder for cached files: set LAYERGROUPS_CACHE to a folder."
        ) from cause


def path_of(value: object, error: type[LayerGroupsError], right: str) -> Path:
    """A path, of text or of another path."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise error(f"{_short(value)} is not a path; expected one such as {right}.")
    if "\0" in text:
        raise error(f"{text!r} has a NUL, which paths cannot have; expected one such as {right}.")
    return Path(text)


def _short(value: object) -> str:
    """A value as it would be typed, or its kind where that is long."""
    text = repr(value)
    plain = value is None or value == "" or isinstance(value, bool | int | float)
    return text if plain else f"A {type(value).__name__}"
