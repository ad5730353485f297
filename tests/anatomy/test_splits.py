"""Where known networks are split, and why."""

from __future__ import annotations

import pytest
from tests.anatomy.covered import anatomy_of

from layergroups.anatomy import choose_splits

# architecture, where its body is divided, words of the reason
SPLITS = [
    ("resnet18", "layer3.0", "28 → 14, 1/16 of the image"),
    ("resnet34", "layer3.0", "28 → 14, 1/16 of the image"),
    ("vgg16", "features.17", "56 → 28, the fall nearest to half of the depth (7 of 13"),
    ("vgg16_bn", "features.24", "56 → 28, the fall nearest to half of the depth (7 of 13"),
    ("alexnet", "features.6", "27 → 13"),
    ("mobilenet_v2", "features.7", "28 → 14"),
    ("vit_b_16", "encoder.layers.encoder_layer_6", "the resolution stays the same"),
    ("swin_t", "features.4", "28 → 14"),
]


@pytest.mark.parametrize(("name", "path", "words"), SPLITS)
def test_split_and_its_reason(name: str, path: str, words: str) -> None:
    anatomy = anatomy_of(name)
    ((boundary, reason),) = choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, 2)
    assert boundary.path == path
    assert words in reason
