"""Checkpoints and exported models, stored by name in safetensors and JSON."""

from layergroups.checkpoints._export_file import (
    ENDINGS,
    INPUT,
    Portable,
    trial_pixels,
    write_portable,
)
from layergroups.checkpoints._export_folder import (
    DESCRIPTION,
    Blueprint,
    Exported,
    described_head,
    load_export,
    read_export,
    rebuild,
    why_not_rebuilt,
    write_export,
)
from layergroups.checkpoints._file import Saved, Series, atomic_write, read, write, write_text
from layergroups.checkpoints._state_dicts import (
    check_optimizer,
    check_weights,
    copy_weights,
    fitting_weights,
    join_tensors,
    load_optimizer_state,
    load_random_state,
    load_weights,
    optimizer_state,
    random_state,
    split_tensors,
    under_prefix,
    with_prefix,
)
from layergroups.checkpoints._transplant import TensorReport, Transplant, transplant

__all__ = [
    "DESCRIPTION", "ENDINGS", "INPUT", "Blueprint", "Exported", "Portable", "Saved", "Series",
    "TensorReport", "Transplant", "atomic_write", "check_optimizer",
    "check_weights", "copy_weights", "described_head", "fitting_weights", "join_tensors",
    "load_export", "load_optimizer_state", "load_random_state", "load_weights",
    "optimizer_state", "random_state", "read", "read_export", "rebuild", "split_tensors",
    "transplant", "trial_pixels", "under_prefix", "why_not_rebuilt", "with_prefix", "write",
    "write_export", "write_portable", "write_text",
]  # fmt: skip
