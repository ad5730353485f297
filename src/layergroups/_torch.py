"""Every private or undocumented name of torch that the package uses, in this one file.

Each was tried on torch 2.6.0 (the lowest version that pyproject promises) and on 2.14.1. Other
files import from here; tests/test_torch.py finds those that do not.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

# Tensors that have a shape and no values; public only inside torch.compile.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

# Undocumented: knows whether a storage is still alive, without keeping it alive.
from torch.multiprocessing.reductions import StorageWeakRef

# The base class of batch and instance norms; torch has no public name for it.
from torch.nn.modules.batchnorm import _NormBase as NormBase

# The base class of all dropouts.
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

# Sees every operation below autograd; documented in "Extending PyTorch", but in a private module.
from torch.utils._python_dispatch import TorchDispatchMode

# Nested inputs and outputs. A public torch.utils.pytree came only after 2.6.
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from layergroups.errors import AnatomyError

__all__ = [
    "DropoutBase", "FakeTensor", "FakeTensorMode", "NormBase", "StorageWeakRef",
    "TorchDispatchMode", "TreeSpec",
    "all_children", "all_parameters", "average_what_trains", "call_uncompiled", "compiled_from",
    "ddp_wrappers", "drop_compiled_graphs", "each_module", "fake_tensor_log", "foreach_lerp_",
    "forward_hooks", "forward_pre_hooks", "is_compile_error", "is_compiled", "is_error_of_layers",
    "is_exporting", "is_persistent", "is_view", "known_to_ddp", "op_name", "op_packet",
    "own_buffers", "own_modules", "own_parameters", "own_tensors", "set_versions", "storage_key",
    "tree_flatten", "tree_leaves", "tree_map_only", "tree_unflatten", "unwrap", "version",
    "watch_ddp",
]  # fmt: skip

# FakeTensorMode writes a record here for each operation that fails.
fake_tensor_log = logging.getLogger("torch._subclasses.fake_tensor")
_T = TypeVar("_T")
_MODULES, _PARAMETERS = attrgetter("_modules"), attrgetter("_parameters")


# -- modules -------------------------------------------------------------------------------------


def own_parameters(module: nn.Module) -> MutableMapping[str, nn.Parameter | None]:
    """The parameters that a module holds itself, by name; the mapping is the module's own."""
    return _as_mapping(module._parameters)


def own_buffers(module: nn.Module) -> MutableMapping[str, Tensor | None]:
    """The buffers that a module holds itself, by name; the mapping is the module's own."""
    return _as_mapping(module._buffers)


def own_modules(module: nn.Module) -> MutableMapping[str, nn.Module | None]:
    """The children of a module by name; the mapping is the module's own."""
    return _as_mapping(module._modules)


def _as_mapping(own: MutableMapping[str, _T]) -> MutableMapping[str, _T]:
    """A scripted module has wrappers that can only be read, item by item."""
    return own if isinstance(own, dict) else dict(own.items())


def takes_hooks(module: nn.Module) -> bool:
    """Whether hooks can be put on a module; on scripted ones they cannot."""
    return not isinstance(module, torch.jit.ScriptModule)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that a module holds itself, by name."""
    own = {**own_parameters(module), **own_buffers(module)}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def all_children(modules: Iterable[nn.Module]) -> list[nn.Module | None]:
    """What these modules hold as children, in order; a few microseconds for a hundred modules."""
    return [child for own in map(_MODULES, modules) if own for child in own.values()]


def all_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter | None]:
    """What these modules hold as parameters themselves, in order; as quick."""
    return [parameter for own in map(_PARAMETERS, modules) if own for parameter in own.values()]


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Whether a state dict holds this buffer."""
    return buffer not in module._non_persistent_buffers_set


def forward_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """The forward hooks of a module by their id; the mapping is the module's own."""
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


def is_sharded(tensor: object) -> bool:
    """Whether each process holds only a part of a tensor, as with FSDP2."""
    return hasattr(tensor, "full_tensor")


def shard_like(saved: Tensor, like: object) -> Tensor:
    """A saved tensor, distributed over the processes if the one that it is for is (FSDP2)."""
    if not is_sharded(like):
        return saved
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    made: Tensor = distribute_tensor(saved.to(like.device), like.device_mesh, like.placements)
    return made


def is_compiled(module: nn.Module) -> bool:
    """Whether a module was compiled by hand: wrapped by `torch.compile`, or by its `compile()`."""
    return _compiled_of(module) is not None or vars(module).get("_compiled_call_impl") is not None


