"""DeepSpeed ZeRO-1 and 2 with layer groups; on CPUs too, where it installs.

python examples/deepspeed_loop.py
DS_ACCELERATOR=cpu torchrun --nproc-per-node 2 examples/deepspeed_loop.py
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import nn

from layergroups import LayerGroups

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "29531"}


def main(arguments: Sequence[str] | None = None) -> None:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        os.environ.update(ALONE, MASTER_ADDR="127.0.0.1")
    try:
        import deepspeed
    except ImportError:
        print("deepspeed is not installed")
        return
    for stage in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        groups = LayerGroups(model, ["1", "2"], example_input=torch.zeros(2, 8))
        made = groups.param_groups(lr=slice(1e-3, 1e-1))
        optimizer = torch.optim.AdamW([group for group in made if group["params"]])
        engine, zero, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 4,
                "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )
        for step in range(6):
            groups.gradual_unfreeze(step, every=2)  # after ZeRO has taken all parameters
            for group in zero.param_groups:  # ZeRO steps frozen ones too, so their rate is 0
                owner = groups[group["layer_group"]]
                group["lr"] = 0.0 if owner.frozen else owner.lr
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            engine.backward(engine(torch.randn(4, 8)).square().mean())
            engine.step()
            now = dict(model.named_parameters())
            moved = {name[0] for name in before if not torch.equal(before[name], now[name])}
            print(f"stage {stage}, step {step}: layers {', '.join(sorted(moved))} moved")


if __name__ == "__main__":
    main()
