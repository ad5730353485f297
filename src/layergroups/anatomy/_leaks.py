"""Tensors of a dry run that outlive it: taken out of the caches that hold them, or reported.

A fake tensor in a cache is worse than a wrong number: the model then answers with fake tensors.
What the model holds itself, `restoring` puts back. Here is the rest: `functools.lru_cache`, and
what classes and Python files hold.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._torch import each_module, storage_key
from layergroups.anatomy._restoring import Snapshot
from layergroups.errors import AnatomyError

_LRU_CACHE = type(functools.lru_cache(lambda: None))
_LEVELS = 6  # a tensor in a tuple in a list in a dict ... in a cache
_PASSING = (FrameType, TracebackType, BaseException)  # where a failed run is still looked at
_NOT_OF_MODELS = {"torch", "numpy", *sys.stdlib_module_names}


class LeakError(AnatomyError):
    """A tensor of a dry run is still held where it cannot be taken out."""


class Namespaces:
    """What the classes of a model and their Python files hold, and the files named in these."""

    def __init__(self, model: nn.Module) -> None:
        classes = {
            k for m in each_module(model) for k in type(m).__mro__ if _may_cache(k.__module__)
        }
        files = [sys.modules[k.__module__] for k in classes if k.__module__ in sys.modules]
        named = [_file_of(value) for file in files for value in vars(file).values()]
        files += [file for file in named if file is not None and _may_cache(file.__name__)]
        self._names = [(o, _own_names(o)) for o in dict.fromkeys([*classes, *files])]
        self._held = Snapshot(value for _, names in self._names for value in names.values())

    def restore(self) -> None:
        """Give names their old objects again, and these objects their old content."""
        self._held.restore()
        for owner, names in self._names:
            now = _own_names(owner)
            for name in [n for n in now if n not in names]:
                delattr(owner, name)
            for name, value in names.items():
                if name not in now or now[name] is not value:
                    setattr(owner, name, value)


def _own_names(owner: object) -> dict[str, Any]:
    """What a class or file holds, without what Python itself puts there (`__builtins__`)."""
    return {name: value for name, value in vars(owner).items() if name[:2] != "__"}


def _may_cache(file: str) -> bool:
    return file.partition(".")[0] not in _NOT_OF_MODELS


def _file_of(value: object) -> ModuleType | None:
    if isinstance(value, ModuleType):
        return value
    if isinstance(value, (FunctionType, _LRU_CACHE)):
        return sys.modules.get(value.__module__)
    return None


def take_out_leaks(alive: Callable[[], set[int]], namespaces: Namespaces) -> None:
    """Make sure that no tensor of a dry run is left, once its model is restored.

    Cheap where nothing is left: then the heap is not searched.

    Args:
        alive: gives the keys of the storages made in the run that still exist.
        namespaces: as before the run.

    Raises:
        LeakError: one is left that cannot be taken out.
    """
    if not alive():
        return
    namespaces.restore()
    gc.collect()
    cleared: list[Any] = []  # one that is found again holds the tensor in another way

    def is_new(holder: object) -> bool:
        return isinstance(holder, _LRU_CACHE) and holder not in cleared

    while alive() and (caches := _holders(alive(), is_new)):
        for cache in caches:
            cache.cache_clear()
        cleared += caches
    if alive():
        refuse_leak(alive())


def refuse_leak(keys: set[int]) -> None:
    """Raise LeakError where something with a name holds tensors with these storages."""
    if left := _holders(keys, _has_name):
        raise LeakError(
            "After a dry run, which computes nothing, its tensors are still held by "
            f"{_describe(left[0])}, and the model would go on with them. Make the model again, and "
            "run it once on a real batch before, model(batch), so that its cache is filled; or "
            "keep the cache in an attribute of a module."
        )


def _holders(alive: set[int], wanted: Callable[[Any], bool]) -> list[Any]:
    """The nearest objects of the wanted kind that hold tensors with these storages."""
    level = [o for o in gc.get_objects() if _is_of(o, alive)]
    seen = {id(level)}
    for _ in range(_LEVELS):
        if not level:
            break
        above = gc.get_referrers(*level)
        seen.update(map(id, level))
        above = [h for h in above if id(h) not in seen and not isinstance(h, _PASSING)]
        if found := [h for h in above if wanted(h)]:
            return found
        level = above
        seen.add(id(level))
    return []


def _is_of(value: object, alive: set[int]) -> bool:
    if not issubclass(type(value), Tensor):
        return False
    tensor: Tensor = value  # type: ignore[assignment] # checked, past a __class__ that acts
    return tensor.layout == torch.strided and storage_key(tensor) in alive


def _has_name(holder: object) -> bool:
    kind = type(holder)
    return (
        kind in (ModuleType, FunctionType)
        or issubclass(kind, type)
        or kind.__module__ != "builtins"
    )


def _describe(holder: Any) -> str:
    if isinstance(holder, ModuleType):
        return f"the Python file {holder.__name__}"
    if isinstance(holder, type):
        return f"the class {holder.__qualname__}"
    if isinstance(holder, FunctionType):
        return f"the function {holder.__qualname__}"
    return f"an object of the class {type(holder).__qualname__}"
