"""Paths of modules, and paths of files as people give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from layergroups._paths import (
    ancestors,
    cache_folder,
    is_within,
    join,
    layer_of,
    leaves,
    parent,
    path_of,
)
from layergroups.errors import DataError, LayerGroupsError


@pytest.mark.parametrize(
    ("name", "above", "layer"),
    [
        ("fc.weight", "fc", "fc"),
        ("weight", "", ""),
        ("a.fc.parametrizations.weight.original0", "a.fc.parametrizations.weight", "a.fc"),
        ("parametrizations.weight.original", "parametrizations.weight", ""),
    ],
)
def test_what_holds_a_parameter(name: str, above: str, layer: str) -> None:
    assert (parent(name), layer_of(name)) == (above, layer)


def test_ancestors_end_with_the_model() -> None:
    assert list(ancestors("a.b.c")) == ["a.b", "a", ""]
    assert list(ancestors("")) == []


@pytest.mark.parametrize(
    ("path", "place", "inside"),
    [
        ("a.b", "a", True),
        ("a", "a", True),
        ("ab", "a", False),
        ("a", "a.b", False),
        ("a", "", True),
    ],
)
def test_what_is_within_a_place(path: str, place: str, inside: bool) -> None:
    assert is_within(path, place) == inside


def test_joined_paths_have_no_empty_parts() -> None:
    assert [join(a, b) for a in ("", "x") for b in ("", "y")] == ["", "y", "x", "x.y"]


def test_leaves_have_no_children() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.Identity())
    assert leaves(model) == ["0.0", "0.1", "1"]


def test_paths_of_files() -> None:
    assert path_of("a/b", DataError, "x") == Path("a/b")
    for wrong in (3, None, "", "a\0b", b"bytes"):
        with pytest.raises(DataError, match="such as load"):
            path_of(wrong, DataError, "load('a')")


def test_without_a_home_the_cache_folder_must_be_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "LAYERGROUPS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)  # a user without an entry, as in a container
    with pytest.raises(LayerGroupsError, match="LAYERGROUPS_CACHE"):
        cache_folder()
    monkeypatch.setenv("LAYERGROUPS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
