"""Tables with changed bytes: an error of the library that says what is wrong, or data."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from tests.attack.conftest import mutations
from tests.attack.test_hostile_images import picture

from layergroups import ImageDataLoaders
from layergroups.errors import LayerGroupsError

HEADS = ("file,label", "file,a,b,c", "file,y")
ODD = (
    "",
    "NaN",
    "-1",
    "1e999",
    "0",
    "1",
    "cat",
    "ca\tt",
    '"',
    "['a', 'b']",
    "a b",
    "é",
    "\x00",
    "0x1f",
)


def table(rng: random.Random, names: list[str]) -> str:
    head = rng.choice(HEADS)
    n = head.count(",")
    pool = rng.choice((("0", "1"), ("cat", "dog", "owl"), ("1.5", "2.5", "-3"), ODD))
    rows = [",".join([name, *(rng.choice(pool) for _ in range(n))]) for name in names]
    return "\n".join([head, *rows]) + "\n"


def columns(text: str) -> list[str] | str:
    names = text.splitlines()[0].split(",")[1:]
    return names if len(names) > 1 else names[0]


def test_changed_tables_give_data_or_an_error_of_the_library(
    rng: random.Random, times: int, tmp_path: Path
) -> None:
    names = [f"{i}.png" for i in range(12)]
    for name in names:
        picture(rng).save(tmp_path / name)
    file, read = tmp_path / "table.csv", 0
    for _ in range(12):
        text = table(rng, names)
        encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1"))
        data = text.encode(encoding, "replace")
        for changed in (data, *mutations(rng, data, 6 * times)):
            file.write_bytes(changed)
            with suppress(LayerGroupsError):
                ImageDataLoaders.from_table(
                    file, label_col=columns(text), size=16, batch_size=4, num_workers=0
                )
                read += 1
    assert read


@pytest.mark.parametrize("text", ["", "\n", "file\n", "file,label", ",\n,\n", "file,label\n\n\n"])
def test_tables_of_nothing_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(LayerGroupsError):
        ImageDataLoaders.from_table(tmp_path / "table.csv", size=16, num_workers=0)
