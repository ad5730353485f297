"""A learner's state and its export, to files and back."""

from layergroups.training.persistence._learner_export import export, groups_of_export
from layergroups.training.persistence._learner_state_dict import (
    check_resumable,
    put_weights,
    restore,
    save,
    state_of,
    weights_of,
)

__all__ = [
    "check_resumable", "export", "groups_of_export", "put_weights", "restore", "save", "state_of",
    "weights_of",
]  # fmt: skip
