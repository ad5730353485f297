"""What options of several commands mean: tables of labels, and split rules."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

PREDICTED_MASKS = "predicted-masks"  # the folder, if no other is given
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of a table of labels; see `ImageDataLoaders.from_table`."""

    text: str | None = None  # columns of texts, separated by commas; None for images
    column: str | None = None
    delimiter: str | None = None
    valid: str | None = None
    task: str | None = None
    images: Path | None = None
    image_col: str | None = None
    suffix: str | None = None

    def completed(self, others: TableOptions) -> TableOptions:
        """With the columns of others where none is given, for a table that marks no split."""
        return replace(
            self,
            text=self.text or others.text,
            column=self.column or others.column,
            delimiter=self.delimiter or others.delimiter,
        )

    def text_arguments(self) -> dict[str, Any]:
        """For `TextDataLoaders.from_table`."""
        for name in ("images", "image_col", "suffix"):
            if getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(f"{option} is for tables of images, --text for texts.")
        return {
            "text": _columns(self.text, "text"),
            "label": _columns(self.column, "label"),
            "label_delim": self.delimiter,
            "valid_col": self.valid,
        }

    def arguments(self) -> dict[str, Any]:
        return {
            "label_col": _columns(self.column, 1),
            "label_delim": self.delimiter,
            "valid_col": self.valid,
            "folder": self.images,
            "fn_col": 0 if self.image_col is None else self.image_col,
            "suff": self.suffix or "",
        }

    def check(self, images: Path) -> None:
        """Raise `typer.BadParameter` if one is given and the images are not given by a table."""
        options = {
            "--text": self.text,
            "--label-col": self.column,
            "--label-delim": self.delimiter,
            "--valid-col": self.valid,
            "--task": self.task,
            "--images": self.images,
            "--image-col": self.image_col,
            "--suffix": self.suffix,
        }
        given = [name for name, value in options.items() if value is not None]
        if given and not is_table(images):
            raise typer.BadParameter(
                f"{', '.join(given)}: only for a table, but {images} is not a .csv or .tsv file. "
                "Give a file with the names of the images in its first column, or with texts."
            )


def _columns(text: str | None, default: str | int) -> str | int | list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return names[0] if len(names) == 1 else names or default


def names_in(text: str | None) -> list[str] | None:
    """Names in lines or separated by commas, or those in the lines of a file; None for none."""
    if text is None:
        return None
    found = text.split("\n" if "\n" in text else ",")
    if os.path.isfile(text):  # pathlib fails on long texts
        try:
            found = Path(text).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise typer.BadParameter(f"{text} is not a text file in UTF-8: {cause}") from cause
    return [name.strip() for name in found if name.strip()]


def joined(names: list[str] | None) -> str | None:
    """The inverse of `names_in`."""
    if any("," in name for name in names or ()):
        return "".join(f"{name}\n" for name in names or ())
    return ",".join(names or ()) or None


def is_table(path: Path) -> bool:
    return path.suffix.lower() in _TABLES and not path.is_dir()


def split_rule(text: str) -> str | int | list[str]:
    """A split rule: the name of a rule, a number of groups, or module paths with commas."""
    from layergroups.groups import RULE_NAMES  # imports torch, which --help does not need

    text = text.strip()
    if text.isdecimal():
        return int(text)
    paths = [path.strip() for path in text.split(",") if path.strip()]
    # A word near the name of a rule is a misspelt rule, not a module: the error then lists rules.
    named = len(paths) == 1 and "." not in text
    return text if named and get_close_matches(text, RULE_NAMES, n=1, cutoff=0.75) else paths
