"""What goes into a model and what comes out of it, in the forms that models take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def as_call(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example input as positional and keyword arguments."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple):
        return example_input, {}
    return (example_input,), {}


def logits_of(out: Any) -> Any:
    """What of a model's output answers the task: its "logits" or "out" where it has them."""
    if isinstance(out, Mapping):
        for key in ("logits", "out"):
            if key in out:
                return out[key]
        return dict(out)
    return getattr(out, "logits", out)


def describe_input(example_input: Any) -> str:
    """The shapes of an example input, for messages."""
    shapes = [
        tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        for t in tree_leaves(example_input)
    ]
    return f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {shapes}"
