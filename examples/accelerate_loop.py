"""Layer groups in a loop of accelerate: `accelerate launch examples/accelerate_loop.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from layergroups import LayerGroups, decay, load_model


def main(arguments: Sequence[str] | None = None) -> None:
    model = load_model("timm:test_resnet", pretrained=False).model
    data = TensorDataset(torch.randn(32, 3, 64, 64), torch.arange(32) % 4)

    groups = LayerGroups(model, example_input=torch.zeros(2, 3, 64, 64))
    optimizer = groups.optimizer(torch.optim.AdamW, lr=decay(1e-3, 0.5))  # 1 and 2: attached
    groups.freeze_to(-1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=16
    )
    accelerator = Accelerator(cpu=True)
    model, optimizer, schedule, batches = accelerator.prepare(
        model, optimizer, schedule, DataLoader(data, 8, shuffle=True)
    )
    for epoch in range(4):
        groups.gradual_unfreeze(epoch)  # 3: one more group each epoch, also under DDP
        model.train()
        for x, y in batches:
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        trains = [group.name for group in groups if not group.frozen]
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, trains {', '.join(trains)}")


if __name__ == "__main__":
    main()
