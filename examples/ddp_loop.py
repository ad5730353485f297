"""Layer groups under DDP or FSDP2: `torchrun --nproc-per-node 2 examples/ddp_loop.py [--fsdp]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from layergroups import LayerGroups, load_model
from layergroups.training import same_weights


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Several processes with layer groups.")
    parser.add_argument("--fsdp", action="store_true", help="shard the parameters, with FSDP2")
    fsdp = parser.parse_args(arguments).fsdp
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"

    model = load_model("timm:test_resnet", pretrained=False).model.to(device)
    groups = LayerGroups(model, example_input=torch.zeros(2, 3, 64, 64))
    same_weights(groups)  # they are random here
    groups.freeze_to(-1)
    wrapped = fully_shard(model) if fsdp else DistributedDataParallel(model)
    optimizer = groups.optimizer(torch.optim.AdamW, lr=slice(1e-4, 1e-2))
    torch.manual_seed(dist.get_rank())  # each process has data of its own
    x, y = torch.randn(8, 3, 64, 64, device=device), torch.arange(8, device=device) % 4
    for first in (-1, -2, 0):
        groups.freeze_to(first)  # the wrapper follows: no find_unused_parameters
        for _ in range(2):
            wrapped.train()
            optimizer.zero_grad()
            cross_entropy(wrapped(x), y).backward()
            optimizer.step()
    weights = [p.full_tensor() if fsdp else p for p in model.parameters()]
    total = sum(weight.detach().sum().item() for weight in weights)
    print(f"process {dist.get_rank()}: sum of the weights {total:.6f}\n", end="")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
