"""Keeps the copies of a model equal on all processes: weights, gradients, statistics, checks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._fingerprint import checksum, structure_lines
from layergroups._formatting import first_few
from layergroups._torch import is_sharded
from layergroups.data import Shard
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training.distributed._processes import Processes, current_processes

_BUCKET: Final = 32 << 20  # bytes of gradients in one message


class Replicas:
    """The copies of one model in several processes; with one process it does nothing.

    Attributes:
        sharded: whether each process has only a part of the parameters; then torch's FSDP2
            exchanges parameters and gradients (and averages gradients).
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.sharded = False
        self._structure = 0

    def broadcast_weights(self, model: nn.Module, where: str) -> None:
        """Copy weights and buffers from the main process to all; for new, random layers."""
        if not self.processes.is_distributed:
            return
        self.sharded = any(is_sharded(p) for p in model.parameters())
        built = structure_lines(model)
        self._structure = zlib.crc32(repr(built).encode())
        self.processes.barrier(where, {"parameters and layers": built})
        tensors = copies(model)
        with torch.no_grad():
            for index in self._differing(tensors):
                _broadcast(tensors[index][1])

    def barrier(
        self,
        where: str,
        groups: LayerGroups,
        optimizer: Optimizer | None = None,
        share: Shard | None = None,
    ) -> None:
        """Wait for all processes, and make sure that all are about to do the same."""
        if not self.processes.is_distributed:
            return
        trains = [p.requires_grad for p in groups.model.parameters()]
        facts = {
            "model": self._structure,
            "frozen": [f"{n} {f}" for n, f in zip(groups.names, groups.frozen, strict=True)],
            "rates": [f"{n} {r}" for n, r in zip(groups.names, groups.rates, strict=True)],
            "optimizer": type(optimizer).__name__,
            "requires_grad of the parameters": "".join(str(int(flag)) for flag in trains),
            "batch (a loader that shuffles needs the same seed everywhere)": (
                f"{share.n_items} items, check {share.check}" if share else ""
            ),
        }
        self.processes.barrier(where, facts)

    def factor(self, share: Shard) -> float:
        """What a share's mean loss counts for, so that the sum is the loss of the whole batch."""
        return share.weight * (self.processes.world if self.sharded else 1)

    def add_gradients(self, model: nn.Module) -> None:
        """Sum the gradients of all processes; call it after `barrier`.

        A parameter that got no gradient anywhere has none afterwards, as with one process.
        """
        if not self.processes.is_distributed:
            return
        training = [p for p in model.parameters() if p.requires_grad and not is_sharded(p)]
        has = torch.tensor([p.grad is not None for p in training], dtype=torch.uint8)
        dist.all_reduce(has, dist.ReduceOp.MAX, group=self.processes.group)
        wanted = [p for p, any_has in zip(training, has.tolist(), strict=True) if any_has]
        with torch.no_grad():
            waiting = [_start_sum(bucket) for bucket in _buckets(wanted)]
            for bucket, flat, work in waiting:
                work.wait()
                _hand_out(bucket, flat)

    def sync_rng(self) -> None:
        """Copy torch's generator from the main process, so that loaders agree."""
        if self.processes.is_distributed:
            self.processes.barrier("the start of an epoch")
            state = torch.get_rng_state()
            dist.broadcast(state, 0, group=self.processes.group)
            torch.set_rng_state(state)

    def sync_buffers(self, model: nn.Module) -> None:
        """Make the buffers equal: running statistics are averaged, others those of process 0.

        Each process normalises its own share of every batch, as under DistributedDataParallel;
        timm's `dist_bn="reduce"` does the same. Frozen statistics do not change.
        """
        if not self.processes.is_distributed:
            return
        buffers = list(model.named_buffers())
        with torch.no_grad():
            for index in self._differing(buffers):
                name, buffer = buffers[index]
                if name.endswith(("running_mean", "running_var")):
                    dist.all_reduce(buffer)
                    buffer /= self.processes.world
                else:
                    _broadcast(buffer)

    def check(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Compare a hash of every weight, buffer and optimizer state; call it after `barrier`."""
        if not self.processes.is_distributed:
            return
        named = copies(model)
        for name, parameter in model.named_parameters():
            memory = optimizer.state.get(parameter, {})
            named += [(f"{key} of {name}", m) for key, m in memory.items() if isinstance(m, Tensor)]
        named = [(name, t) for name, t in named if not is_sharded(t)]
        differing = self._differing(named)
        if differing:
            names = first_few((named[i][0] for i in differing), 1)
            raise TrainingError(
                f"The copies of the model differ between the processes: {names}. A callback or the "
                "model itself changed it on one process only, or by random numbers that differ; "
                "do the same on every process."
            )

    def _differing(self, named: list[tuple[str, Tensor]]) -> list[int]:
        names = [f"{name} {tuple(tensor.shape)}" for name, tensor in named]
        self.processes.barrier(
            "a comparison of all copies", {"weights, buffers and moments": names}
        )
        sums = torch.tensor([checksum(t) for _, t in named], dtype=torch.long)
        lowest, highest = sums.clone(), sums
        dist.all_reduce(lowest, dist.ReduceOp.MIN, group=self.processes.group)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.processes.group)
        return [int(i) for i in (lowest != highest).nonzero()]


def divide_gradients(parameters: Iterable[nn.Parameter], by: int) -> None:
    if by > 1:
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p.grad /= by


def same_weights(groups: LayerGroups) -> None:
    """Copy the weights of the main process to all processes; for custom training loops.

    Call it after the process group is initialised, and after surgery: new layers start from random
    numbers, which differ between processes.
    """
    groups.sync()
    Replicas(current_processes()).broadcast_weights(groups.model, "same_weights")


def average_gradients(groups: LayerGroups) -> None:
    """Average the gradients over all processes; for custom training loops, after backward.

    It replaces torch's DistributedDataParallel, which only exchanges gradients of the parameters
    that trained when it was created: after unfreezing, the processes would silently diverge.
    Parameters that FSDP2 has sharded are left to it.
    """
    replicas = Replicas(current_processes())
    if replicas.processes.is_distributed:
        replicas.barrier("average_gradients", groups)
        replicas.add_gradients(groups.model)
        whole = (p for p in groups.model.parameters() if not is_sharded(p))
        divide_gradients(whole, replicas.processes.world)


def copies(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and tensors of all that each process has a copy of."""
    named = (*model.named_parameters(), *model.named_buffers())
    return [(name, tensor.detach()) for name, tensor in named if not is_sharded(tensor)]


def _broadcast(tensor: Tensor) -> None:
    flat = tensor.contiguous()
    dist.broadcast(flat, 0)
    if flat is not tensor:
        tensor.copy_(flat)


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    size, kind = 0, None
    for p in parameters:
        own = (p.device, p.dtype)
        if own != kind or size >= _BUCKET:
            buckets.append([])
            size, kind = 0, own
        buckets[-1].append(p)
        size += p.numel() * p.element_size()
    return buckets


def _start_sum(bucket: list[nn.Parameter]) -> tuple[list[nn.Parameter], Tensor, Any]:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
    flat = torch.cat([part.to_dense().reshape(-1) for part in parts])
    return bucket, flat, dist.all_reduce(flat, async_op=True)


def _hand_out(bucket: list[nn.Parameter], flat: Tensor) -> None:
    sizes = [p.numel() for p in bucket]
    for p, part in zip(bucket, flat.split(sizes), strict=True):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.copy_(part.view(p.shape))
