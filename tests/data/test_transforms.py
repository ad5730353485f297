from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.conftest import bands, picture
from torchvision.transforms import v2

from layergroups._random import private_randomness
from layergroups.data import (
    Augmentation,
    EvalTransform,
    ImageDataLoaders,
    transform_from_config,
)
from layergroups.data.image._transforms import (
    _ERASE,
    _GREY,
    _POLICIES,
    TrainTransform,
    as_size,
    normalise,
)
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

HALF = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", source="a test")


def test_normalising_is_torchvisions_and_channels_last() -> None:
    pixels = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    spec = InputSpec()
    expected = v2.functional.normalize(
        pixels.permute(0, 3, 1, 2).float() / 255, list(spec.mean), list(spec.std)
    )
    result = normalise(pixels, spec)
    assert (result.dtype, result.shape) == (torch.float32, (3, 3, 5, 7))
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_transform_is_torchvisions_resize_and_centre_crop(interpolation: str) -> None:
    spec = InputSpec(interpolation=interpolation)
    image = picture(1, (61, 45))
    mode = v2.InterpolationMode(interpolation)
    resized = v2.functional.resize(image, [30], interpolation=mode)
    expected = v2.functional.pil_to_tensor(v2.functional.center_crop(resized, [24, 24]))
    pixels = EvalTransform((24, 24), spec, crop_pct=0.8).pixels(image)
    assert torch.equal(pixels.permute(2, 0, 1), expected)


@pytest.mark.parametrize("size", [(32, 32), (20, 50), (50, 20), (1, 1)])
@pytest.mark.parametrize("shape", [(48, 40), (7, 300), (300, 7), (1, 1)])
def test_any_image_comes_out_in_the_size(size: tuple[int, int], shape: tuple[int, int]) -> None:
    image = picture(0, shape)
    plain = EvalTransform(size)
    assert plain.pixels(image).shape == (*size, 3)
    varied = TrainTransform(Augmentation(), plain)
    assert varied.pixels(image).shape == (*size, 3)


def test_a_picture_is_loaded_the_same_from_anything(photo: Callable[..., Path]) -> None:
    path = photo("a.png", seed=2)
    image = Image.open(path)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    load = EvalTransform((32, 24), HALF)
    expected = load(path)
    assert (expected.shape, expected.dtype) == ((3, 32, 24), torch.float32)
    for source in (str(path), image, array, array / 255, tensor, tensor / 255):
        torch.testing.assert_close(load(source), expected)


def test_grey_arrays_and_tensors_are_images_too() -> None:
    load = EvalTransform((8, 8), HALF)
    grey = np.full((10, 10), 51, dtype=np.uint8)
    for source in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        torch.testing.assert_close(load(source), torch.full((3, 8, 8), -0.6))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "is not one image"),
        (np.zeros((3, 8, 8), np.uint8), r"expected an array \(height, width, 3\)"),
        (torch.zeros(8, 8, 3), r"a tensor \(3, height, width\)"),
        (torch.full((3, 8, 8), -1.5), "Do not normalise them"),
        (np.full((8, 8, 3), 700), "expected uint8"),
        (17, "int is not an image"),
    ],
)
def test_what_is_no_image_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        EvalTransform((8, 8))(source)


def test_a_broken_file_is_named_and_the_cause_chained(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(BrokenImagesError, match=r"a\.jpg: the file does not exist") as caught:
        EvalTransform((8, 8))(path)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_the_description_gives_the_transform_back(photo: Callable[..., Path]) -> None:
    transform = EvalTransform((20, 30), HALF, crop_pct=0.9)
    again = transform_from_config(json.loads(json.dumps(transform.to_config())))
    path = photo("a.jpg")
    assert torch.equal(again(path), transform(path))
    assert again.to_config() == transform.to_config()


def test_a_description_with_gaps_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected the entries size.*crop_pct"):
        transform_from_config({"size": [2, 2]})


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"ratio": (2.0, 1.0)},
        {"flip": 2},
        {"brightness": -0.1},
    ],
)
def test_impossible_augmentations_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="does not work"):
        Augmentation(**options)


def test_augmentation_varies_and_can_be_tuned_off() -> None:
    image, plain = picture(4, (32, 32)), EvalTransform((32, 32), crop_pct=1.0)
    varied = TrainTransform(Augmentation(), plain)
    assert not torch.equal(varied.pixels(image), varied.pixels(image))
    none = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0, brightness=0, contrast=0)
    assert torch.equal(TrainTransform(none, plain).pixels(image), plain.pixels(image))


def test_photos_are_decoded_large_enough_for_the_smallest_cut() -> None:
    for augmentation in (Augmentation(), Augmentation(scale=(0.08, 1.0), ratio=(0.5, 2.0))):
        side = augmentation.decode_size((100, 100))
        smallest = (side * side * augmentation.scale[0] * augmentation.ratio[0]) ** 0.5
        assert 100 <= smallest <= 101
    assert TrainTransform(Augmentation(), EvalTransform((100, 50))).decode_size == 164
    assert TrainTransform(v2.Identity(), EvalTransform((100, 50))).decode_size is None


@pytest.mark.parametrize(
    "augment",
    [
        lambda image: image.rotate(90, expand=True),
        lambda image: image.convert("L"),
        v2.RandomResizedCrop(16),
        v2.PILToTensor(),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    ],
)
def test_any_function_of_an_image_augments(augment: Any) -> None:
    pixels = TrainTransform(augment, EvalTransform((16, 16))).pixels(picture())
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), torch.uint8)


