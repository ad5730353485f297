"""Parts of the recipes that are rebuilt here: images with targets, losses, predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import BATCH, Job
from networks import Network
from PIL import Image
from sets import ImageSet, Part, Values
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

Transform = Callable[[Image.Image], Tensor]


class Photos(Dataset[tuple[Tensor, Tensor]]):
    """Images opened each time; numbers are standardised."""

    def __init__(self, data: ImageSet, part: Part, transform: Transform) -> None:
        mean, std = data.numbers
        targets = part.targets if data.kind == "classes" else (part.targets - mean) / std
        self.files, self.targets, self.transform = part.files, torch.as_tensor(targets), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(opened(self.files[index])), self.targets[index]


def opened(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def image_tensor(network: Network) -> list[nn.Module]:
    """The last steps of a transform: a normalised tensor."""
    scale = v2.ToDtype(torch.float32, scale=True)
    return [v2.ToImage(), scale, v2.Normalize(network.mean, network.std)]


def loss_of(data: ImageSet) -> nn.Module:
    losses = {"classes": nn.CrossEntropyLoss, "tags": nn.BCEWithLogitsLoss, "number": nn.MSELoss}
    loss: nn.Module = losses[data.kind]()
    return loss


def holdout(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Training and held-out images, for recipes that choose among their own states."""
    order = np.random.default_rng(seed).permutation(len(part.files))
    n = round(share * len(order))
    rest, held = (
        Part([part.files[i] for i in some], part.targets[some])
        for some in (np.sort(order[n:]), np.sort(order[:n]))
    )
    return rest, held


def batches(photos: Dataset[Any], seed: int, *, drop_last: bool = False) -> DataLoader[Any]:
    """Shuffled; a last batch of one image is left out, for batch norm."""
    count = len(photos)  # type: ignore[arg-type]  # Photos has it
    return DataLoader(
        photos, BATCH, shuffle=True, drop_last=count >= BATCH and (drop_last or count % BATCH == 1),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@torch.inference_mode()
def outputs_of(model: nn.Module, transform: Transform, files: Sequence[Path]) -> Tensor:
    """Outputs of a model in evaluation mode for image files."""
    model.eval()
    found = []
    for start in range(0, len(files), BATCH):
        images = [transform(opened(file)) for file in files[start : start + BATCH]]
        found.append(model(torch.stack(images)))
    return torch.cat(found)


def predictions(job: Job, model: nn.Module, transform: Transform, files: Sequence[Path]) -> Values:
    """Probabilities, or numbers in the units of the targets."""
    return from_logits(job.data, outputs_of(model, transform, files))


def from_logits(data: ImageSet, logits: Tensor) -> Values:
    mean, std = data.numbers
    if data.kind == "number":
        return (logits * std + mean).numpy()
    return (logits.softmax(1) if data.kind == "classes" else logits.sigmoid()).numpy()
