"""Layer groups in skorch: the optimizer is a function, unfreezing a callback."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from layergroups import LayerGroups


class Unfreeze(Callback):
    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        self.groups.gradual_unfreeze(len(net.history) - 1)

    def optimizer(self, model: nn.Module, params: Any, lr: float) -> torch.optim.Optimizer:
        self.groups = LayerGroups(model, ["1", "3"], example_input=torch.zeros(2, 8))
        return self.groups.optimizer(torch.optim.SGD, lr=slice(lr / 100, lr), momentum=0.9)


def main(arguments: Sequence[str] | None = None) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    unfreeze = Unfreeze()
    net = NeuralNetClassifier(
        model, criterion=nn.CrossEntropyLoss, max_epochs=20, lr=0.1, warm_start=True,
        optimizer=partial(unfreeze.optimizer, model), callbacks=[unfreeze], verbose=0,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    net.initialize()
    print(f"accuracy {net.fit(x, (x[:, 0] > 0).astype(np.int64)).score(x, x[:, 0] > 0):.2f}")
    print(unfreeze.groups)


if __name__ == "__main__":
    main()
