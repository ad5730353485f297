"""Lists and patterns become the same loaders as folders do."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from layergroups.data import ImageDataLoaders
from layergroups.errors import BrokenImagesError, DataError

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

N = 12
SMALL: dict[str, Any] = {"size": 8, "batch_size": 4, "cache": False}


@pytest.fixture
def files(photo: Callable[..., Path]) -> list[Path]:
    return [photo(f"photos/{'ab'[i % 2]}_{i}.jpg", seed=i) for i in range(N)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def together(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_lists_give_what_a_folder_gives(folder: Callable[..., Path]) -> None:
    root = folder(cat=6, dog=8)
    files = sorted(root.glob("*/*.jpg"))
    labels = [file.parent.name for file in files]
    one = ImageDataLoaders.from_folder(root, **SMALL)
    other = ImageDataLoaders.from_lists(files, labels, **SMALL)
    assert (other.train_images, other.valid_images) == (one.train_images, one.valid_images)
    assert (other.vocab, other.task, other.c) == (one.vocab, "multiclass", 2)
    for batches in ("train", "valid", "train_eval"):
        assert all(map(torch.equal, *map(together, (getattr(d, batches) for d in (one, other)))))


def test_targets_of_each_task(files: list[Path]) -> None:
    several = [["red"], [], ["red", "blue"]] * 4
    dls = ImageDataLoaders.from_lists(files, several, **SMALL)
    x, y = next(iter(dls.train))
    assert (dls.task, dls.c, dls.vocab) == ("multilabel", 2, ("blue", "red"))
    assert (x.shape, y.shape, y.dtype) == ((4, 3, 8, 8), (4, 2), torch.float32)
    _, y = together(dls.train_eval)
    place = {str(file): row for file, row in zip(files, several, strict=True)}
    for file, row in zip(dls.train_images.files, y.tolist(), strict=True):
        assert row == [float(name in place[file]) for name in dls.vocab]

    numbers = [[i / 2, -i] for i in range(N)]
    dls = ImageDataLoaders.from_lists(files, numbers, vocab=["x", "y"], **SMALL)
    _, y = together(dls.valid)
    assert (dls.task, dls.c, dls.vocab) == ("regression", 2, ("x", "y"))
    assert (y.shape, y.dtype) == ((2, 2), torch.float32)
    at = {str(file): row for file, row in zip(files, numbers, strict=True)}
    assert y.tolist() == [at[file] for file in dls.valid_images.files]

    dls = ImageDataLoaders.from_lists(files, [i + 0.5 for i in range(N)], **SMALL)
    assert next(iter(dls.train))[1].shape == (4, 1)


@pytest.mark.parametrize("labels", [[["a"], ["a", "b"]] * 6, [i / 7 for i in range(N)]])
def test_all_tasks_are_reproducible_for_any_number_of_workers(
    files: list[Path], labels: Any
) -> None:
    without, with_two = (
        ImageDataLoaders.from_lists(files, labels, num_workers=n, **SMALL) for n in (0, 2)
    )
    assert without.valid_images == with_two.valid_images
    assert all(map(torch.equal, together(without.train), together(with_two.train)))
    other = ImageDataLoaders.from_lists(files, labels, seed=1, **SMALL)
    assert other.valid_images != without.valid_images


def test_what_the_store_of_features_needs_is_there_for_all_tasks(files: list[Path]) -> None:
    dls = ImageDataLoaders.from_lists(files, [["a"], ["b"], []] * 4, **SMALL)
    order = [i for batch in dls.train.positions(3) for i in batch]
    dls.train.set_epoch(3)
    x, y = together(dls.train)
    views_x, views_y = together(dls.views(3))
    assert torch.equal(views_x[order], x)
    assert torch.equal(views_y[order], y)


def test_marks_say_which_are_for_validation(files: list[Path]) -> None:
    marks = [i >= 9 for i in range(N)]
    dls = ImageDataLoaders.from_lists(files, ["a", "b", "c"] * 4, is_valid=marks, **SMALL)
    assert dls.valid.paths == tuple(files[9:])
    assert dls.train.paths == tuple(files[:9])


def test_broken_photos_are_all_listed_or_skipped(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for i in (2, 5):
        files[i].write_bytes(b"")
    labels = ["a", "b"] * 6
    with pytest.raises(BrokenImagesError, match=r"(?s)2 images.*a_2\.jpg: empty.*b_5\.jpg: empty"):
        ImageDataLoaders.from_lists(files, labels, **SMALL)
    with caplog.at_level(logging.WARNING, "layergroups"):
        dls = ImageDataLoaders.from_lists(files, labels, on_error="skip", **SMALL)
    assert "Left out 2 images" in caplog.text
    assert len(dls.train_images) + len(dls.valid_images) == N - 2
    for photos in (dls.train_images, dls.valid_images):
        for path, label in zip(photos.paths, photos.classes(), strict=True):
            assert path.name[0] == dls.vocab[label]


def test_photos_without_a_label_are_left_out_if_asked(files: list[Path]) -> None:
    for empty in (None, "", float("nan")):
        labels = ["a", "b"] * 5 + [empty, "b"]
        with pytest.raises(DataError, match=files[10].name):
            ImageDataLoaders.from_lists(files, labels, **SMALL)
        dls = ImageDataLoaders.from_lists(files, labels, on_error="skip", **SMALL)
        assert [broken.path for broken in dls.broken] == [files[10]]
        assert len(dls.train_images) + len(dls.valid_images) == N - 1
    several = [["a"], [], ["a", "b"]] * 4  # no label at all is an answer
    dls = ImageDataLoaders.from_lists(files, several, on_error="skip", **SMALL)
    assert not dls.broken


def test_a_class_of_broken_photos_only_is_no_class(files: list[Path]) -> None:
    files[0].write_bytes(b"")
    labels = ["gone", *["a", "b"] * 5, "a"]
    dls = ImageDataLoaders.from_lists(files, labels, on_error="skip", **SMALL)
    assert dls.vocab == ("a", "b")


def test_names_tell_the_class(files: list[Path], tmp_path: Path) -> None:
    by_name = ImageDataLoaders.from_pattern(tmp_path / "photos", r"^(.)_\d+\.jpg$", **SMALL)
    assert by_name.vocab == ("a", "b")
    for options in (
        {"pattern": r"photos/(?P<label>.)_(\d+)"},
        {"pattern": lambda path: path.stem.split("_")[0]},
    ):
        again = ImageDataLoaders.from_pattern(sorted(map(str, files)), **options, **SMALL)
        assert again.train_images == by_name.train_images
    numbers = ImageDataLoaders.from_pattern(files, r"_(\d+)", task="regression", **SMALL)
    assert numbers.task == "regression"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, p: ImageDataLoaders.from_lists(f, ["a"]), "12 files, but labels has 1"),
        (lambda f, p: ImageDataLoaders.from_lists([], []), "at least one path"),
        (lambda f, p: ImageDataLoaders.from_lists("a.jpg", ["a"]), "files='a.jpg'.*a list"),
        (lambda f, p: ImageDataLoaders.from_lists([3, 4], [1, 2]), "from_dataset"),
        (lambda f, p: ImageDataLoaders.from_lists(f, "ab" * 6), "labels='abab.*expected a list"),
        (lambda f, p: ImageDataLoaders.from_lists(f, ["a", "b"] * 6, is_valid=[True] * 12),
         "none is left for training"),
        (lambda f, p: ImageDataLoaders.from_lists(f, ["a", "b"] * 6, is_valid=3), "is_valid=3"),
        (lambda f, p: ImageDataLoaders.from_lists(f, ["a", "b"] * 6, is_valid=["False"] * 12),
         "is_valid has 'False' for image 0"),
        (lambda f, p: ImageDataLoaders.from_pattern(f, "(a|b)", is_valid=[None] * 12), "has None"),
        (lambda f, p: ImageDataLoaders.from_table({"a": 1}), "Column 'a' is 1: expected a list"),
        (lambda f, p: ImageDataLoaders.from_table({"a": "abc"}), "Column 'a' is 'abc': expected"),
        (lambda f, p: ImageDataLoaders.from_lists(f, list("abcdefghijkl")), "two items"),
        (lambda f, p: ImageDataLoaders.from_table(3), "int is not a table"),
        (lambda f, p: ImageDataLoaders.from_table(p / "no.csv"), "cannot be read.*CSV or TSV"),
        (lambda f, p: ImageDataLoaders.from_table(write(p / "e.csv", "a,b")), "has no rows"),
        (lambda f, p: ImageDataLoaders.from_table(write(p / "e.csv", "a,b", "1,2,3")), "lines 2"),
        (lambda f, p: ImageDataLoaders.from_table({"f": ["x"], "l": [1]}), "first would be x"),
        (lambda f, p: ImageDataLoaders.from_table({"f": ["x"], "l": [1, 2]}), "different lengths"),
        (lambda f, p: ImageDataLoaders.from_table({"f": f, "l": f}, label_col="tags"),
         "label_col='tags'.*It has 'f', 'l'"),
        (lambda f, p: ImageDataLoaders.from_table({"f": f, "l": f, "m": f}, label_col=["l", "m"]),
         "0 and 1.*label_delim"),
        (lambda f, p: ImageDataLoaders.from_table({"f": f, "l": f, "v": f}, valid_col="v"),
         "Row 0 has .*expected True or False"),
        (lambda f, p: ImageDataLoaders.from_pattern(p / "no", "(.)"), "no folder"),
        (lambda f, p: ImageDataLoaders.from_pattern(f, "(."), "not a regular expression"),
        (lambda f, p: ImageDataLoaders.from_pattern(f, "a"), "0 groups.*brackets"),
        (lambda f, p: ImageDataLoaders.from_pattern(f, "(a)_"), "does not fit 6 of 12 names"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(
    make: Callable[[Any, Path], object], message: str, files: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        make(files, tmp_path)


def test_photos_in_several_rows_are_remarked_on(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "layergroups"):
        ImageDataLoaders.from_lists([*files, files[0]], [*["a", "b"] * 6, "a"], **SMALL)
    assert "1 image is in several rows" in caplog.text


def test_a_class_without_training_photos_is_remarked_on(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    labels, marks = ["a", "b"] * 5 + ["c", "c"], [False] * 9 + [True] * 3
    with caplog.at_level(logging.WARNING, "layergroups"):
        ImageDataLoaders.from_lists(files, labels, is_valid=marks, **SMALL)
    assert "No training item of 'c'" in caplog.text


def test_it_prints_its_task(files: list[Path]) -> None:
    text = str(ImageDataLoaders.from_lists(files, [["a"], ["a", "b"]] * 6, **SMALL))
    assert "images of 2 labels" in text
    text = str(ImageDataLoaders.from_lists(files, [0.5, 0.7] * 6, vocab=["length"], **SMALL))
    assert "images of 1 numbers" in text
    assert "length" in text


def test_a_class_name_is_the_same_however_its_accents_are_stored(files: list[Path]) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    dls = ImageDataLoaders.from_lists(files, [composed, decomposed, "tea"] * 4, **SMALL)
    assert dls.vocab == (composed, "tea")
    again = ImageDataLoaders.from_lists(
        files, [composed, "tea"] * 6, vocab=["tea", decomposed], **SMALL
    )
    assert again.vocab == ("tea", composed)


def test_a_path_with_backslashes_is_named_as_such(files: list[Path]) -> None:
    wrong = [*files[:-1], str(files[-1]).replace("/", "\\")]
    with pytest.raises(BrokenImagesError, match="backslashes"):
        ImageDataLoaders.from_lists(wrong, ["a", "b"] * 6, **SMALL)