def compiled_from(value: object) -> nn.Module | None:
    """The module that `torch.compile` has wrapped in this one, if it has."""
    return _compiled_of(value) if isinstance(value, nn.Module) else None


def call_uncompiled(module: nn.Module) -> None:
    if vars(module).get("_compiled_call_impl") is not None:
        vars(module)["_compiled_call_impl"] = None


def _compiled_of(module: nn.Module) -> nn.Module | None:
    own = vars(module).get("_modules")  # no import of dynamo, which takes 1 s
    inner = own.get("_orig_mod") if isinstance(own, dict) else None
    return inner if isinstance(inner, nn.Module) else None


def is_compile_error(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def is_exporting() -> bool:
    """Whether torch.export runs the model now; 2.6 knows only that something compiles it."""
    known: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return known()


def is_error_of_layers(error: Exception) -> bool:
    """Whether a layer failed while `torch.compile` traced it."""
    from torch._dynamo.exc import TorchRuntimeError

    return isinstance(error, TorchRuntimeError)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel or DistributedDataParallel wrappers."""
    while isinstance(model, nn.Module):
        if (inner := _compiled_of(model)) is not None:
            model = inner
        elif isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            model = model.module
        else:
            return model
    raise _not_a_module(model)


def _not_a_module(given: object) -> AnatomyError:
    own = isinstance(getattr(given, "model", None), nn.Module)
    right = "learn.model" if own else "for one by name, load_model('resnet18').model"
    return AnatomyError(f"{given!r} is not a torch.nn.Module. Give the model itself: {right}")


def drop_compiled_graphs() -> None:
    """`torch.compiler.reset()` where something was compiled in this process; else nothing."""
    dynamo = sys.modules.get("torch._dynamo.convert_frame")  # not imported: nothing was compiled
    if dynamo is not None and dynamo.input_codes.seen:
        torch.compiler.reset()


# -- DistributedDataParallel ---------------------------------------------------------------------


_WRAPPERS: WeakSet[DistributedDataParallel] = WeakSet()


@cache
def watch_ddp() -> None:
    """Know each DistributedDataParallel from now on; those made before are searched for, once.

    A model does not know its wrappers, so torch's hook on the registration of submodules sees them
    when they are made. The search through all objects takes 0.1 s.
    """
    register_module_module_registration_hook(_add_wrapper)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for found in gc.get_objects():
            _add_wrapper(found)


def _add_wrapper(module: object, *_: object) -> None:
    if issubclass(type(module), DistributedDataParallel):
        _WRAPPERS.add(module)  # type: ignore[arg-type] # its class was asked for


def ddp_wrappers(model: nn.Module) -> list[DistributedDataParallel]:
    """Those that hold this model."""
    return [wrapper for wrapper in _WRAPPERS if any(m is model for m in wrapper.modules())]


def known_to_ddp(wrapper: DistributedDataParallel) -> list[nn.Parameter]:
    """The parameters that the model had when it was wrapped, frozen ones too."""
    return wrapper._module_parameters


def average_what_trains(wrapper: DistributedDataParallel) -> None:
    """Average the gradients of the parameters that train now, as a new wrapper would."""
    if not any(p.requires_grad for p in wrapper.module.parameters()):
        return  # no gradient to wait for
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    if wrapper.static_graph:
        wrapper.reducer._set_static_graph()
        if wrapper.logger is not None:
            wrapper.logger._set_static_graph()
    register: Any = vars(torch.distributed)["_register_comm_hook"]
    for hook, state in wrapper._comm_hooks:
        register(wrapper.reducer, state, hook)


# -- tensors -------------------------------------------------------------------------------------


def storage_key(tensor: Tensor) -> int:
    """What is the same for all views of one storage, while that is alive; below 0 without one."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        return -id(tensor)


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version


def set_versions(tensors: Sequence[Tensor], versions: Sequence[int]) -> None:
    """Put version counters back, for values that were put back."""
    set_counter: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        set_counter(tuple(tensors), tuple(versions))
    except TypeError:  # torch 2.6 takes one
        for tensor, count in zip(tensors, versions, strict=True):
            set_counter(tensor, count)


def foreach_lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """`Tensor.lerp_` for many tensors in one call; the public way takes a kernel for each."""
    torch._foreach_lerp_(tensors, ends, weight)


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
