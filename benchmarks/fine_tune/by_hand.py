"""The same by hand in plain PyTorch, as a careful engineer would write it: -> a JSON line.

Photos are decoded once; the head is trained on the features of two augmented views; then all layers
train with the batch norms' statistics kept, at 1e-4, in channels_last.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import v2

photos, weights, size, epochs, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
begin = time.perf_counter()
torch.manual_seed(seed)
classes = sorted(p.name for p in (photos / "train").iterdir())


def decode(part: str) -> tuple[list[Tensor], Tensor]:
    """All photos of a part as uint8 tensors (3, H, W), and their classes."""
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((photos / part / name).iterdir()):
            images.append(v2.functional.pil_to_tensor(Image.open(path).convert("RGB")))
            labels.append(label)
    return images, torch.tensor(labels)


finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
augment = v2.Compose([v2.RandomResizedCrop(size, (0.5, 1.0)), v2.RandomHorizontalFlip(), *finish])
plain = v2.Compose([v2.Resize(round(size / 0.875)), v2.CenterCrop(size), *finish])
train_x, train_y = decode("train")
valid_x, valid_y = decode("valid")
valid_t = torch.stack([plain(x) for x in valid_x]).to(memory_format=torch.channels_last)

model = timm.create_model("tf_efficientnet_lite0")
model.load_state_dict(load_file(weights))
features = model.num_features
model.classifier = nn.Identity()
model = model.to(memory_format=torch.channels_last).eval()  # statistics are kept throughout
head = nn.Sequential(nn.BatchNorm1d(features), nn.Dropout(0.5), nn.Linear(features, len(classes)))
loss_func = nn.CrossEntropyLoss()


def batches(count: int, batch: int = 64) -> list[Tensor]:
    """Shuffled indices in batches."""
    return [b for b in torch.randperm(count).split(batch) if len(b) > 1]


def views(index: Tensor) -> Tensor:
    """Augmented photos (N, 3, size, size)."""
    x = torch.stack([augment(train_x[i]) for i in index])
    return x.to(memory_format=torch.channels_last)


with torch.inference_mode():
    order = torch.arange(len(train_y))
    found = [torch.cat([model(views(b)) for b in order.split(64)]) for _ in range(2)]
stored, labels = torch.cat(found).clone(), train_y.repeat(2)
optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
for _ in range(15):
    for b in batches(len(labels)):
        loss = loss_func(head(stored[b]), labels[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

parameters = [*model.parameters(), *head.parameters()]
optimizer = torch.optim.AdamW(parameters, 1e-4)
steps = epochs * len(batches(len(train_y)))
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-4, total_steps=steps)
for _ in range(epochs):
    for b in batches(len(train_y)):
        loss = loss_func(head(model(views(b))), train_y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

head.eval()
with torch.inference_mode():
    predicted = torch.cat([head(model(x)).argmax(1) for x in valid_t.split(64)])
accuracy = (predicted == valid_y).float().mean().item()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - begin, "peak_mb": peak}))