def test_an_augmentation_must_give_an_image() -> None:
    with pytest.raises(DataError, match="augment= "):
        TrainTransform(lambda image: "no", EvalTransform((16, 16))).pixels(picture())


@pytest.mark.parametrize("size", [0, -1, (2, 3, 4), (2.5, 3), (0, 5), True, "ab", 32.0, None])
def test_impossible_sizes_are_refused(size: Any) -> None:
    with pytest.raises(DataError, match="size="):
        as_size(size)


def test_sizes_are_a_side_or_height_and_width() -> None:
    assert as_size(224) == (224, 224)
    assert as_size((100, 50)) == (100, 50)


@pytest.mark.parametrize(
    ("spec", "crop_pct", "message"),
    [
        (InputSpec(interpolation="cubic"), 0.9, "interpolation='cubic'.*bicubic"),
        (InputSpec(mean=(0.5,)), 0.9, "a number for each channel"),
        (InputSpec(std=(0.5, 0.0, 0.5)), 0.9, "none of std zero"),
        (InputSpec(), 1.5, "crop_pct=1.5"),
    ],
)
def test_statistics_that_do_not_fit_photos_are_refused(
    spec: InputSpec, crop_pct: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        EvalTransform((8, 8), spec, crop_pct)


WORDS = (*_POLICIES, _ERASE)


def varied(augment: Augmentation, seed: int) -> torch.Tensor:
    transform = TrainTransform(augment, EvalTransform((24, 32)))
    with private_randomness(seed):
        return transform.pixels(picture(1, (80, 60)))


@pytest.mark.parametrize("word", WORDS)
def test_a_word_varies_more_than_the_default_and_by_its_seed(word: str) -> None:
    given, mild = Augmentation.named(word), Augmentation(brightness=0.0, contrast=0.0)
    found = [varied(given, seed) for seed in range(20)]
    assert all(pixels.shape == (24, 32, 3) and pixels.dtype == torch.uint8 for pixels in found)
    assert torch.equal(found[3], varied(given, 3))
    plain = [varied(mild, seed) for seed in range(20)]
    changed = [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert sum(changed) >= (12 if word != _ERASE else 2)


def test_a_document_is_neither_mirrored_nor_cut() -> None:
    plain = EvalTransform((24, 32))
    still = replace(Augmentation.named("document"), brightness=0.0, contrast=0.0)
    for size in ((80, 60), (32, 24)):  # the second is as large as the result
        image = picture(1, size)
        for pixels in (TrainTransform(still, plain).pixels(image) for _ in range(4)):
            assert torch.equal(pixels, plain.pixels(image))
    found = [varied(Augmentation.named("document"), seed) for seed in range(4)]
    assert not torch.equal(found[0], found[1])


def test_erasing_fills_a_rectangle_of_some_photos() -> None:
    found = [varied(Augmentation(erase=1.0, brightness=0.0, contrast=0.0), s) for s in range(10)]
    for pixels in found:
        grey = (pixels == _GREY).all(dim=2)
        rows, columns = grey.any(dim=1).sum(), grey.any(dim=0).sum()
        assert 0.01 < grey.float().mean() < 0.4
        assert grey.sum() == rows * columns


def test_policies_and_erasing_go_together_in_batches(folder) -> None:
    given = {"size": 16, "batch_size": 4, "cache": False}
    path = folder(cat=5, dog=5)
    both = Augmentation(policy="rand", erase=0.5)
    for augment in (both, "trivial"):
        here, workers = (
            ImageDataLoaders.from_folder(path, augment=augment, num_workers=n, **given)
            for n in (0, 1)
        )
        for (x, y), (x2, y2) in zip(here.train, workers.train, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert here.augment == Augmentation.named("trivial")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Augmentation.named("strong"), '"rand", "trivial"'),
        (lambda: Augmentation(policy="strong"), "'strong' is not known"),
        (lambda: Augmentation(policy="erase"), r"Augmentation\(erase=0.25\)"),
        (lambda: Augmentation(erase=2), "erase=2"),
        (lambda: Augmentation(policy=3), "augment=3 is not known"),
    ],
)
def test_an_unknown_word_lists_the_known_ones(make, says) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_grey_is_what_the_network_takes_for_nothing() -> None:
    grey = np.full((24, 32, 3), _GREY, np.uint8)
    assert EvalTransform((24, 32))(grey).abs().max() < 0.25


SPEC = InputSpec(mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.4), source="some weights")


PLAIN: dict[str, Any] = {"size": 8, "batch_size": 4, "augment": False}


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


def test_many_bits_are_kept(multispectral: list[Path]) -> None:
    dls = ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=5, **PLAIN)
    raw = np.load(multispectral[0])
    load = EvalTransform((12, 10), dls.input, crop_pct=1.0)
    expected = torch.tensor(raw / np.float32(65535)).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (dls.input.mean, dls.input.std))
    torch.testing.assert_close(load(multispectral[0]), (expected - mean) / std)
    for source in (raw, np.moveaxis(raw, -1, 0), expected):
        torch.testing.assert_close(load(source), load(multispectral[0]))


def test_the_description_carries_the_channels(multispectral: list[Path]) -> None:
    dls = ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=5, **PLAIN)
    again = transform_from_config(json.loads(json.dumps(dls.transform_config())))
    assert again.channels == 5
    assert torch.equal(again(multispectral[0]), dls.load(multispectral[0]))


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
