"""Looks at a model and changes nothing: its blocks, its head, where it can be divided and why."""

from layergroups.anatomy.anatomy import Anatomy, read_anatomy
from layergroups.anatomy.blocks import Block
from layergroups.anatomy.boundaries import Boundary, choose_split, choose_splits
from layergroups.anatomy.flow import Flow, is_flat
from layergroups.anatomy.head import Classifier, Head, find_head
from layergroups.anatomy.looking import unwrap
from layergroups.anatomy.trace import Call, Op, Trace, output_shape, trace

__all__ = [
    "Anatomy",
    "Block",
    "Boundary",
    "Call",
    "Classifier",
    "Flow",
    "Head",
    "Op",
    "Trace",
    "choose_split",
    "choose_splits",
    "find_head",
    "is_flat",
    "output_shape",
    "read_anatomy",
    "trace",
    "unwrap",
]
