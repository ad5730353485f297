from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.conftest import Folder

import layergroups.data
from layergroups.data import (
    ImageDataLoaders,
    InferenceData,
    check_images,
    transform_from_config,
)
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

HALF = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", source="other weights")


@pytest.fixture
def dls(root: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=(16, 12), batch_size=8)


def test_the_public_names_are_sorted_and_there() -> None:
    names = layergroups.data.__all__
    assert sorted(names, key=lambda name: (not name.isupper(), name)) == names
    assert all(hasattr(layergroups.data, name) for name in names)


def test_a_folder_becomes_batches(dls: ImageDataLoaders) -> None:
    assert dls.vocab == dls.classes == ("cat", "dog")
    assert (dls.c, dls.size, dls.batch_size, dls.seed) == (2, (16, 12), 8, 42)
    assert (len(dls.train), len(dls.valid)) == (3, 1)
    x, y = next(iter(dls.train))
    assert x.shape == (8, 3, 16, 12)
    assert set(y.tolist()) <= {0, 1}
    assert sum(len(y) for _, y in dls.valid) == len(dls.valid_images) == 5


def test_one_batch_changes_nothing(dls: ImageDataLoaders) -> None:
    state = torch.get_rng_state()
    x, y = dls.one_batch()
    again, _ = dls.one_batch()
    assert torch.equal(x, again)
    assert dls.train.epoch == 0
    assert torch.equal(torch.get_rng_state(), state)
    first_x, first_y = next(iter(dls.train))
    assert torch.equal(first_x, x)
    assert torch.equal(first_y, y)


def test_views_have_one_order_and_variations_of_their_own(dls: ImageDataLoaders) -> None:
    def view(epoch: int) -> torch.Tensor:
        pairs = list(dls.views(epoch))
        assert tuple(torch.cat([y for _, y in pairs]).tolist()) == dls.train_images.labels
        return torch.cat([x for x, _ in pairs])

    assert torch.equal(view(1), view(1))
    assert not torch.equal(view(1), view(2))
    assert dls.train.epoch == 0


def test_a_view_varies_each_photo_as_the_epoch_does(dls: ImageDataLoaders) -> None:
    order = [i for batch in dls.train.plan(4) for i, _ in batch]
    dls.train.set_epoch(4)
    shuffled = torch.cat([x for x, _ in dls.train])
    in_order = torch.cat([x for x, _ in dls.views(4)])
    torch.testing.assert_close(in_order[order], shuffled)


def test_train_eval_is_neither_shuffled_nor_varied(dls: ImageDataLoaders) -> None:
    x = torch.cat([x for x, _ in dls.train_eval])
    torch.testing.assert_close(x, torch.stack([dls.load(p) for p in dls.train_eval.paths]))
    assert dls.train_eval.samples == dls.train_images


def test_bind_takes_statistics_and_keeps_the_rest(dls: ImageDataLoaders) -> None:
    dls.train.set_epoch(3)
    bound = dls.bind(HALF)
    assert (dls.input.source, bound.input) == ("ImageNet defaults", HALF)
    assert (bound.size, bound.train.epoch, bound.input_is_default) == (dls.size, 3, True)
    assert bound.train_images == dls.train_images
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    torch.testing.assert_close(bound.load(image)[:, 3, 3], torch.tensor([1.0, -1.0, -1.0]))


def test_given_statistics_are_the_users(root: Path) -> None:
    dls = ImageDataLoaders.from_folder(root, normalize=HALF)
    assert not dls.input_is_default
    assert dls.input == HALF


def test_bind_fits_statistics_to_the_channels_of_the_photos(dls: ImageDataLoaders) -> None:
    bound = dls.bind(InputSpec(mean=(0.4,), std=(0.2,), source="grey weights"))
    assert (bound.input.mean, bound.input.std) == ((0.4,) * 3, (0.2,) * 3)
    assert bound.input.source == "grey weights, 1 channels repeated for 3"


def test_photos_to_predict_come_in_order(dls: ImageDataLoaders, root: Path) -> None:
    test = dls.test_dl(root / "dog")
    batches = list(test)
    assert [len(x) for x in batches] == [8, 7]
    assert [p.name for p in test.paths] == [f"{i:03d}.jpg" for i in range(15)]
    torch.testing.assert_close(batches[0][2], dls.load(test.paths[2]))
    one = root / "cat" / "001.jpg"
    assert dls.test_dl([one, one]).paths == (one, one)
    assert len(dls.test_dl(one)) == 1


