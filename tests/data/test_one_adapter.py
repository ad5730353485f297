"""One file asks what an object that holds data has; all others use `DataSource`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import layergroups

PACKAGE = Path(layergroups.__file__).parent
ADAPTER = PACKAGE / "data" / "_source.py"
DATA = re.compile(r"\b(dls|data|train|valid|batches|loader|loaders|sampler|photos|items)$")


def asked_of_data(path: Path) -> list[str]:
    """The calls of getattr and hasattr whose object is named as data are."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
             and node.func.id in ("getattr", "hasattr")]  # fmt: skip
    return [ast.unparse(call) for call in calls if DATA.search(ast.unparse(call.args[0]))]


def test_only_the_adapter_looks_for_attributes_of_data() -> None:
    found = {path.relative_to(PACKAGE): asked_of_data(path) for path in PACKAGE.rglob("*.py")}
    found.pop(ADAPTER.relative_to(PACKAGE))
    found.pop(Path("integrations/lightning.py"))  # asks Lightning's own loaders
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_the_search_finds_such_calls() -> None:
    assert asked_of_data(ADAPTER)
