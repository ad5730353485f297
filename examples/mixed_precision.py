"""Layer groups under autocast, a gradient scaler and torch.compile, in a loop of your own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from layergroups import LayerGroups, load_model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Mixed precision with layer groups.")
    parser.add_argument(
        "--backend", default="inductor", help="of torch.compile; eager needs no C++"
    )
    backend = parser.parse_args(arguments).backend
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = torch.float16 if device == "cuda" else torch.bfloat16

    model = load_model("timm:test_resnet", pretrained=False).model.to(device)
    groups = LayerGroups(model, example_input=torch.zeros(2, 3, 64, 64))
    optimizer = groups.optimizer(torch.optim.SGD, lr=slice(1e-3, 1e-2), momentum=0.9)
    compiled = torch.compile(model, backend=backend)  # graphs are made again after each freezing
    scaler = torch.amp.GradScaler(device)
    x, y = torch.randn(16, 3, 64, 64, device=device), torch.arange(16, device=device) % 4
    for first in (-1, 0):
        groups.freeze_to(first)
        for _ in range(3):
            compiled.train()
            with torch.autocast(device, half):
                loss = cross_entropy(compiled(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        print(f"{sum(not g.frozen for g in groups)} of {len(groups)} groups: {loss.item():.3f}")


if __name__ == "__main__":
    main()
