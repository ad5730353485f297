"""The names of the tasks, and those that older files use."""

from __future__ import annotations

from typing import Final

OLD_NAMES: Final = {"single": "multiclass", "multi": "multilabel"}  # until version 0.1


def task_named(name: object) -> str:
    """The task that a saved file names: checkpoints, exports and records of older versions too."""
    return OLD_NAMES.get(str(name), str(name))
