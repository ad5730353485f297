from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layergroups.data import ImageDataLoaders
from layergroups.data.sources._folder import (
    find_images,
    read_folder,
    read_labelled,
)
from layergroups.data.sources._lists import read_unlabelled
from layergroups.errors import BrokenImagesError, DataError

Folder = Callable[..., Path]
Photo = Callable[..., Path]


def test_a_folder_without_parts_is_split_by_class(folder: Folder) -> None:
    found = read_folder(folder(cat=10, dog=5), valid_pct=0.2)
    assert found.vocab == ("cat", "dog")
    assert found.train.counts(2) == (8, 4)
    assert found.valid.counts(2) == (2, 1)
    assert not set(found.train.files) & set(found.valid.files)
    for photos in (found.train, found.valid):
        for path, label in zip(photos.paths, photos.labels or (), strict=True):
            assert path.parent.name == found.vocab[label]


def test_the_split_follows_the_seed(folder: Folder) -> None:
    root = folder(cat=20, dog=20)
    assert read_folder(root, seed=1) == read_folder(root, seed=1)
    assert read_folder(root, seed=1) != read_folder(root, seed=2)


def test_train_and_valid_sub_folders_are_taken_as_they_are(folder: Folder) -> None:
    root = folder()
    folder("photos/train", cat=3, dog=4)
    folder("photos/valid", cat=1, dog=2)
    folder("photos/test", bird=2)
    found = read_folder(root)
    assert (found.vocab, found.train.counts(2), found.valid.counts(2)) == (
        ("cat", "dog"),
        (3, 4),
        (1, 2),
    )


def test_the_sub_folders_may_have_other_names(folder: Folder) -> None:
    root = folder()
    folder("photos/learn", cat=2, dog=2)
    folder("photos/val", cat=1, dog=1)
    found = read_folder(root, train="learn", valid="val")
    assert (len(found.train), len(found.valid)) == (4, 2)


def test_real_folders_are_read_as_people_make_them(folder: Folder, photo: Photo) -> None:
    root = folder(cat=2, dog=2)
    photo("photos/cat/2024/summer/ÉTÉ.JPG", seed=7)  # nested, unicode, upper case
    photo("photos/小狗/写真 1.PNG", seed=8)
    photo("photos/小狗/写真 2.Jpeg", seed=9)
    photo("photos/cat/.hidden.jpg", seed=10)
    photo("photos/cat/.thumbs/1.jpg", seed=11)
    photo("photos/.trash/1.jpg", seed=12)
    found = read_folder(root, valid_pct=0.5)
    assert found.vocab == ("cat", "dog", "小狗")
    files = [*found.train.paths, *found.valid.paths]
    assert len(files) == 7
    assert {"ÉTÉ.JPG", "写真 1.PNG"} <= {path.name for path in files}


def test_a_class_name_is_the_same_however_its_accents_are_stored(folder: Folder) -> None:
    root = folder()
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    folder("photos/train", **{composed: 2, "hiver": 2})
    folder("photos/valid", **{decomposed: 1, "hiver": 1})
    assert read_folder(root).vocab == ("hiver", composed)


def test_links_to_folders_are_followed_but_not_in_circles(folder: Folder, tmp_path: Path) -> None:
    root = folder(cat=2, dog=2)
    folder("elsewhere", birds=3)
    (root / "bird").symlink_to(tmp_path / "elsewhere" / "birds")
    (root / "cat" / "again").symlink_to(root / "cat")
    found = read_folder(root)
    assert found.vocab == ("bird", "cat", "dog")
    assert len(found.train) + len(found.valid) == 7


