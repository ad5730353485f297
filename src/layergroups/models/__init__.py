"""Where models come from: a catalog of architectures, bodies cut from them, heads put on them."""

from layergroups.models.assembly import Assembled, assemble, body_before, create_body
from layergroups.models.catalog import LoadedModel, list_models, load_model
from layergroups.models.cut import Cut
from layergroups.models.head_description import describe_head, head_from_description
from layergroups.models.head_surgery import replace_head
from layergroups.models.heads import AdaptiveConcatPool2d, create_head

__all__ = [
    "AdaptiveConcatPool2d",
    "Assembled",
    "Cut",
    "LoadedModel",
    "assemble",
    "body_before",
    "create_body",
    "create_head",
    "describe_head",
    "head_from_description",
    "list_models",
    "load_model",
    "replace_head",
]
