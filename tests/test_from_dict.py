"""Dataclasses from JSON: by the types of their fields, and strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from layergroups._from_dict import from_dict


@dataclass(frozen=True)
class Inner:
    rate: float
    flag: bool = False


@dataclass(frozen=True)
class Outer:
    name: str
    sizes: tuple[int, ...]
    pair: tuple[str, float]
    inner: tuple[Inner, ...] = ()
    maybe: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    first: Inner | None = None
    anything: Any = None


VALUE = Outer(
    "a", (1, 2), ("x", 0.5), (Inner(1.0), Inner(2.0, True)), None, {"f1": 0.5}, Inner(3.0), [1]
)


def test_there_and_back_through_json() -> None:
    assert from_dict(Outer, json.loads(json.dumps(asdict(VALUE)))) == VALUE


def test_whole_numbers_become_floats_and_defaults_may_be_missing() -> None:
    found = from_dict(Outer, {"name": "a", "sizes": [], "pair": ["x", 1]})
    assert found == Outer("a", (), ("x", 1.0))
    assert isinstance(found.pair[1], float)


def test_entries_that_json_could_not_hold_are_left_out() -> None:
    values = asdict(VALUE) | {"figures": {"f1": None, "mae": 2}}
    assert from_dict(Outer, values).figures == {"mae": 2.0}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": 3}, "name"), ({"sizes": "ab"}, "sizes"), ({"sizes": [1, "b"]}, "sizes[1]"),
        ({"sizes": [True]}, "sizes[0]"), ({"pair": ["x"]}, "pair"), ({"maybe": "0.5"}, "maybe"),
        ({"inner": [{"rate": 1.0}, {"rate": "x"}]}, "inner[1].rate"),
        ({"inner": [{"flag": True}]}, "inner[0].rate"), ({"first": [1]}, "first"),
        ({"first": {"rate": 1.0, "rat": 2}}, "first.rat"), ({"figures": {"f1": "x"}}, "figures.f1"),
        ({"figures": [1]}, "figures"), ({"other": 1}, "other"),
    ],
)  # fmt: skip
def test_a_wrong_field_names_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError) as raised:
        from_dict(Outer, asdict(VALUE) | change)
    assert str(raised.value).startswith(f"{path}: ")
