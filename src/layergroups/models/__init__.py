"""Create models: load an architecture, cut its body, attach a head, adapt inputs and outputs."""

from layergroups.models._catalog import LoadedModel, check_network, list_models, load_model
from layergroups.models._cut import Assembled, Cut, apply_cut, assemble, create_body
from layergroups.models._decoder import DECODERS, Decoder
from layergroups.models._depths import ChannelStatistics, DepthFeatures
from layergroups.models._head_surgery import (
    all_or_nothing,
    classifier_layers,
    grow_head,
    is_linear,
    replace_head,
    shrink_head,
)
from layergroups.models._heads import (
    AdaptiveConcatPool2d,
    ConcatLinear,
    DepthDropout,
    SigmoidRange,
    TargetUnits,
    checked_range,
    create_head,
    describe_head,
    head_from_description,
    outputs_of,
)
from layergroups.models._input_channels import InputChange, change_input_channels, with_channels
from layergroups.models._segmenter import (
    Segmenter,
    assemble_segmenter,
    model_of,
)
from layergroups.models._text_encoder import (
    POOLINGS,
    BodyWithHead,
    TextEncoder,
    build_text_encoder,
    check_tokens,
    describe_text_encoder,
    load_text_encoder,
    measured_features,
)
from layergroups.models._weights import compare, read_weights

__all__ = [
    "DECODERS", "POOLINGS", "AdaptiveConcatPool2d", "Assembled", "BodyWithHead",
    "ChannelStatistics", "ConcatLinear", "Cut", "Decoder", "DepthDropout", "DepthFeatures",
    "InputChange", "LoadedModel", "Segmenter", "SigmoidRange", "TargetUnits", "TextEncoder",
    "all_or_nothing", "apply_cut", "assemble", "assemble_segmenter", "build_text_encoder",
    "change_input_channels", "check_network", "check_tokens", "checked_range", "classifier_layers",
    "compare", "create_body", "create_head", "describe_head", "describe_text_encoder", "grow_head",
    "head_from_description", "is_linear", "list_models", "load_model", "load_text_encoder",
    "measured_features", "model_of", "outputs_of", "read_weights", "replace_head",
    "shrink_head", "with_channels",
]  # fmt: skip
