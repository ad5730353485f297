"""Every private or undocumented name of torch that the package uses, in this one file.

Each was tried on torch 2.6.0 (the lowest version that pyproject promises) and on 2.14.1. Other
files import from here; tests/test_torch.py finds those that do not.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Tensors that have a shape and no values; public only inside torch.compile.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

# Undocumented: knows whether a storage is still alive, without keeping it alive.
from torch.multiprocessing.reductions import StorageWeakRef

# The base class of batch and instance norms; torch has no public name for it.
from torch.nn.modules.batchnorm import _NormBase as NormBase

# Sees every operation below autograd; documented in "Extending PyTorch", but in a private module.
from torch.utils._python_dispatch import TorchDispatchMode

# Nested inputs and outputs. A public torch.utils.pytree came only after 2.6.
from torch.utils._pytree import (
    TreeSpec,
    tree_flatten,
    tree_leaves,
    tree_map_only,
    tree_unflatten,
)

from layergroups.errors import AnatomyError

__all__ = [
    "FakeTensor",
    "FakeTensorMode",
    "NormBase",
    "StorageWeakRef",
    "TorchDispatchMode",
    "TreeSpec",
    "drop_compiled_graphs",
    "each_module",
    "fake_tensor_log",
    "forward_hooks",
    "forward_pre_hooks",
    "is_compiled",
    "is_persistent",
    "is_view",
    "op_name",
    "op_packet",
    "own_buffers",
    "own_modules",
    "own_parameters",
    "set_versions",
    "storage_key",
    "tree_flatten",
    "tree_leaves",
    "tree_map_only",
    "tree_unflatten",
    "unwrap",
    "version",
]

# FakeTensorMode writes a record here for each operation that fails.
fake_tensor_log = logging.getLogger("torch._subclasses.fake_tensor")


# -- modules -------------------------------------------------------------------------------------


def own_parameters(module: nn.Module) -> MutableMapping[str, nn.Parameter | None]:
    """The parameters that a module holds itself, by name; the mapping is the module's own."""
    return module._parameters


def own_buffers(module: nn.Module) -> MutableMapping[str, Tensor | None]:
    """The buffers that a module holds itself, by name; the mapping is the module's own."""
    return module._buffers


def own_modules(module: nn.Module) -> MutableMapping[str, nn.Module | None]:
    """The children of a module by name; the mapping is the module's own."""
    return module._modules


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Whether a state dict holds this buffer."""
    return buffer not in module._non_persistent_buffers_set


def forward_hooks(module: nn.Module) -> Mapping[int, Any]:
    """The forward hooks of a module by their id."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """The forward pre-hooks of a module by their id; the mapping is the module's own."""
    return module._forward_pre_hooks


def each_module(model: nn.Module) -> list[nn.Module]:
    """Every module once, parents before children; five times as quick as `model.modules()`."""
    found = {id(model): model}
    waiting = [model]
    while waiting:
        for child in own_modules(waiting.pop()).values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())


def is_compiled(model: nn.Module) -> bool:
    """Whether a module is what `torch.compile` gives; without importing dynamo (1.1 s)."""
    return isinstance(getattr(model, "_orig_mod", None), nn.Module)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel or DistributedDataParallel wrappers.

    Raises:
        AnatomyError: it is not a module.
    """
    while isinstance(model, nn.Module):
        if is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment] # `is_compiled` looked
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model
    raise AnatomyError(
        f"{model!r} is not a torch.nn.Module. Give the model itself: for one by name, "
        "load_model('resnet18').model"
    )


def drop_compiled_graphs() -> None:
    """`torch.compiler.reset()` where something was compiled in this process; else nothing."""
    dynamo = sys.modules.get("torch._dynamo.convert_frame")  # not imported: nothing was compiled
    if dynamo is not None and dynamo.input_codes.seen:
        torch.compiler.reset()


# -- tensors -------------------------------------------------------------------------------------


def storage_key(tensor: Tensor) -> int:
    """What is the same for all views of one storage, while that is alive."""
    return int(tensor.untyped_storage()._cdata)


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version


def set_versions(tensors: Iterable[Tensor], versions: Sequence[int]) -> None:
    """Put version counters back, for values that were put back."""
    torch._C._autograd._unsafe_set_version_counter(tuple(tensors), tuple(versions))


# -- operations, as __torch_dispatch__ gives them ------------------------------------------------


def op_packet(operation: Any) -> Any:
    """All overloads of an operation: `aten.add` for `aten.add.Tensor`."""
    return operation._overloadpacket


def op_name(operation: Any) -> str:
    """The name of an operation without namespace and overload, "convolution"."""
    return str(operation._overloadpacket.__name__)


def is_view(operation: Any) -> bool:
    """Whether the result shares memory with the input, as far as the schema tells."""
    return bool(operation.is_view)
