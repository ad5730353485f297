"""Epochs with all layers trained, photos at batch 64: layergroups, a loop by hand, and fastai.

    python benchmarks/fine_tune/unfrozen.py PHOTOS [--peers PEERS/bin/python] [--epochs 3]

The contenders take turns, each a process of its own; PHOTOS and PEERS are those of run.py. An epoch
is training and validation. The first epoch of each process is left out: it fills caches. The loop
by hand decodes photos once into memory, varies them in the same way, is in channels_last and keeps
the batch norms' statistics.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from process import add_peers, measure, parser_of

from layergroups.demo._demo_weights import efficientnet_lite0_weights

OURS = """
import json, resource, sys
from layergroups import ImageDataLoaders, vision_learner
photos, weights, size, epochs = *sys.argv[1:3], *map(int, sys.argv[3:5])
dls = ImageDataLoaders.from_folder(photos, size=size, batch_size=64, seed=0)
learn = vision_learner(
    dls, "timm:tf_efficientnet_lite0", weights=weights, metrics=["accuracy"], seed=0, progress=False
)
learn.unfreeze()
rows = learn.fit(epochs, 1e-4)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"epochs": [row.seconds for row in rows], "peak_mb": peak}))
"""
BY_HAND = """
import json, resource, sys, time
from pathlib import Path
import timm, torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2
photos, weights, size, epochs = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5])
torch.manual_seed(0)
classes = sorted(p.name for p in (photos / "train").iterdir())
def decode(part):
    files = [(path, i) for i, name in enumerate(classes)
             for path in sorted((photos / part / name).iterdir())]
    images = [Image.open(path).convert("RGB") for path, _ in files]
    return images, torch.tensor([label for _, label in files])
finish = [
    v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)
]
cubic = v2.InterpolationMode.BICUBIC
augment = v2.Compose([
    v2.RandomResizedCrop(size, (0.5, 1.0), interpolation=cubic), v2.RandomHorizontalFlip(),
    v2.ColorJitter(0.1, 0.1), *finish,
])
plain = v2.Compose([v2.Resize(round(size / 0.95), cubic), v2.CenterCrop(size), *finish])
(train_x, train_y), (valid_x, valid_y) = decode("train"), decode("valid")
last = torch.channels_last
valid_t = torch.stack([plain(x) for x in valid_x]).to(memory_format=last)
model = timm.create_model("tf_efficientnet_lite0")
model.load_state_dict(load_file(weights))
n = model.num_features
model.classifier = nn.Sequential(
    nn.BatchNorm1d(n), nn.Dropout(0.25), nn.Linear(n, 512), nn.ReLU(), nn.BatchNorm1d(512),
    nn.Dropout(0.5), nn.Linear(512, len(classes)),
)
model = model.to(memory_format=last).eval()
model.classifier.train()
loss_func = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
took = []
for _ in range(epochs):
    begin = time.perf_counter()
    for b in torch.randperm(len(train_y)).split(64):
        x = torch.stack([augment(train_x[i]) for i in b]).to(memory_format=last)
        loss = loss_func(model(x), train_y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum())
                    for x, y in zip(valid_t.split(64), valid_y.split(64)))
    model.classifier.train()
    took.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"epochs": took, "peak_mb": peak}))
"""
FASTAI = str(Path(__file__).parent / "fastai_epochs.py")


def main() -> None:
    """Measure all contenders in turns and print the table."""
    parser = parser_of(__doc__, epochs=3)
    add_peers(parser)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    options = [str(args.photos), str(efficientnet_lite0_weights()), str(args.size)]
    options.append(str(args.epochs))
    contenders = {
        "layergroups": [sys.executable, "-c", OURS],
        "by hand": [sys.executable, "-c", BY_HAND],
    }
    if args.peers:
        contenders["fastai 2.8.12"] = [args.peers, FASTAI]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, command in contenders.items():
            found = measure(*command, *options, "unfrozen")
            seconds[name] += found["epochs"][1:]
            peaks[name] = found["peak_mb"]
            print(name, found, file=sys.stderr, flush=True)
    ours = statistics.median(seconds["layergroups"])
    print("| | seconds an epoch, median | layergroups as a part of it | peak memory, MB |")
    print("| --- | --- | --- | --- |")
    for name, took in seconds.items():
        middle = statistics.median(took)
        print(f"| {name} | {middle:.1f} | {ours / middle:.2f} | {peaks[name]:.0f} |")


if __name__ == "__main__":
    main()
