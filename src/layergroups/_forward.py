"""How a batch goes through a model, for all that run one: dry run, loop, evaluation, cache, export.

Inputs are a tensor, a tuple or list of arguments, or a dict of keyword arguments. Outputs are a
tensor, a dict with "logits" or "out", or an object with `.logits`, as the models of transformers
and torchvision give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from torch import Tensor

from layergroups._call_errors import call_error
from layergroups._torch import tree_leaves, tree_map_only
from layergroups.errors import TrainingError


def split_batch(batch: object) -> tuple[Any, Tensor | None]:
    """Inputs and targets; targets are None for a batch of inputs only.

    Args:
        batch: a pair (inputs, targets), a tensor or a dict of inputs; of a dict, "labels" are the
            targets.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in batch if name != "labels"}, batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, str | PathLike):
        raise TrainingError(
            f"Batches are expected, not files such as {str(batch)!r}: "
            "learn.get_preds(learn.dls.test_dl(files)), or learn.iter_preds(files)."
        )
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TrainingError(
        "A batch must be a pair (inputs, targets), a tensor of inputs, or a dict of them, not a "
        f"{type(batch).__name__}{size}. Several inputs go in the first place of the pair."
    )


def labelled(batch: object) -> tuple[Any, Tensor]:
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


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def logits_of(outputs: Any) -> Any:
    """What of a model's outputs answers the task: its "logits" or "out" where it has them."""
    if isinstance(outputs, Mapping):
        for key in ("logits", "out"):
            if key in outputs:
                return outputs[key]
        return dict(outputs)
    return getattr(outputs, "logits", outputs)


def tensor_of(outputs: Any) -> Tensor:
    """The logits, which a loss can take."""
    logits = logits_of(outputs)
    if isinstance(logits, Tensor):
        return logits
    has = f" with the keys {', '.join(map(str, logits))}" if isinstance(logits, dict) else ""
    raise TrainingError(
        f"The model gives a {type(outputs).__name__}{has}, from which no loss can be taken. Its "
        'outputs must be a tensor, a dict with "logits" or "out", or an object with .logits; for '
        "any other give Learner a module whose forward returns the tensor."
    )


def run_model(model: Callable[..., Any], inputs: Any) -> Any:
    args, kwargs = as_call(inputs)
    return model(*args, **kwargs)


def call_model(model: Callable[..., Any], inputs: Any) -> Tensor:
    try:
        outputs = run_model(model, inputs)
    except (RuntimeError, ValueError) as error:
        if wrong := call_error(model, inputs, error):
            raise TrainingError(f"The model cannot run: {wrong}") from error
        raise
    return tensor_of(outputs)


def single_batch(item: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.unsqueeze(0), item)
