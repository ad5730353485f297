"""Runs cells in a real notebook kernel, and gives what is below each of them at the end."""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat


def outputs_of(*cells: str) -> list[list[Any]]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]
