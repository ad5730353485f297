"""FSDP2 under layer groups: every part of the model is sharded over all processes.

`fully_shard` replaces each parameter by a distributed one of the same name; groups, freezing and
rates follow by name. Each block is a separate unit, so a new head can be sharded later.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from layergroups._paths import is_within
from layergroups._torch import is_sharded
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, rebind_parameters
from layergroups.training.distributed._processes import Processes
from layergroups.training.distributed._replicas import Replicas


def wants_sharding() -> bool:
    """Whether `accelerate launch --use_fsdp --fsdp_version 2` has started this process."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError(
            "FSDP of version 1 packs the parameters of all layer groups into one. Use "
            "`accelerate launch --use_fsdp --fsdp_version 2`."
        )
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise TrainingError(
            "Parameters offloaded to the CPU are not supported: use --fsdp_offload_params false."
        )
    return True


def shard(model: nn.Module, groups: LayerGroups, processes: Processes, device: str) -> None:
    """Shard all parameters that are not sharded, with the values of the main process.

    All processes call this before every call that runs the model, since none can run it alone.
    """
    processes.barrier("a call that runs a model sharded by FSDP2")
    if all(map(is_sharded, model.parameters())):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    Replicas(processes).broadcast_weights(model, "the sharding of the model")
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device, (processes.world,)),
        "reshard_after_forward": True,
    }
    for unit in units(model, groups):
        fully_shard(unit, **options)
    if not isinstance(model, FSDPModule):
        fully_shard(model, **options)
    rebind_parameters(groups)
    left = [name for name, p in model.named_parameters() if not is_sharded(p)]
    if left:
        raise TrainingError(
            f"{left[0]} is new, beside parameters that FSDP2 has sharded already. Replace the "
            "whole module that holds it (by set_submodule, say), so that it is sharded again."
        )


def units(model: nn.Module, groups: LayerGroups) -> list[nn.Module]:
    """The modules that are gathered at once: the largest within one block, else single layers.

    The whole model gathers tied parameters and bare parameters of containers.
    """
    homes = {name: b.index for b in groups.anatomy.blocks for name in b.parameters}
    places: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(p), []).append(name)
    found: list[nn.Module] = []

    def visit(module: nn.Module, path: str) -> None:
        new = [(n, p) for n, p in module.named_parameters(path) if not is_sharded(p)]
        if not new:
            return
        blocks = {homes.get(name) for name, _ in new}
        children = [c for c in module.children() if any(True for _ in c.parameters())]
        alone = all(is_within(name, path) for _, p in new for name in places[id(p)])
        if path and alone and ((len(blocks) == 1 and None not in blocks) or not children):
            found.append(module)
            return
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return found


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sharded tensors gathered from all processes; every process must call this."""
    held: dict[str, Any] = tensors
    return {name: t.full_tensor() if is_sharded(t) else t for name, t in held.items()}
