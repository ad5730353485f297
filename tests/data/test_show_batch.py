"""Photos of a batch, drawn with their labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layergroups.data import ImageDataLoaders

Folder = Callable[..., Path]


def loaders(root: Path, **options: Any) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=8, batch_size=4, cache=False, **options)


def test_a_batch_is_drawn(folder: Folder, tmp_path: Path) -> None:
    dls = loaders(folder(cat=6, dog=6))
    before = dls.train.epoch
    shown = dls.show_batch(tmp_path / "new" / "batch.png", n=5)
    x, y = dls.one_batch()
    assert shown.labels[:4] == tuple(dls.vocab[label] for label in y)
    assert len(shown.figure.axes) == 5
    spec = dls.input
    for i, axes in enumerate(shown.figure.axes[:4]):
        drawn = axes.images[0].get_array()
        normal = (np.asarray(drawn) - spec.mean) / spec.std
        np.testing.assert_allclose(normal, x[i].permute(1, 2, 0), atol=1e-4)
    with Image.open(tmp_path / "new" / "batch.png") as image:
        assert min(image.size) > 200
    assert dls.train.epoch == before
    assert shown._repr_png_()[:4] == b"\x89PNG"


def test_a_batch_of_validation_photos_or_of_one_photo(folder: Folder) -> None:
    dls = loaders(folder(cat=6, dog=6))
    assert len(dls.show_batch(n=50, valid=True).labels) == len(dls.valid_images)
    one = dls.show_batch(n=4, unique=True)
    assert len(set(one.labels)) == 1
    arrays = [axes.images[0].get_array() for axes in one.figure.axes]
    assert len(arrays) == 4
    assert not any(np.array_equal(arrays[0], other) for other in arrays[1:])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["a", "$x^2"], []] * 6, {"$x^2, a", "(no label)"}),
        ([[0.5, 2.0], [1.25, -3.0]] * 6, {"value 0 0.5, value 1 2", "value 0 1.25, value 1 -3"}),
        ([[str(i) for i in range(6)], ["0"]] * 6, {"0, 1, 2, 3 +2", "0"}),
    ],
)
def test_labels_stand_above_photos_in_words(folder: Folder, labels: Any, expected: Any) -> None:
    files = sorted(folder(cat=6, dog=6).glob("*/*.jpg"))
    dls = ImageDataLoaders.from_lists(files, labels, size=8, bs=4, valid_pct=0.1)
    assert set(dls.show_batch(n=11).labels) == expected


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channels_are_drawn(tmp_path: Path, channels: int) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).random((9, 9, channels)))
    files = sorted(tmp_path.glob("*.npy"))
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 2, channels=channels, size=8, bs=2)
    drawn = dls.show_batch(n=2).figure.axes[0].images[0].get_array()
    assert drawn.shape == ((8, 8, 3) if channels == 5 else (8, 8))
