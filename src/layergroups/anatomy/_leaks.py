"""Tensors of a dry run that outlive it: taken out of the caches that hold them, or reported.

A fake tensor in a cache is worse than a wrong number: the model then answers with fake tensors.
What the model holds itself, `restoring` puts back. Here is the rest: `functools.lru_cache`, and
what classes and Python files hold.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections import defaultdict
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._torch import each_module, storage_key
from layergroups.anatomy._restoring import LIGHTNING, Snapshot
from layergroups.errors import AnatomyError

_LRU_CACHE = type(functools.lru_cache(lambda: None))
_LEVELS = 6  # a tensor in a tuple in a list in a dict ... in a cache
_NO_ENTRIES = (type, ModuleType, FunctionType, nn.Module)
_PASSING = (FrameType, TracebackType, BaseException)  # where a failed run is still looked at
# pytest writes calls of its own into each `assert`, also of a model in a test
_NOT_OF_MODELS = {"torch", "numpy", "rich", "_pytest", *LIGHTNING, *sys.stdlib_module_names}


class LeakError(AnatomyError):
    """A tensor of a dry run is still held where it cannot be taken out."""


class Namespaces:
    """What the code of a model may fill: the globals that it names, its classes, and their files.

    Code is followed by names, not by values: `cache.get` reaches each `get` of the classes and
    files reached. So only a few of a library's ten thousand globals are searched.

    Args:
        model: as before the run.
        held: what it holds; the functions and classes in there are where code begins.
    """

    def __init__(self, model: nn.Module, held: Snapshot) -> None:
        self._owners: dict[Any, dict[str, Any]] = {}  # classes and files, and what they hold
        self._named = {"forward"}
        self._unnamed: defaultdict[str, list[Any]] = defaultdict(list)
        self._code: set[CodeType] = set()
        self._reached: list[Any] = []
        self._snapshots = [held]
        for kind in set(map(type, each_module(model))):
            self._enter(kind)
        found = held.alive
        while found:
            for kind in set(map(type, found)):
                self._enter(kind)
            for value in found:
                if type(value) is FunctionType:
                    self._enter(sys.modules.get(value.__module__))
                    self._read(value.__code__)
            reached, self._reached = self._reached, []
            self._snapshots.append(Snapshot(reached))
            found = self._snapshots[-1].alive

    def _enter(self, owner: type | ModuleType | None) -> None:
        if isinstance(owner, ModuleType):
            if _may_cache(owner.__name__):
                self._add(owner)
        elif owner is not None and owner not in self._owners:
            for kind in owner.__mro__:
                if _may_cache(kind.__module__):
                    self._add(kind)

    def _add(self, owner: Any) -> None:
        if owner in self._owners:
            return
        self._owners[owner] = _own_names(owner)
        # Python calls `__getitem__` and its like by no name; layers are made before they run.
        makes_layers = isinstance(owner, type) and issubclass(owner, nn.Module)
        for name, value in list(vars(owner).items()):
            special = type(value) is FunctionType and name[:2] == "__"
            if name in self._named or (special and not (makes_layers and name == "__init__")):
                self._reach(value)
            else:
                self._unnamed[name].append(value)

    def _reach(self, value: Any) -> None:
        if isinstance(value, (type, ModuleType)):
            self._enter(value)
        else:
            self._reached.append(value.fget if isinstance(value, property) else value)

    def _read(self, code: CodeType) -> None:
        if code in self._code:
            return
        self._code.add(code)
        for name in {*code.co_names} - self._named:
            self._named.add(name)
            self._enter(sys.modules.get(name) if "." in name else None)  # an import in a function
            for value in self._unnamed.pop(name, ()):
                self._reach(value)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._read(inner)

    def restore(self) -> None:
        """Give names their old objects again, and these objects their old content."""
        for snapshot in self._snapshots:
            snapshot.restore()
        for owner, names in self._owners.items():
            now = _own_names(owner)
            for name in [n for n in now if n not in names]:
                delattr(owner, name)
            for name, value in names.items():
                if name not in now or now[name] is not value:
                    setattr(owner, name, value)

    def clear_caches(self, alive: set[int]) -> None:
        """Empty each `lru_cache` in reach that holds tensors with these storages."""
        for cache in (o for s in self._snapshots for o in s.alive if isinstance(o, _LRU_CACHE)):
            level: list[Any] = [cache]
            for _ in range(_LEVELS):
                level = [o for o in gc.get_referents(*level) if not isinstance(o, _NO_ENTRIES)]
                if any(_is_of(o, alive) for o in level):
                    cache.cache_clear()
                    break


def _own_names(owner: object) -> dict[str, Any]:
    """What a class or file holds, without what Python itself puts there (`__builtins__`)."""
    return {name: value for name, value in vars(owner).items() if name[:2] != "__"}


def _may_cache(file: str) -> bool:
    return file.partition(".")[0] not in _NOT_OF_MODELS


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
    for collect in (lambda: namespaces.clear_caches(alive()), lambda: gc.collect(1), gc.collect):
        if not alive():
            return
        collect()
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
