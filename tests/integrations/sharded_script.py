"""Two processes with FSDP2 in Lightning: torchrun sharded_script.py FOLDER [CHECKPOINT]."""

from __future__ import annotations

import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from layergroups import GradualUnfreezing
from layergroups.integrations.lightning import LayerGroupsCallback


class Sharded(LightningModule):
    """Three layers, whole until `configure_model` shards them."""

    example_input_array = torch.zeros(2, 8)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index] # the strategy has set it
        for layer in self.net:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.01)

    def train_dataloader(self) -> Any:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(x), 2)


class Prints(Callback):
    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.before = {name: p.full_tensor().clone() for name, p in module.named_parameters()}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        now = {name: p.full_tensor() for name, p in module.named_parameters()}
        moved = {n.split(".")[1] for n, was in self.before.items() if not torch.equal(was, now[n])}
        total = sum(value.double().sum().item() for value in now.values())
        line = f"epoch {trainer.current_epoch}: moved {''.join(sorted(moved))}, sum {total}"
        if trainer.global_rank == 0:
            print(line, flush=True)
        if len(sys.argv) == 2 and trainer.current_epoch == 1:
            trainer.save_checkpoint(f"{sys.argv[1]}/saved.ckpt")


def main(folder: str, start: str | None = None) -> None:
    Trainer(
        max_epochs=3, accelerator="cpu", devices=2, strategy=ModelParallelStrategy(
            save_distributed_checkpoint=False
        ),
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
        callbacks=[
            LayerGroupsCallback(["net.1", "net.2"], unfreeze=GradualUnfreezing(every=1)), Prints()
        ],
    ).fit(Sharded(), ckpt_path=start)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
