"""How a batch is made of inputs and targets, for all who read batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from layergroups.errors import TrainingError


def split_batch(batch: object) -> tuple[Any, Tensor | None]:
    """Inputs and targets; targets are None for a batch of inputs only.

    Raises:
        TrainingError: the batch is neither a tensor nor a pair.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TrainingError(
        "A batch must be a tensor of inputs or a pair (inputs, targets), not a "
        f"{type(batch).__name__}{size}."
    )


def labelled(batch: object) -> tuple[Any, Tensor]:
    """Inputs and targets.

    Raises:
        TrainingError: the batch has no targets.
    """
    inputs, targets = split_batch(batch)
    if targets is None:
        raise TrainingError("Training and validation need batches (inputs, targets).")
    return inputs, targets


def count_items(batch: object) -> int:
    """Items in a batch: its targets, or its inputs where it has none."""
    inputs, targets = split_batch(batch)
    if targets is not None:
        return len(targets)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return len(tensors[0]) if tensors else len(inputs)
