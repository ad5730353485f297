"""Nested values with tensors in them, as named tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from layergroups.errors import CheckpointError

_PLAIN: Final = (bool, int, float, str, type(None))
_TENSOR: Final = "__tensor__"


def split_tensors(value: Any, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of nested dicts, lists and tuples.

    Args:
        value: dicts with string keys, lists, tuples (they come back as lists), plain values, and
            tensors.
        prefix: begins the name of every tensor.

    Returns:
        The tensors by name, and the same value with the names in their places.

    Raises:
        CheckpointError: something else is in it, which could not be saved without pickle.
    """
    if isinstance(value, Tensor):
        return {prefix: value}, {_TENSOR: prefix}
    if isinstance(value, _PLAIN):
        return {}, value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        parts = {k: split_tensors(v, f"{prefix}/{k}") for k, v in value.items()}
        return _joined(parts.values()), {k: plain for k, (_, plain) in parts.items()}
    if isinstance(value, (list, tuple)):
        listed = [split_tensors(v, f"{prefix}/{i}") for i, v in enumerate(value)]
        return _joined(listed), [plain for _, plain in listed]
    raise CheckpointError(
        f"{prefix} is a {type(value).__name__}; a state that is saved may hold dicts with string "
        "keys, lists, numbers, strings and tensors, and nothing that would need pickle."
    )


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_tensors`.

    Raises:
        CheckpointError: a tensor that the value names is not there.
    """
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            if value[_TENSOR] not in tensors:
                raise CheckpointError(f"The tensor {value[_TENSOR]} is missing in the file.")
            return tensors[value[_TENSOR]]
        return {key: join_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [join_tensors(part, tensors) for part in value]
    return value


def _joined(parts: Any) -> dict[str, Tensor]:
    return {name: tensor for tensors, _ in parts for name, tensor in tensors.items()}
