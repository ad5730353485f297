"""Every notebook in examples/notebooks runs, and shows its outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples/notebooks"


def notebooks() -> list[str]:
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the client's sockets
@pytest.mark.parametrize("name", notebooks())
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("name", notebooks())
def test_a_notebook_is_stored_with_its_outputs(name: str) -> None:
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)


def test_there_are_three() -> None:
    assert notebooks() == ["first_steps", "groups_of_any_model", "own_data"]
