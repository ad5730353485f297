"""Errors for names that do not exist: they give the nearest name that does."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from layergroups.errors import ArgumentError, NoAttributeError

FROM_FASTAI: Final = (
    "Coming from fastai? docs/coming-from/fastai-names.md lists what each name is here."
)


def nearest(name: str, known: Iterable[str], end: str = "", start: str = "") -> str:
    """A sentence with the name that was perhaps meant; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {start}{near[0]}{end}?" if near else ""


def nearest_folder(path: Path, holding: str = "") -> str:
    """The same for a folder that does not exist, among those beside it that hold this file."""
    try:
        names = [each.name for each in path.parent.iterdir() if (each / holding).exists()]
    except OSError:
        return ""
    return nearest(path.name, names, start=str(path).removesuffix(path.name))


def unknown_argument(call: str, name: str, known: Iterable[str]) -> ArgumentError:
    """The error for an argument that a call does not have."""
    known = list(dict.fromkeys(known))
    return ArgumentError(
        f"{call} has no argument {name}=.{nearest(name, known, '=')} It takes {', '.join(known)}. "
        + FROM_FASTAI
    )


def unknown_option(function: Callable[..., Any], name: str, more: Iterable[str]) -> ArgumentError:
    """The same for a function that takes further arguments by `**`, listed in `more`."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    takes = inspect.signature(function).parameters.values()
    own = [each.name for each in takes if each.kind not in kinds and each.name != "self"]
    owner = getattr(function, "__self__", None)  # the class of a class method
    call = f"{owner.__name__}." if isinstance(owner, type) else ""
    return unknown_argument(f"{call}{function.__name__}", name, [*own, *more])


def unknown_attribute(kind: type, name: str, known: Iterable[str]) -> NoAttributeError:
    hint = "" if name.startswith("_") else f"{nearest(name, known)} {FROM_FASTAI}"
    if name in (elsewhere := getattr(kind, "_elsewhere", {})):
        hint = f" {elsewhere[name]}"
    # obj=None: Python must not add a second suggestion, nor keep the object alive.
    return NoAttributeError(f"{kind.__name__} has no attribute {name}.{hint}", name=name, obj=None)


class SuggestsNames:
    """Reading an attribute that does not exist raises an error with the nearest public name.

    `_elsewhere` holds answers to names of other libraries that no name of ours is near.
    """

    _elsewhere: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # else a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            kind = type(self)
            if any(name in vars(each) for each in kind.__mro__):
                # A property raised AttributeError: reading it again lets that error through.
                return object.__getattribute__(self, name)
            raise unknown_attribute(kind, name, [n for n in dir(self) if not n.startswith("_")])