def test_other_files_are_passed_over_in_one_line(
    folder: Folder, photo: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(cat=2, dog=2)
    for name in ("notes.txt", "b.HEIC", "c.heic", "Thumbs.db"):
        (root / "cat" / name).write_text("x")
    photo("photos/loose.jpg")
    with caplog.at_level(logging.WARNING, "layergroups"):
        read_folder(root)
    messages = [record.getMessage() for record in caplog.records]
    assert any("3 files" in m and ".heic: 2, .txt: 1" in m for m in messages)
    assert any("1 image outside of the class folders ('loose.jpg')" in m for m in messages)
    assert len(messages) == 2


@pytest.mark.parametrize("share", [0, 1, -0.1, 20, float("nan")])
def test_a_share_out_of_range_is_an_error(share: float, folder: Folder) -> None:
    with pytest.raises(DataError, match=r"write valid_pct=0\.2"):
        read_folder(folder(cat=2, dog=2), valid_pct=share)


def test_a_missing_folder_is_an_error_that_says_what_exists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder") as caught:
        read_folder(tmp_path / "phtos" / "clothes")
    assert f"{tmp_path} exists" in str(caught.value)


def test_a_file_is_no_folder(photo: Photo) -> None:
    with pytest.raises(DataError, match="is a file"):
        read_folder(photo("a.jpg"))


def test_a_folder_without_images_is_an_error(folder: Folder) -> None:
    with pytest.raises(DataError, match=r"has no images.*sub-folder for each class"):
        read_folder(folder())
    (folder() / "cat").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read_folder(folder())


def test_images_outside_class_folders_are_an_error(folder: Folder, photo: Photo) -> None:
    photo("photos/1.jpg")
    with pytest.raises(DataError, match="has 1 images, but not in class folders"):
        read_folder(folder())


def test_one_class_is_an_error(folder: Folder) -> None:
    with pytest.raises(DataError, match="one class only, 'cat'"):
        read_folder(folder(cat=5))


def test_an_empty_class_is_an_error(folder: Folder) -> None:
    with pytest.raises(DataError, match="No readable images in class 'dog'"):
        read_folder(folder(cat=5, bird=2, dog=0))


def test_different_classes_in_train_and_valid_are_named(folder: Folder) -> None:
    root = folder()
    folder("photos/train", cat=2, dog=2)
    folder("photos/valid", cat=2, bird=2)
    with pytest.raises(DataError, match="different classes") as caught:
        read_folder(root)
    assert f"only in {root / 'train'}: 'dog'" in str(caught.value)
    assert f"only in {root / 'valid'}: 'bird'" in str(caught.value)


def test_a_class_that_is_empty_in_valid_is_an_error(folder: Folder) -> None:
    root = folder()
    folder("photos/train", cat=2, dog=2)
    folder("photos/valid", cat=2, dog=0)
    with pytest.raises(DataError, match=r"'dog' of .*valid"):
        read_folder(root)


@pytest.mark.parametrize(
    ("parts", "fix"),
    [
        (["train"], r"from_folder\('.*photos/train', valid_pct=0\.2\)"),
        (["train", "test"], r"from_folder\('.*photos/train', valid_pct=0\.2\)"),
        (["Train", "test", "val"], r"from_folder\('.*photos', train='Train', valid='val'\)"),
        (["valid"], r"from_folder\('.*photos/valid', valid_pct=0\.2\)"),
    ],
)
def test_a_folder_that_is_almost_divided_is_not_guessed_at(
    parts: list[str], fix: str, folder: Folder
) -> None:
    root = folder()
    for part in parts:
        folder(f"photos/{part}", cat=2, dog=2)
    with pytest.raises(DataError, match=f"looks divided.*{fix}"):
        read_folder(root)


def test_a_class_may_be_called_train(folder: Folder) -> None:
    assert read_folder(folder(car=3, train=3)).vocab == ("car", "train")


def test_named_sub_folders_must_exist(folder: Folder) -> None:
    with pytest.raises(DataError, match=r"no sub-folder 'holdout'.*It has 'cat', 'dog'"):
        read_folder(folder(cat=2, dog=2), train="cat", valid="holdout")


def test_single_photos_are_kept_for_training_and_said(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "layergroups"):
        found = read_folder(folder(cat=4, dog=1))
    assert found.valid.counts(2) == (1, 0)
    assert "One item only of 'dog'" in caplog.text


def test_nothing_to_validate_with_is_an_error(folder: Folder) -> None:
    with pytest.raises(DataError, match="nothing to validate with"):
        read_folder(folder(cat=1, dog=1))


def test_broken_images_of_all_parts_are_listed_at_once(folder: Folder) -> None:
    root = folder()
    for part in ("train", "valid"):
        folder(f"photos/{part}", cat=2, dog=2)
        (root / part / "cat" / "broken.jpg").write_bytes(b"")
    with pytest.raises(BrokenImagesError) as caught:
        read_folder(root)
    assert str(caught.value).startswith("2 images cannot be read")
    found = read_folder(root, on_error="skip")
    assert (len(found.train), len(found.valid)) == (4, 4)


def test_a_class_of_broken_images_only_is_an_error(folder: Folder) -> None:
    root = folder(cat=3, dog=3)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="No readable images in class 'dog'"):
        read_folder(root, on_error="skip")


