"""Schedules of torch and timm, and schedulefree, over layer groups that are unfrozen later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from layergroups import LayerGroups


def main(arguments: Sequence[str] | None = None) -> None:
    for kind in ("torch", "timm", "schedulefree"):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        groups = LayerGroups(model, ["1", "2"], example_input=torch.zeros(2, 8))
        made: type[torch.optim.Optimizer] = torch.optim.AdamW
        if kind == "schedulefree":
            try:
                from schedulefree import AdamWScheduleFree as made
            except ImportError:
                print("schedulefree is not installed")
                continue
        optimizer = groups.optimizer(made, lr=slice(1e-3, 1e-1))
        if kind == "torch":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        elif kind == "timm":
            schedule = CosineLRScheduler(optimizer, t_initial=10)
        for step in range(6):
            groups.gradual_unfreeze(step, every=2)
            if kind == "schedulefree":
                optimizer.train()
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if kind != "schedulefree":
                schedule.step(*[step + 1] * (kind == "timm"))
        rates = {group["name"]: round(group["lr"], 5) for group in optimizer.param_groups[::2]}
        print(f"{kind}: {rates}")


if __name__ == "__main__":
    main()
