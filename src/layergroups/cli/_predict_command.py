"""`layergroups predict`: what is on photos.

What words of the command line mean.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from layergroups.data import EvalLoader, OnError, find_images, unlabelled_batches
from layergroups.errors import DataError
from layergroups.reports import write_rows
from layergroups.tasks import AnyPrediction
from layergroups.training import Learner, load_learner

_RULES = ("auto", "layerwise", "classic", "classic-v1")


_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where in a table the labels stand, and what they are; options of the commands.

    Attributes:
        column: name of the column, or of several with commas; None for the second one.
        delimiter: what stands between several labels in it.
        valid: name of the column that says which photos are for validation.
        task: what the labels are; None for what they look like.
        photos: the folder in which the photos lie; None for that of the table.
    """

    column: str | None = None
    delimiter: str | None = None
    valid: str | None = None
    task: str | None = None
    photos: Path | None = None

    def columns(self) -> dict[str, Any]:
        """The arguments of `ImageDataLoaders.from_table` that they stand for."""
        names = [name.strip() for name in (self.column or "").split(",") if name.strip()]
        return {
            "label_col": names[0] if len(names) == 1 else names or 1,
            "label_delim": self.delimiter,
            "valid_col": self.valid,
            "folder": self.photos,
        }

    def check(self, photos: Path) -> None:
        """Only a table has columns.

        Raises:
            typer.BadParameter: an option is of no use for a folder.
        """
        given = {
            "--label-col": self.column,
            "--label-delim": self.delimiter,
            "--valid-col": self.valid,
            "--task": self.task,
            "--photos": self.photos,
        }
        useless = [name for name, value in given.items() if value is not None]
        if useless and not is_table(photos):
            raise typer.BadParameter(
                f"{', '.join(useless)} tells of a table, but {photos} is none: give a .csv or .tsv "
                "file with the names of the photos in its first column."
            )


def is_table(path: Path) -> bool:
    """Whether photos are given by a table, and not by a folder."""
    return path.suffix.lower() in _TABLES and not path.is_dir()


def split_rule(word: str) -> str | int | list[str]:
    """A split rule: one of the rules by name, a number of groups, or module paths with commas."""
    word = word.strip()
    if word in _RULES:
        return word
    if word.isdecimal():
        return int(word)
    if "," in word or "." in word:
        return [path.strip() for path in word.split(",") if path.strip()]
    return word if _looks_like_a_rule(word) else [word]


def _looks_like_a_rule(word: str) -> bool:
    """Whether a word is rather a mistyped rule than a module, so that the error lists the rules."""
    from difflib import get_close_matches

    return bool(get_close_matches(word, _RULES, n=1, cutoff=0.75))


def photos_of(paths: Sequence[Path]) -> list[str]:
    """The photos, with those of the folders among them, in the order given.

    Folders without photos add nothing; files are taken as they are, broken or absent ones too.
    """
    photos: list[str] = []
    for path in paths:
        photos += find_images(path) if path.is_dir() else [str(path)]
    return photos


def run(
    model: Path,
    images: Sequence[Path],
    *,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    format: str,
) -> None:
    """Predict photos with an exported model, and write a row for each as it comes.

    Raises:
        LayerGroupsError: the folder is not an export, or photos cannot be read.
    """
    learn = load_learner(model)
    dls: Any = learn.dls
    photos = photos_of(images)
    if not photos:
        raise DataError(f"There are no images in {', '.join(map(str, images))}.")
    batches = unlabelled_batches(
        photos, dls.transform, batch_size=batch_size, num_workers=workers, on_error=on_error
    )
    if not batches.photos.files:
        raise DataError("None of the images can be read.")
    kind = learn.task.prediction
    write_rows(format, _rows(learn, batches), kind, dls.vocab, batches.photos.files)


def _rows(learn: Learner, batches: EvalLoader) -> Iterator[tuple[Path, AnyPrediction]]:
    """What the model says of each photo; with a bar where the rows do not go to the terminal."""
    if sys.stdout.isatty():
        learn.progress = False
    with learn.reporter.bar("predictions", len(batches.photos)) as bar:
        for row in learn.iter_preds(batches):
            yield row
            bar.advance()
