"""A maker of learners that are alike: same data, same first weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.conftest import folder, photo, picture
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from torch import nn

from layergroups import ImageDataLoaders, vision_learner
from layergroups.training import Learner

__all__ = ["folder", "photo"]


@pytest.fixture
def dls() -> TinyLoaders:
    return TinyLoaders()


@pytest.fixture
def make(dls: TinyLoaders, tmp_path: Path) -> Callable[..., Learner]:
    def maker(model: nn.Module | None = None, **options: Any) -> Learner:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = pretrained(tiny_model()) if model is None else model
        defaults: dict[str, Any] = {"progress": False, "seed": 0, "path": tmp_path}
        defaults["split"] = ["0.0", "0.7", "1"]
        learn = Learner(options.pop("dls", dls), made, **(defaults | options))
        learn.pretrained = True if model is None else None
        return learn

    return maker


@pytest.fixture(scope="module")
def learn(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One for all: looking changes nothing."""
    photos = tmp_path_factory.mktemp("photos")
    for label, kind in enumerate(("cat", "dog")):
        (photos / kind).mkdir()
        for i in range(6):
            picture(1000 * label + i).save(photos / kind / f"{i}.jpg")
    dls = ImageDataLoaders.from_folder(photos, size=32, batch_size=3, valid_pct=0.5)
    return vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)