def test_broken_photos_to_predict_are_raised_or_skipped(root: Path, folder: Folder) -> None:
    new = folder("new", batch=3)
    (new / "batch" / "001.jpg").write_bytes(b"")
    with pytest.raises(BrokenImagesError, match=r"001\.jpg: empty"):
        ImageDataLoaders.from_folder(root, bs=4).test_dl(new)
    skipping = ImageDataLoaders.from_folder(root, bs=4, on_error="skip")
    assert len(skipping.test_dl(new).paths) == 2


def test_the_description_loads_photos_without_the_loaders(
    dls: ImageDataLoaders, root: Path
) -> None:
    bound = dls.bind(HALF)
    transform = transform_from_config(json.loads(json.dumps(bound.transform_config())))
    path = root / "cat" / "003.jpg"
    assert torch.equal(transform(path), bound.load(path))
    assert torch.equal(transform(np.array(Image.open(path))), bound.load(Image.open(path)))


def test_batches_for_an_exported_model(dls: ImageDataLoaders, root: Path) -> None:
    data = InferenceData(("ant", "cat", "dog"), dls.transform, dls.task)
    labelled = data.test_dl(root, with_labels=True, batch_size=20)
    assert torch.cat([y for _, y in labelled]).tolist() == [1] * 10 + [2] * 15
    plain = data.test_dl(root, batch_size=20)
    assert torch.equal(torch.cat(list(plain)), torch.cat([x for x, _ in labelled]))


def test_it_prints_what_it_holds(dls: ImageDataLoaders) -> None:
    text = str(dls.bind(HALF))
    assert text.splitlines()[0] == (
        "ImageDataLoaders: 20 training and 5 validation images of 2 classes"
    )
    assert "cat 8 + 2, dog 12 + 3" in text
    assert "16 x 12 pixels (height x width), in batches of 8" in text
    assert "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), bicubic (other weights)" in text


def test_many_classes_are_not_all_printed(folder: Folder) -> None:
    root = folder(**{f"class{i:02d}": 2 for i in range(14)})
    text = str(ImageDataLoaders.from_folder(root, bs=4))
    assert "class09 1 + 1 and 4 more" in text


def test_workers_give_the_same_batches(root: Path) -> None:
    without, with_two = (
        ImageDataLoaders.from_folder(root, size=8, bs=4, num_workers=n) for n in (0, 2)
    )
    for _ in range(2):
        for (x, y), (other_x, other_y) in zip(without.train, with_two.train, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)
    for (x, _), (other_x, _) in zip(without.valid, with_two.valid, strict=True):
        assert torch.equal(x, other_x)


SPEC = InputSpec(mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.4), source="some weights")


PLAIN: dict[str, Any] = {"size": 8, "batch_size": 4, "augment": False}


def test_grey_photos_stay_grey(folder: Callable[..., Path]) -> None:
    dls = ImageDataLoaders.from_folder(folder(cat=6, dog=6), channels=1, **PLAIN).bind(SPEC)
    x, _ = dls.one_batch()
    assert x.shape == (4, 1, 8, 8)
    assert dls.channels == dls.input.channels == 1
    assert "1 channel(s)" in str(dls)


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


def test_a_folder_of_arrays(multispectral: list[Path], tmp_path: Path) -> None:
    for i, path in enumerate(multispectral):
        (tmp_path / "classes" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "classes" / "ab"[i % 2] / path.name)
    dls = ImageDataLoaders.from_folder(tmp_path / "classes", channels=5, **PLAIN)
    assert dls.one_batch()[0].shape == (4, 5, 8, 8)
    assert next(iter(dls.test_dl(tmp_path / "classes" / "a"))).shape == (4, 5, 8, 8)
    with pytest.raises(DataError, match="has no images"):
        ImageDataLoaders.from_folder(tmp_path / "classes", **PLAIN)


def test_other_channels_are_broken_images(
    multispectral: list[Path], photo: Callable[..., Path]
) -> None:
    (found,) = check_images([*multispectral, photo("a.png")], channels=5)
    assert found.reason == "3 channels, expected (height, width, 5)"
    with pytest.raises(BrokenImagesError, match=r"0\.npy: 5 channels"):
        ImageDataLoaders.from_lists(multispectral, ["a", "b"] * 6, channels=4)


def test_grey_and_deep_photos_share_a_batch(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(tmp_path / "deep.png")
    files = [tmp_path / "flat.png", tmp_path / "deep.png"] * 4
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 4, channels=1, **PLAIN)
    x, _ = dls.one_batch()
    torch.testing.assert_close(x, torch.full_like(x, float(x[0, 0, 0, 0])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels=0 .*whole number from 1"),
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
