"""A compiled forward pass beside the model.

`learn.model` stays unwrapped for layer groups, surgery, saving and export. The loop calls the
compiled version, which shares layers and weights; its guards recompile after surgery or freezing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from layergroups._torch import is_compile_error, is_error_of_layers
from layergroups.errors import TrainingError

Compile = bool | Mapping[str, Any] | None
_OPTIONS: Final = frozenset(inspect.signature(torch.compile).parameters) - {"model", "disable"}
_RIGHT: Final = 'compile=True, compile={"mode": "max-autotune"}, or None not to compile'


def checked_compile(compile: Compile) -> dict[str, Any] | None:
    """Arguments of `torch.compile`; None without compiling."""
    if compile is None or isinstance(compile, bool):
        return {} if compile else None
    if not isinstance(compile, Mapping):
        raise TrainingError(f"compile={compile!r} must be a switch or a dict: {_RIGHT}.")
    unknown = sorted(map(str, set(compile) - _OPTIONS))
    if unknown:
        raise TrainingError(
            f"compile={dict(compile)!r}: torch.compile has no {', '.join(unknown)}; it takes "
            f"{', '.join(sorted(_OPTIONS))}. Right would be {_RIGHT}."
        )
    return dict(compile)


class Compiled:
    """Calls a model through `torch.compile`, with errors that name the options."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any]) -> None:
        self.model = model
        self.options = dict(options)
        try:
            self._called: Callable[..., Any] = torch.compile(model, **options)
        except Exception as cause:
            raise _failure(self.options, cause) from cause

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._called(*args, **kwargs)
        except Exception as cause:
            if not is_compile_error(cause):
                raise
            if is_error_of_layers(cause):  # the layers themselves say it better
                self.model(*args, **kwargs)
            raise _failure(self.options, cause) from cause


def _failure(options: Mapping[str, Any], cause: Exception) -> TrainingError:
    reason = " ".join(str(cause).split())
    return TrainingError(
        f"torch.compile failed with {dict(options)} ({type(cause).__name__}): {reason[:500]}. "
        'Leave compile= out; or see with compile={"backend": "eager"} whether it is the model or '
        "the backend, which for the CPU needs a C++ compiler."
    )
