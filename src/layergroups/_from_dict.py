"""Dataclasses from JSON values, by the types of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

_Made = TypeVar("_Made")
_IN_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"
}  # fmt: skip


def from_dict(kind: type[_Made], values: object, path: str = "") -> _Made:
    """The inverse of `dataclasses.asdict`, also after a round through JSON.

    Lists become tuples again and whole numbers floats where the field says so. JSON has no nan: an
    entry of a mapping that is None is left out where the mapping's values cannot be None. A text
    becomes a path where the field says so.

    Args:
        kind: a dataclass; fields with a default may be missing. A field whose metadata has "was" is
            also known by this older name.
        values: its fields by name.
        path: of the values in a larger whole, for messages.
    """
    if not isinstance(values, Mapping):
        raise ValueError(_wrong(path or kind.__name__, "an object", values))
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type] # a dataclass
    older = {
        field.metadata["was"]: name for name, field in known.items() if "was" in field.metadata
    }
    given: dict[str, Any] = {older.get(n, n): value for n, value in dict(values).items()}
    before = f"{path}." if path else ""
    for name in given:
        if name not in known:
            raise ValueError(f"{before}{name}: {kind.__name__} has no such field")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{before}{name}: is missing")
    return kind(**{n: _value(hints[n], value, f"{before}{n}") for n, value in given.items()})


def _value(kind: Any, value: object, path: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if type(None) in inner:  # X | None
        return None if value is None else _value(inner[0], value, path)
    if is_dataclass(kind):
        return from_dict(kind, value, path)  # type: ignore[arg-type] # a class, not an instance
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_value(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(pairs))
    elif origin is list and isinstance(value, list):
        return [_value(inner[0], v, f"{path}[{i}]") for i, v in enumerate(value)]
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        optional = inner[1] is Any or type(None) in get_args(inner[1])
        return {
            _value(inner[0], key, path): _value(inner[1], v, f"{path}.{key}")
            for key, v in value.items()
            if v is not None or optional
        }
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif origin is None and (type(value) is kind or (kind is not int and isinstance(value, kind))):
        return value
    raise ValueError(_wrong(path, _IN_WORDS.get(kind, getattr(kind, "__name__", str(kind))), value))


def _wrong(path: str, expected: str, value: object) -> str:
    return f"{path}: expected {expected}, not {value!r:.80}"
