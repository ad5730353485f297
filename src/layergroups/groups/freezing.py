"""Frozen means frozen: no weight, buffer, running statistic or dropout mask of a group moves.

`requires_grad` stops the weights; statistics and masks follow the mode of a module, so frozen
modules are put in eval mode, and a forward pre-hook on the outermost of them keeps them there when
somebody calls `model.train()`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from torch import nn
from torch.utils.hooks import RemovableHandle

from layergroups.groups.places import Places

NORMS = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises activations: torch's own norms, and what calls itself one."""
    name = type(module).__name__
    if "Spectral" in name or "WeightNorm" in name:
        return False
    return isinstance(module, NORMS) or name.endswith(("Norm", "Norm2d"))


def frozen_modules(model: nn.Module, places: Places, frozen: Collection[int]) -> list[str]:
    """Paths of the outermost modules all of whose parameters and layers are in frozen groups."""
    outermost: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        groups = places.groups(path)
        if groups and groups <= set(frozen):
            outermost.append(path)
            return
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return outermost


def stay_in_eval(modules: tuple[nn.Module, ...], *_: object) -> None:
    """Forward pre-hook: put modules that should not train back in eval mode."""
    for module in modules:
        if module.training:
            module.training = False


class ModeKeeper:
    """Holds the hooks that keep frozen modules in eval mode."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._held: tuple[nn.Module, ...] = ()

    def hold(self, model: nn.Module, paths: Iterable[str], *, norms_train: bool) -> None:
        """Keep the modules at these paths in eval mode, and no others any more."""
        self.release()
        held: list[nn.Module] = []
        for path in paths:
            top = model.get_submodule(path)
            below = tuple(m for m in top.modules() if not (norms_train and is_norm(m)))
            stay_in_eval(below)
            self._handles.append(top.register_forward_pre_hook(partial(stay_in_eval, below)))
            held += below
        freed = set(self._held) - set(held)
        for module in freed:
            module.training = model.training
        self._held = tuple(held)

    def release(self) -> None:
        """Take the hooks away; modes stay as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
