"""Looking changes nothing: a model is handed back as it was before a dry run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from layergroups.errors import AnatomyError

_TORCH_LOG = logging.getLogger("torch._subclasses.fake_tensor")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel or DistributedDataParallel wrappers.

    Raises:
        AnatomyError: it is no module.
    """
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module):
            return model
        else:
            raise AnatomyError(
                f"{model!r} is no torch.nn.Module. Give the model itself: for one by name, "
                "load_model('resnet18').model"
            )


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for the time of the block, then restore all of it.

    What modules keep in attributes (cached masks, shapes), in `_buffers` and in `_parameters` is
    put back too, for a fake run would leave fake tensors there; so are the random state and the
    mode of every module and the values of buffers.
    """
    kept = [(m.__dict__, dict(m.__dict__)) for m in model.modules()]
    containers = [
        (v, v.copy()) for _, was in kept for v in was.values() if type(v) in (dict, list, set)
    ]
    values = [(b, b.detach().clone()) for b in model.buffers() if not b.is_meta]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    shown = _TORCH_LOG.level
    try:
        _TORCH_LOG.setLevel(logging.CRITICAL)  # a run that fails is told in our words, once
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        _TORCH_LOG.setLevel(shown)
        for now, was in kept:
            now.clear()
            now.update(was)
        for container, content in containers:
            _refill(container, content)
        with torch.no_grad():
            for buffer, value in values:
                if buffer.shape == value.shape and not torch.equal(buffer, value):
                    buffer.copy_(value)


def _refill(container: Any, content: Any) -> None:
    """Give a container its old content again; the container itself stays the same object."""
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)