def test_photos_are_labelled_by_a_known_vocabulary(folder: Folder) -> None:
    photos = read_labelled(folder(cat=2, dog=1), ("ant", "cat", "dog"))
    assert photos.labels == (1, 1, 2)
    with pytest.raises(DataError, match="does not know: 'dog'"):
        read_labelled(folder("more", dog=1), ("ant", "cat"))


def test_unlabelled_photos_come_from_a_folder_a_file_or_a_list(
    folder: Folder, photo: Photo
) -> None:
    root = folder(cat=2, dog=1)
    assert len(read_unlabelled(root)) == 3
    one = photo("one.jpg")
    assert read_unlabelled(one).paths == (one,)
    assert read_unlabelled([one, str(one)]).paths == (one, one)
    assert read_unlabelled(iter([one])).labels is None


def test_unlabelled_photos_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The list of images is empty"):
        read_unlabelled([])
    with pytest.raises(DataError, match="has no images, nor have its sub-folders"):
        read_unlabelled(tmp_path)
    with pytest.raises(BrokenImagesError, match="the file does not exist"):
        read_unlabelled(tmp_path / "gone.jpg")


def test_images_are_found_in_the_same_order_everywhere(folder: Folder) -> None:
    found = find_images(folder(b=3, a=3))
    assert found == sorted(found)
    assert len(found) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_among_images_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(3):
            photo = tmp_path / label / f"{i}.png"
            photo.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 20)).save(photo)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with pytest.raises(BrokenImagesError, match=r"pipe\.png: not a regular file"):
        read_folder(tmp_path)


def test_links_that_point_to_themselves_are_no_folders(folder: Folder, tmp_path: Path) -> None:
    root = folder(cat=2, dog=2)
    (root / "cat" / "loop").symlink_to("loop")
    (root / "cat" / "up").symlink_to(root)
    (root / "round").symlink_to("round")
    assert len(find_images(root)) == 4
    assert read_folder(root, valid_pct=0.5).vocab == ("cat", "dog")


def test_folders_may_be_nested_deeply(tmp_path: Path, photo: Photo) -> None:
    folders = [str(tmp_path / "photos")]
    while len(folders) < sys.getrecursionlimit() + 100:
        folders.append(f"{folders[-1]}/d")
    for each in folders:
        os.mkdir(each)
    try:
        file = shutil.copy(photo("a.jpg"), folders[-1])
        assert find_images(tmp_path / "photos") == [file]
        os.remove(file)
    finally:  # rmtree, by which pytest tidies up, cannot
        for each in reversed(folders):
            os.rmdir(each)


def test_a_pipe_among_the_photos_is_named(folder: Folder) -> None:
    root = folder(cat=2, dog=2)
    os.mkfifo(root / "cat" / "z.jpg")
    with pytest.raises(BrokenImagesError, match=r"z\.jpg: not a regular file"):
        read_folder(root)
    found = read_folder(root, valid_pct=0.5, on_error="skip")
    assert [image.path.name for image in found.broken] == ["z.jpg"]


@pytest.mark.parametrize("augment", [True, False])
def test_names_that_are_not_utf_8_train(folder: Folder, photo: Photo, augment: bool) -> None:
    root = folder(dog=6)
    odd = os.fsdecode(os.fsencode(root) + b"/caf\xe9")
    os.mkdir(odd)
    for i in range(6):
        photo("a.jpg", seed=i).rename(os.path.join(odd, os.fsdecode(b"\xfc%d.jpg" % i)))
    options: dict[str, Any] = {"size": 8, "batch_size": 4, "num_workers": 0}
    dls = ImageDataLoaders.from_folder(root, augment=augment, **options)
    assert dls.vocab == ("café", "dog")
    print(dls, dls.summary(), file=io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert len([*dls.train, *dls.valid]) == len(dls.train) + len(dls.valid)
    files = [*dls.train.paths, *dls.valid.paths]
    by_name = ImageDataLoaders.from_pattern(files, lambda file: file.parent.name, **options)
    assert by_name.vocab == dls.vocab
