"""Where models come from: a catalog of architectures, bodies cut from them, heads put on them."""

from layergroups.models.assembly import Assembled, assemble, body_before, create_body
from layergroups.models.catalog import LoadedModel, list_models, load_model
from layergroups.models.cut import Cut
from layergroups.models.head_description import describe_head, head_from_description
from layergroups.models.head_surgery import grow_head, replace_head, shrink_head
from layergroups.models.heads import AdaptiveConcatPool2d, create_head
from layergroups.models.input_surgery import InputChange, change_input_channels
from layergroups.models.output_layers import SigmoidRange, TargetUnits
from layergroups.models.side_by_side import SideBySide

__all__ = [
    "AdaptiveConcatPool2d",
    "Assembled",
    "Cut",
    "InputChange",
    "LoadedModel",
    "SideBySide",
    "SigmoidRange",
    "TargetUnits",
    "assemble",
    "body_before",
    "change_input_channels",
    "create_body",
    "create_head",
    "describe_head",
    "grow_head",
    "head_from_description",
    "list_models",
    "load_model",
    "replace_head",
    "shrink_head",
]
