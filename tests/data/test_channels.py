"""Images of one, of three and of many channels, through all that is done to them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from layergroups.data import (
    Augmentation,
    EvalTransform,
    ImageDataLoaders,
    check_images,
    transform_from_config,
)
from layergroups.data.image._opening import open_picture
from layergroups.data.image._transforms import TrainTransform
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

SPEC = InputSpec(mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.4), source="some weights")
PLAIN: dict[str, Any] = {"size": 8, "batch_size": 4, "augment": False}


def bands(n: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray[Any, Any]:
    """Smooth bands (12, 10, n) that differ from each other."""
    across = np.linspace(0, 200, 10)[None, :, None] + np.linspace(0, 50, 12)[:, None, None]
    return (across / (1 + np.arange(n)) + seed % 5).astype(kind)


@pytest.fixture
def multispectral(tmp_path: Path) -> list[Path]:
    (tmp_path / "bands").mkdir()
    for i in range(12):
        np.save(tmp_path / "bands" / f"{i}.npy", bands(5, np.uint16, i) * 100)
    return sorted((tmp_path / "bands").glob("*.npy"))


def test_statistics_follow_the_channels() -> None:
    grey = SPEC.for_channels(1)
    assert grey.mean == pytest.approx((0.4,))
    assert grey.std == pytest.approx((0.3,))
    assert grey.source == "some weights, mean of 3 channels"
    five = SPEC.for_channels(5)
    assert five.mean == (0.1, 0.4, 0.7, 0.1, 0.4)
    assert five.channels == 5
    assert SPEC.for_channels(3) is SPEC


def test_grey_photos_stay_grey(folder: Callable[..., Path]) -> None:
    dls = ImageDataLoaders.from_folder(folder(cat=6, dog=6), channels=1, **PLAIN).bind(SPEC)
    x, _ = dls.one_batch()
    assert x.shape == (4, 1, 8, 8)
    assert dls.channels == dls.input.channels == 1
    assert "1 channel(s)" in str(dls)


def test_grey_is_the_same_from_anything(photo: Callable[..., Path]) -> None:
    path = photo("a.png")
    with Image.open(path) as colours:
        grey = colours.convert("L")
        load = EvalTransform((32, 24), SPEC.for_channels(1))
        sources = (path, grey, colours, np.asarray(grey), torch.tensor(np.array(grey)))
        for source in sources:
            assert load(source).shape == (1, 32, 24)
            assert torch.equal(load(source), load(grey))
    assert EvalTransform((8, 8), SPEC)(grey).shape == (3, 8, 8)


def test_grey_is_varied_as_colours_are(folder: Callable[..., Path]) -> None:
    root = folder(cat=6, dog=6)
    dls = ImageDataLoaders.from_folder(root, channels=1, size=8, batch_size=4)
    once, again = dls.views(0), dls.views(1)
    assert not torch.equal(next(iter(once))[0], next(iter(again))[0])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("cache", [False, True])
def test_arrays_of_many_channels_become_batches(
    multispectral: list[Path], tmp_path: Path, cache: bool
) -> None:
    options: dict[str, Any] = {"channels": 5, "size": 8, "batch_size": 4}
    made = [
        ImageDataLoaders.from_lists(
            multispectral, ["a", "b"] * 6, num_workers=workers, **options,
            cache=tmp_path / "cache" if cache else False,
        )
        for workers in (0, 0, 2)
    ]  # fmt: skip
    passes = [list(dls.train) for dls in made]
    assert passes[0][0][0].shape == (4, 5, 8, 8)
    for one, two, three in zip(*passes, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[0], three[0])
    assert bool(list((tmp_path / "cache").glob("??/*"))) == cache


def test_many_bits_are_kept(multispectral: list[Path]) -> None:
    dls = ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=5, **PLAIN)
    raw = np.load(multispectral[0])
    load = EvalTransform((12, 10), dls.input, crop_pct=1.0)
    expected = torch.tensor(raw / np.float32(65535)).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (dls.input.mean, dls.input.std))
    torch.testing.assert_close(load(multispectral[0]), (expected - mean) / std)
    for source in (raw, np.moveaxis(raw, -1, 0), expected):
        torch.testing.assert_close(load(source), load(multispectral[0]))


def test_a_folder_of_arrays(multispectral: list[Path], tmp_path: Path) -> None:
    for i, path in enumerate(multispectral):
        (tmp_path / "classes" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "classes" / "ab"[i % 2] / path.name)
    dls = ImageDataLoaders.from_folder(tmp_path / "classes", channels=5, **PLAIN)
    assert dls.one_batch()[0].shape == (4, 5, 8, 8)
    assert next(iter(dls.test_dl(tmp_path / "classes" / "a"))).shape == (4, 5, 8, 8)
    with pytest.raises(DataError, match="has no images"):
        ImageDataLoaders.from_folder(tmp_path / "classes", **PLAIN)


def test_the_description_carries_the_channels(multispectral: list[Path]) -> None:
    dls = ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=5, **PLAIN)
    again = transform_from_config(json.loads(json.dumps(dls.transform_config())))
    assert again.channels == 5
    assert torch.equal(again(multispectral[0]), dls.load(multispectral[0]))


def test_other_channels_are_broken_images(
    multispectral: list[Path], photo: Callable[..., Path]
) -> None:
    (found,) = check_images([*multispectral, photo("a.png")], channels=5)
    assert found.reason == "3 channels, expected (height, width, 5)"
    with pytest.raises(BrokenImagesError, match=r"0\.npy: 5 channels"):
        ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=4)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "No data left"),
        (lambda path: np.save(path, np.array([["a", "b"]])), "an array of <U1|shape"),
        (lambda path: np.save(path, np.zeros((4, 4, 2), dtype="M8[s]")), "expected numbers"),
        (lambda path: np.save(path, np.zeros((0, 4, 2))), "expected .height, width, 2."),
    ],
)
def test_broken_arrays_are_found(write: Any, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "a.npy")
    (found,) = check_images([tmp_path / "a.npy"], channels=2)
    assert re.search(reason, found.reason), found.reason


def test_alpha_and_pages_are_channels(tmp_path: Path) -> None:
    Image.fromarray(bands(4)).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png", channels=4)), bands(4))
    pages = [Image.fromarray(bands(6)[..., i]) for i in range(6)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.tif", channels=6)), bands(6))


def test_a_tiff_of_deep_bands_is_read_where_tifffile_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = bands(6, np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="minisblack", planarconfig="contig")
    opened = np.asarray(open_picture(tmp_path / "a.tif", channels=6))
    np.testing.assert_allclose(opened, deep / 65535, rtol=1e-6)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (found,) = check_images([tmp_path / "a.tif"], channels=6)
    assert "pip install tifffile" in found.reason


def test_deep_grey_keeps_its_bits(tmp_path: Path) -> None:
    deep = bands(1, np.uint16)[..., 0] * 5
    Image.fromarray(deep).save(tmp_path / "a.png")
    opened = np.asarray(open_picture(tmp_path / "a.png", channels=1))
    assert opened.dtype == np.float32
    np.testing.assert_allclose(opened[..., 0], deep / 65535, rtol=1e-6)


def test_large_arrays_are_made_smaller_before_they_are_kept(tmp_path: Path) -> None:
    large = np.kron(bands(5), np.ones((9, 9, 1), dtype=np.uint8))
    np.save(tmp_path / "a.npy", large)
    assert np.asarray(open_picture(tmp_path / "a.npy", channels=5, min_size=10)).shape == (
        12,
        10,
        5,
    )


def test_grey_and_deep_photos_share_a_batch(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(tmp_path / "deep.png")
    files = [tmp_path / "flat.png", tmp_path / "deep.png"] * 4
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 4, channels=1, **PLAIN)
    x, _ = dls.one_batch()
    torch.testing.assert_close(x, torch.full_like(x, float(x[0, 0, 0, 0])))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos", "nearest"])
def test_arrays_are_varied_by_the_default_augmentation(kind: Any, interpolation: str) -> None:
    plain = EvalTransform((8, 6), InputSpec(interpolation=interpolation).for_channels(5))
    varied = TrainTransform(Augmentation(), plain)
    image = bands(5, kind)
    pixels = varied.pixels(image)
    assert pixels.shape == (8, 6, 5)
    assert pixels.dtype == (torch.uint8 if kind is np.uint8 else torch.float32)
    assert not torch.equal(pixels, varied.pixels(image))
    none = Augmentation(scale=(1, 1), ratio=(10 / 12, 10 / 12), flip=0, brightness=0, contrast=0)
    same = EvalTransform((12, 10), plain.input, crop_pct=1.0)
    assert torch.equal(TrainTransform(none, same).pixels(image), torch.tensor(image))


def test_ones_own_function_gets_arrays_as_tensors() -> None:
    plain = EvalTransform((12, 10), InputSpec().for_channels(5), crop_pct=1.0)
    seen = TrainTransform(lambda image: image.flip(-1), plain).pixels(bands(5))
    assert torch.equal(seen, torch.tensor(bands(5)[:, ::-1].copy()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels=0: expected a whole number from 1"),
        ({"channels": "grey"}, "channels='grey'"),
        ({"channels": 4, "normalize": SPEC}, "channels=4, but normalize= has statistics for 3"),
        ({"normalize": (0.5, 0.5)}, r"normalize=\(0.5, 0.5\): expected statistics"),
    ],
)
def test_impossible_channels_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageDataLoaders.from_folder(".", **options)


def test_given_statistics_tell_the_channels(multispectral: list[Path]) -> None:
    spec = InputSpec(mean=(0.1,) * 5, std=(0.2,) * 5)
    dls = ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, normalize=spec, **PLAIN)
    assert dls.one_batch()[0].shape == (4, 5, 8, 8)
