"""Names of the data's contract that the tasks still import from here; see `data/_source.py`."""

from __future__ import annotations

from layergroups.data import TrainValid as Loaders
from layergroups.data import data_source

__all__ = ["Loaders", "class_names", "n_classes"]


def class_names(dls: object) -> tuple[str, ...]:
    """The names of the classes; empty if the data have none."""
    return data_source(dls).vocab


def n_classes(dls: object) -> int:
    """The number of classes; 0 if the data do not tell."""
    return data_source(dls).n_outputs
