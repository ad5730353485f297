"""Tables become the same loaders as folders do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from layergroups.data import ImageDataLoaders
from layergroups.errors import DataError

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


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.parquet", "t.xlsx", "t.CSV"])
def test_only_tables_of_separated_values_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes('{"file": "a.jpg", "label": "café"}\n'.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        ImageDataLoaders.from_table(tmp_path / name, **SMALL)
    assert "pandas.read_" in str(caught.value)


def test_a_table_of_classes(files: list[Path], tmp_path: Path) -> None:
    rows = [f"photos/{file.name},{'cat' if i % 3 else 'dog'}" for i, file in enumerate(files)]
    table = write(tmp_path / "labels.csv", "file,label", *rows)
    dls = ImageDataLoaders.from_table(table, **SMALL)
    assert (dls.task, dls.vocab) == ("multiclass", ("cat", "dog"))
    assert sorted(dls.train.paths + dls.valid.paths) == sorted(files)


def test_a_table_of_several_labels_in_one_column(files: list[Path], tmp_path: Path) -> None:
    labels = ["water cloudy", "clear", "", "water"] * 3
    rows = [f"{i}\t{file.stem}\t{labels[i]}\t{i > 8}" for i, file in enumerate(files)]
    table = write(tmp_path / "t.tsv", "id\tname\ttags\tis_valid", *rows)
    dls = ImageDataLoaders.from_table(
        table, tmp_path / "photos", fn_col="name", label_col="tags", label_delim=" ",
        valid_col="is_valid", suff=".jpg", **SMALL,
    )  # fmt: skip
    assert (dls.task, dls.vocab) == ("multilabel", ("clear", "cloudy", "water"))
    assert dls.valid.paths == tuple(files[9:])
    assert together(dls.train_eval)[1][:3].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_a_table_of_several_columns(files: list[Path]) -> None:
    names = list(map(str, files))
    flags = {"f": names, "red": [1, 0, 1] * 4, "big": [True, False, False] * 4}
    dls = ImageDataLoaders.from_table(flags, label_col=["red", "big"], **SMALL)
    assert (dls.task, dls.vocab) == ("multilabel", ("red", "big"))
    numbers = {"x": range(N), "y": [i / 2 for i in range(N)], "f": names}
    dls = ImageDataLoaders.from_table(numbers, fn_col=-1, label_col=[0, 1], **SMALL)
    assert (dls.task, dls.vocab) == ("regression", ("x", "y"))


def test_a_table_of_numbers(files: list[Path], tmp_path: Path) -> None:
    rows = [f"{file};{20 + i}" for i, file in enumerate(files)]
    table = write(tmp_path / "ages.csv", "file;age", *rows)
    dls = ImageDataLoaders.from_table(table, task="regression", **SMALL)
    assert (dls.task, dls.vocab) == ("regression", ("age",))
    headless = write(tmp_path / "plain.csv", *rows)
    again = ImageDataLoaders.from_table(headless, header=False, task="regression", **SMALL)
    assert again.train_images == dls.train_images


class Frame:
    """What is used of a frame of pandas."""

    def __init__(self, **columns: list[Any]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> Any:
        return (
            torch.tensor(values) if (values := self._columns[name])[0] != str(values[0]) else values
        )


def test_a_frame_is_a_table(files: list[Path]) -> None:
    frame = Frame(file=list(map(str, files)), score=[i / 4 for i in range(N)])
    dls = ImageDataLoaders.from_table(frame, **SMALL)
    assert (dls.task, dls.vocab) == ("regression", ("score",))


def test_a_frame_of_pandas_is_a_table(files: list[Path]) -> None:
    import pandas

    frame = pandas.DataFrame({"file": map(str, files), "tags": ["a b", None, "b"] * 4})
    dls = ImageDataLoaders.from_table(frame, label_delim=" ", **SMALL)
    assert (dls.task, dls.vocab) == ("multilabel", ("a", "b"))


EMPTY = ["NaN", "NA", "null", "None", ""]


@pytest.mark.parametrize("cell", EMPTY)
@pytest.mark.parametrize("labels", [["cat", "dog"], ["0.5", "1.5"], ["3", "4"]])
def test_an_empty_cell_is_missing_and_no_class(
    files: list[Path], tmp_path: Path, cell: str, labels: list[str]
) -> None:
    rows = [f"{file},{cell if i in (2, 5) else labels[i % 2]}" for i, file in enumerate(files)]
    table = write(tmp_path / "t.csv", "file,kind", *rows)
    with pytest.raises(DataError) as caught:
        ImageDataLoaders.from_table(table, **SMALL)
    for word in ("'kind'", "2", "5", files[2].name):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("value", "task"), [(float("nan"), None), (-1, None), (-1, "multilabel"), (2, "multilabel")]
)
def test_a_label_column_that_is_not_0_or_1_is_named_with_its_row(
    files: list[Path], value: float, task: str | None
) -> None:
    columns = {"f": list(map(str, files)), "a": [0, 1] * 6, "b": [1.0, 0.0, 1.0, 0.0] * 3}
    columns["b"][4] = value
    with pytest.raises(DataError) as caught:
        ImageDataLoaders.from_table(columns, label_col=["a", "b"], task=task, **SMALL)
    assert "'b'" in str(caught.value)
    assert "4" in str(caught.value)


def test_columns_of_numbers_may_have_any_sign(files: list[Path]) -> None:
    columns = {"f": list(map(str, files)), "a": [-1, 1] * 6, "b": [0, -1, 1] * 4}
    dls = ImageDataLoaders.from_table(columns, label_col=["a", "b"], task="regression", **SMALL)
    assert dls.vocab == ("a", "b")


def test_the_text_of_a_list_is_a_list(files: list[Path], tmp_path: Path) -> None:
    cells = ["\"['cat', 'wet']\"", "['dog']", "[]"] * 4
    rows = [f"{file},{cell}" for file, cell in zip(files, cells, strict=True)]
    dls = ImageDataLoaders.from_table(write(tmp_path / "t.csv", "f,l", *rows), **SMALL)
    assert (dls.task, dls.vocab) == ("multilabel", ("cat", "dog", "wet"))


def test_a_table_made_on_windows(files: list[Path], tmp_path: Path) -> None:
    rows = [f"photos\\{file.name},{file.name[0]}" for file in files]
    dls = ImageDataLoaders.from_table(write(tmp_path / "t.csv", "f,l", *rows), **SMALL)
    assert sorted(dls.train.paths + dls.valid.paths) == sorted(files)


def test_floats_that_may_be_classes_are_numbers_and_one_line_says_so(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    def task_of(labels: list[Any], **options: Any) -> Any:
        caplog.clear()
        return ImageDataLoaders.from_lists(files, labels, **options, **SMALL).task

    assert task_of([0.0, 1.0] * 6) == "regression"
    assert sum("task='multiclass'" in record.message for record in caplog.records) == 1
    assert task_of([0.5, 1.0] * 6) == "regression"
    assert not caplog.records
    assert task_of([0.0, 1.0] * 6, task="regression") == "regression"
    assert not caplog.records
