"""A tiny module for Lightning, and a Trainer for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

# Advice of Lightning on workers and short epochs, and what torch tells Lightning.
ADVICE = [
    pytest.mark.filterwarnings("ignore:.*(does not have many workers|no .* defined).*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


class Tiny(LightningModule):
    """A convolutional network with batch norm and dropout; 24 images of three classes."""

    example_input_array = torch.zeros(2, 3, 8, 8)

    def __init__(self, lr: float = 0.1, n: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lr, self.n, self.batch_size = lr, n, 4
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.body(self.stem(x))))
        return out

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        trained = filter(lambda p: p.requires_grad, self.parameters())
        optimizer = torch.optim.SGD(trained, self.lr, momentum=0.9, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 12)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def data(self) -> TensorDataset:
        draw = torch.Generator().manual_seed(1)
        return TensorDataset(torch.randn(self.n, 3, 8, 8, generator=draw), torch.arange(self.n) % 3)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data(), self.batch_size)


SPLIT = ["body", "head"]


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """Two epochs of six steps on the CPU."""
    given = {
        "max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "default_root_dir": folder, "log_every_n_steps": 1,
    }  # fmt: skip
    return Trainer(callbacks=[*callbacks], **given | options)  # type: ignore[arg-type] # of each kind
