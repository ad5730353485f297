"""Looks at a model and changes nothing: its blocks, its head, where it can be divided and why."""

from layergroups._torch import unwrap
from layergroups.anatomy._anatomy import Anatomy, first_trace, read_anatomy
from layergroups.anatomy._blocks import Block
from layergroups.anatomy._dataflow import Flow, is_vector, spatial_size
from layergroups.anatomy._head import Classifier, Head, find_head
from layergroups.anatomy._restoring import Snapshot, differentiable, eval_mode, restoring
from layergroups.anatomy._splits import (
    Boundary,
    SplitCandidate,
    choose_splits,
    has_decoder,
    split_candidates,
    towers_of,
)
from layergroups.anatomy._trace import (
    INPUT,
    Call,
    Op,
    Trace,
    describe_input,
    output_shape,
    trace,
)

__all__ = [
    "INPUT",
    "Anatomy",
    "Block",
    "Boundary",
    "Call",
    "Classifier",
    "Flow",
    "Head",
    "Op",
    "Snapshot",
    "SplitCandidate",
    "Trace",
    "choose_splits",
    "describe_input",
    "differentiable",
    "eval_mode",
    "find_head",
    "first_trace",
    "has_decoder",
    "is_vector",
    "output_shape",
    "read_anatomy",
    "restoring",
    "spatial_size",
    "split_candidates",
    "towers_of",
    "trace",
    "unwrap",
]
