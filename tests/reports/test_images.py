"""Images of batches and files, found again by position."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups import ImageDataLoaders, Interpretation, Learner, vision_learner
from layergroups.errors import LayerGroupsError


def test_images_are_found_again_and_grad_cam_looks_at_them() -> None:
    learn = Learner(TinyLoaders(), tiny_model(), split=2, progress=False)
    found = Interpretation.from_learner(learn)
    images = found.images([17, 0])
    assert len(images) == 2
    assert images[0].shape == (16, 16, 3)
    spec, raw = learn.dls.input, learn.dls.valid.x[17]
    pixels = raw * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]
    assert torch.allclose(torch.from_numpy(images[0]), pixels.clamp(0, 1).permute(1, 2, 0))
    assert found.grad_cam([17, 0, 3]).shape == (3, 16, 16)


def test_batches_in_another_order_are_noticed() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(40, 3, 16, 16), torch.arange(40) % 3)
    shuffled = torch.utils.data.DataLoader(data, 8, shuffle=True)
    found = Interpretation.from_learner(
        Learner(TinyLoaders(), tiny_model(), split=2, progress=False), shuffled
    )
    torch.manual_seed(1)  # with the random state of the first pass, the order would be the same
    with pytest.raises(LayerGroupsError, match="shuffle=False"):
        found.images(range(40))
    once = Interpretation.from_learner(cast(Any, found.learner), iter(TinyLoaders().valid))
    with pytest.raises(LayerGroupsError, match="more than once"):
        once.images([3])


@pytest.fixture
def clothes(folder: Any) -> Any:
    dls = ImageDataLoaders.from_folder(folder(cat=5, dog=5, cow=5), size=32, batch_size=4)
    return vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)


def test_photos_know_their_files(clothes: Any) -> None:
    found = Interpretation.from_learner(clothes)
    assert found.paths == clothes.dls.valid_images.paths
    assert found.classes == ("cat", "cow", "dog")
    item = found.top_losses(1)[0]
    assert item.path is not None
    assert item.path.parent.name == item.actual
    one = clothes.dls.load(item.path)
    batch = clothes.dls.valid.at([item.index])[0][0]
    assert torch.equal(one, batch)
