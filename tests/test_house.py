"""The order of the files: no name twice, and a test file for each source file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src/layergroups"
LONG = 150  # lines from which a source file needs a test file of its name

# This list should only shrink.
WITHOUT_TEST_FILE = {
    "_app": "each command has a test file of its own in tests/cli",
    "_fit_context": "what callbacks see of it is tested in test_events.py and test_loop.py",
    "_processes": "tested in test_distributed.py, which starts the processes once for all",
    "_replicas": "tested in test_distributed.py, which starts the processes once for all",
}
STRUCTURAL = {  # tests of more than one source file
    "test_coverage_sample": "a sample of the networks of timm",
    "test_distributed": "real second processes",
    "test_docs": "every block of the documentation runs",
    "test_examples": "every example runs",
    "test_format_2": "files of an earlier format are read",
    "test_hostile_files": "exports and checkpoints with changed bytes",
    "test_hostile_images": "images of every format with changed bytes",
    "test_hostile_tables": "tables with changed bytes",
    "test_house": "this file",
    "test_killed": "real runs of other loops, killed and resumed",
    "test_killed_runs": "layergroups train under signals and on a full disk",
    "test_kinds_of_models": "what anatomy, groups and replace_head make of each kind of model",
    "test_lightning_situations": "what the tests of peers of the Lightning callback are about",
    "test_new_task": "a task made outside the package",
    "test_one_adapter": "where attributes of data are looked up",
    "test_one_place": "where the task is asked for",
    "test_notebooks": "every notebook runs",
    "test_packaging": "what is in the wheel and the source distribution",
    "test_page_in_browser": "the page of a run in a real browser",
    "test_typing": "a user's program under type checkers",
    "test_texts": "a model of texts from a table to predictions, by commands alone",
    "test_task_files": "from a table to a file that runs alone",
}


def sources() -> list[Path]:
    return [p for p in SOURCE.rglob("*.py") if not p.stem.startswith("__")]


def files_of_tests() -> list[Path]:
    return [p for p in TESTS.rglob("test_*.py") if "laws" not in p.relative_to(TESTS).parts]


def twice(files: Iterable[Path]) -> list[str]:
    return sorted(name for name, n in Counter(p.name for p in files).items() if n > 1)


def untested(lengths: dict[str, int], test_files: set[str]) -> list[str]:
    """The names of long source files that no test file is named after."""
    return sorted(
        name
        for name, lines in lengths.items()
        if lines > LONG and f"test_{name.lstrip('_')}" not in test_files
    )


def test_no_file_name_stands_twice() -> None:
    assert sources()
    assert twice(sources()) == []


def test_every_long_source_file_has_a_test_file_of_its_name() -> None:
    lengths = {p.stem: len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    assert untested(lengths, {p.stem for p in files_of_tests()}) == sorted(WITHOUT_TEST_FILE)


def test_every_test_file_is_named_after_a_source_file() -> None:
    named = {f"test_{p.stem.lstrip('_')}" for p in sources()}
    assert sorted({p.stem for p in files_of_tests()} - named) == sorted(STRUCTURAL)


def test_the_search_finds_each_fault() -> None:
    assert twice([Path("a/_x.py"), Path("b/_x.py"), Path("b/_y.py")]) == ["_x.py"]
    assert untested({"_long": LONG + 1, "_short": LONG, "_tested": 999}, {"test_tested"}) == [
        "_long"
    ]
