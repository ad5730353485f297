"""Code outside of tasks/ never asks which task it is, be it by comparison, dictionary or match."""

from __future__ import annotations

import ast
from pathlib import Path

import layergroups
from layergroups.tasks import TASKS

PACKAGE = Path(layergroups.__file__).parent
NAMES = {*TASKS, "single", "multi"}


def questions(source: str) -> list[str]:
    """Where the name of a task is compared, is a key, an index, a case, or a default value."""
    found = []
    for node in ast.walk(ast.parse(source)):
        asked: list[ast.expr | None] = []
        match node:
            case ast.Compare():
                asked = [node.left, *node.comparators]
            case ast.Dict():
                asked = list(node.keys)
            case ast.MatchValue():
                asked = [node.value]
            case ast.Call(func=ast.Attribute(attr="get"), args=[first, *_]):
                asked = [first]
        named = [part for expr in asked if expr is not None for part in ast.walk(expr)]
        if any(isinstance(part, ast.Constant) and part.value in NAMES for part in named):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_only_tasks_ask_which_task_it_is() -> None:
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    outside = [path for path in files if path.parts[0] != "tasks"]
    found = {str(path): questions((PACKAGE / path).read_text("utf-8")) for path in outside}
    assert {path: asked for path, asked in found.items() if asked} == {}


def test_the_search_finds_each_kind_of_question() -> None:
    for code in (
        'task == "multilabel"',
        'x = 1 if "regression" != task else 2',
        'task in ("multilabel", "regression")',
        'words = {"multiclass": "class"}[task]',
        'match task:\n    case "multiclass":\n        pass',
        'words.get("single")',
    ):
        assert questions(code), code
    assert not questions('task = TASKS["multiclass"]')
    assert not questions('raise DataError("give task=multilabel")')
