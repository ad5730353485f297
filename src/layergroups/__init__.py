"""Transfer learning for any PyTorch model, organised by layer groups.

The names below load when they are first used, so that `import layergroups` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Anatomy": "anatomy",
    "BinaryCrossEntropy": "training",
    "BinaryFocalLoss": "training",
    "CSVLog": "training",
    "CrossEntropy": "training",
    "Cut": "models",
    "CutMix": "training",
    "DataError": "errors",
    "EarlyStopping": "training",
    "FocalLoss": "training",
    "History": "training",
    "Huber": "training",
    "ImageDataLoaders": "data",
    "InputSpec": "input_spec",
    "Interpretation": "reports",
    "L1": "training",
    "LayerGroup": "groups",
    "LayerGroups": "groups",
    "LayerGroupsError": "errors",
    "LayerGroupsWarning": "errors",
    "Learner": "training",
    "LivePlot": "training",
    "MeanSquaredError": "training",
    "MixUp": "training",
    "ProgressiveSizes": "training",
    "ReduceLROnPlateau": "training",
    "RunReport": "reports",
    "SaveBest": "training",
    "StopOnNaN": "training",
    "Trackers": "training",
    "Transplant": "checkpoints",
    "change_input_channels": "models",
    "cnn_learner": "training",
    "create_body": "models",
    "create_head": "models",
    "decay": "groups",
    "grad_cam": "reports",
    "grow_head": "models",
    "list_models": "models",
    "load_learner": "training",
    "load_model": "models",
    "read_anatomy": "anatomy",
    "replace_head": "models",
    "shrink_head": "models",
    "transplant": "checkpoints",
    "vision_learner": "training",
}

__all__ = [
    "L1",
    "Anatomy",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "CSVLog",
    "CrossEntropy",
    "Cut",
    "CutMix",
    "DataError",
    "EarlyStopping",
    "FocalLoss",
    "History",
    "Huber",
    "ImageDataLoaders",
    "InputSpec",
    "Interpretation",
    "LayerGroup",
    "LayerGroups",
    "LayerGroupsError",
    "LayerGroupsWarning",
    "Learner",
    "LivePlot",
    "MeanSquaredError",
    "MixUp",
    "ProgressiveSizes",
    "ReduceLROnPlateau",
    "RunReport",
    "SaveBest",
    "StopOnNaN",
    "Trackers",
    "Transplant",
    "__version__",
    "change_input_channels",
    "cnn_learner",
    "create_body",
    "create_head",
    "decay",
    "grad_cam",
    "grow_head",
    "list_models",
    "load_learner",
    "load_model",
    "read_anatomy",
    "replace_head",
    "shrink_head",
    "transplant",
    "vision_learner",
]

if TYPE_CHECKING:
    from layergroups.anatomy import Anatomy as Anatomy
    from layergroups.anatomy import read_anatomy as read_anatomy
    from layergroups.checkpoints import Transplant as Transplant
    from layergroups.checkpoints import transplant as transplant
    from layergroups.data import ImageDataLoaders as ImageDataLoaders
    from layergroups.errors import DataError as DataError
    from layergroups.errors import LayerGroupsError as LayerGroupsError
    from layergroups.errors import LayerGroupsWarning as LayerGroupsWarning
    from layergroups.groups import LayerGroup as LayerGroup
    from layergroups.groups import LayerGroups as LayerGroups
    from layergroups.groups import decay as decay
    from layergroups.input_spec import InputSpec as InputSpec
    from layergroups.models import Cut as Cut
    from layergroups.models import change_input_channels as change_input_channels
    from layergroups.models import create_body as create_body
    from layergroups.models import create_head as create_head
    from layergroups.models import grow_head as grow_head
    from layergroups.models import list_models as list_models
    from layergroups.models import load_model as load_model
    from layergroups.models import replace_head as replace_head
    from layergroups.models import shrink_head as shrink_head
    from layergroups.reports import Interpretation as Interpretation
    from layergroups.reports import RunReport as RunReport
    from layergroups.reports import grad_cam as grad_cam
    from layergroups.training import L1 as L1
    from layergroups.training import BinaryCrossEntropy as BinaryCrossEntropy
    from layergroups.training import BinaryFocalLoss as BinaryFocalLoss
    from layergroups.training import CrossEntropy as CrossEntropy
    from layergroups.training import CSVLog as CSVLog
    from layergroups.training import CutMix as CutMix
    from layergroups.training import EarlyStopping as EarlyStopping
    from layergroups.training import FocalLoss as FocalLoss
    from layergroups.training import History as History
    from layergroups.training import Huber as Huber
    from layergroups.training import Learner as Learner
    from layergroups.training import LivePlot as LivePlot
    from layergroups.training import MeanSquaredError as MeanSquaredError
    from layergroups.training import MixUp as MixUp
    from layergroups.training import ProgressiveSizes as ProgressiveSizes
    from layergroups.training import ReduceLROnPlateau as ReduceLROnPlateau
    from layergroups.training import SaveBest as SaveBest
    from layergroups.training import StopOnNaN as StopOnNaN
    from layergroups.training import Trackers as Trackers
    from layergroups.training import cnn_learner as cnn_learner
    from layergroups.training import load_learner as load_learner
    from layergroups.training import vision_learner as vision_learner


def __getattr__(name: str) -> Any:
    """Load a public name from its room when it is first used."""
    if name not in _HOMES:
        names = importlib.import_module("layergroups._fastai_names")
        here = names.attribute_here(["layergroups"], name) or f"it exports {', '.join(__all__)}"
        raise AttributeError(f"layergroups has no name {name!r}; {here}")
    value = getattr(importlib.import_module(f"layergroups.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
