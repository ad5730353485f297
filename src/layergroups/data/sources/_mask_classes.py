"""The classes of masks: their names, and the value or the colour of each."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ImageColor

from layergroups._formatting import first_few
from layergroups.data._samples import names_of
from layergroups.data.sources._datasets import Items
from layergroups.data.sources._mask_readers import (
    Colour,
    LayerReader,
    MaskReader,
    lossy,
    mask_array,
    read_mask,
)
from layergroups.errors import DataError

Classes = str | os.PathLike[str] | Sequence[str] | Mapping[str, Any]
_SAMPLE: Final = 20  # masks whose values tell the classes
_USUAL_VOID: Final = 255  # in Pascal VOC, Cityscapes and most tools
_RGB: Final = r"\d+[\s,]+\d+[\s,]+\d+"
_COLOUR_LAST: Final = re.compile(rf"(.+?)[\s,=:]+(#[0-9a-fA-F]{{6}}|{_RGB})")
_COLOUR_FIRST: Final = re.compile(rf"({_RGB})[\s,]+(.+)")
_VALUE_FIRST: Final = re.compile(r"(\d+)[\s,:=]+(.*[^\W\d].*)")
_COMMENT: Final = re.compile(r"\s*(#\s|//)")
_HEADING: Final = re.compile(r"(name|class)[\s,]+r[\s,]+g[\s,]+b", re.IGNORECASE)


def class_names(classes: Classes, least: int = 2) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names, and the value or colour of each, of a list, a file of names, or a dict."""
    if isinstance(classes, str | os.PathLike):
        try:
            lines = Path(classes).expanduser().read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise DataError(
                f"classes={str(classes)!r} cannot be read ({cause}): expected a text file with the "
                'name of a class in each line, or a list, classes=["background", "cell"].'
            ) from cause
        classes = [line.strip() for line in lines if line.strip()]
    if not isinstance(classes, Sequence | Mapping):
        raise DataError(
            f'classes={classes!r:.80}: expected a list of names, classes=["background", "cell"], a '
            "text file with a name in each line, or a dict of values or colours."
        )
    if not isinstance(classes, Mapping):
        classes = _with_colours([str(name) for name in classes])
    names = tuple(map(str, classes))
    if len(names) < least or len(set(names)) < len(names):
        expected = "two different names, the background too" if least > 1 else "one, all different"
        raise DataError(f"classes={list(names)}: expected at least {expected}.")
    if not isinstance(classes, Mapping):
        return names, tuple(range(len(names)))
    values = tuple(_value_of(name, value) for name, value in classes.items())
    if len({type(value) for value in values}) > 1 or len(set(values)) < len(values):
        raise DataError(
            f"classes={dict(classes)}: expected a different value for each class, such as 255, or "
            "a different colour for each, such as (128, 64, 128)."
        )
    return names, values


def _with_colours(lines: list[str]) -> list[str] | dict[str, Any]:
    """Names; or the value of each, if all lines are as "7 road" or "7: road".

    Or the colour of each, if lines are as "road #804080" or "128 64 128 road".
    """
    lines = [line for line in lines if not _COMMENT.match(line)]
    if lines and _HEADING.fullmatch(lines[0]):
        lines = lines[1:]
    found: list[tuple[str, str]] = []
    for line in lines:
        if last := _COLOUR_LAST.fullmatch(line):
            found.append((last[1], last[2]))
        elif first := _COLOUR_FIRST.fullmatch(line):
            found.append((first[2], first[1]))
    if not found:
        numbered = [match for line in lines if (match := _VALUE_FIRST.fullmatch(line))]
        values = {match[2]: int(match[1]) for match in numbered}
        return values if len(set(values.values())) == len(lines) > 0 else lines
    if len(found) < len(lines):
        raise DataError(
            f"classes: {len(found)} of {len(lines)} lines have a colour, such as {lines[0]!r}; "
            'expected one for each: "road #804080", "road 128 64 128" or "128 64 128 road". If '
            f"these numbers belong to the names, give a dict with values: {{{lines[0]!r}: 0, ...}}."
        )
    if twice := [name for name, n in Counter(name for name, _ in found).items() if n > 1]:
        raise DataError(f"classes: {names_of(twice)} has several colours; expected one for each.")
    return {n: c if c[0] == "#" else [int(v) for v in re.findall(r"\d+", c)] for n, c in found}


def _value_of(name: str, value: Any) -> Colour:
    """A value, or a colour as numbers or as text."""
    try:
        found = ImageColor.getrgb(value) if isinstance(value, str) else value
        if not isinstance(found, tuple | list):
            return int(found)
        red, green, blue = map(int, found)
        if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
            raise ValueError("a part of a colour is from 0 to 255")
        return red, green, blue
    except (TypeError, ValueError) as cause:
        raise DataError(
            f"classes: {name!r} is {value!r:.80}; expected a value such as 255, or a colour, "
            '(128, 64, 128) or "#804080".'
        ) from cause


def reader_of(
    classes: Classes | None, ignore: Any, sample: Sequence[str], items: Items | None = None
) -> tuple[tuple[str, ...], MaskReader]:
    """Names of the classes, and how the masks are read.

    Without classes, masks of 0 and 1, or 0 and 255, have the classes background and foreground; of
    0, 1 and 255, 255 is ignored. A class that is ignored by its name has no output.
    """
    if classes is None:
        seen = _values(sample, items)
        if not seen <= {0, 1, _USUAL_VOID}:
            raise DataError(
                f"The masks have the values {first_few(map(str, sorted(seen)), 10)}: give the "
                'names of their classes, classes=["background", "road", ...] for 0, 1, ..., or a '
                'dict with the value or the colour of each, classes={"road": (128, 64, 128), ...}'
                f"{lossy(sample)}."
            )
        classes = {"background": 0, "foreground": 1 if 1 in seen else max(seen | {1})}
    names, values = class_names(classes)
    by_colour = isinstance(values[0], tuple)
    listed = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    named = {str(each) for each in listed} & set(names)
    ignored = [v for n, v in zip(names, values, strict=True) if n in named]
    ignored += [
        _value_of("ignore", each) if isinstance(each, str) and each[:1] == "#" else each
        for each in listed
        if str(each) not in named
    ]
    if unknown := [each for each in ignored if not isinstance(each, tuple if by_colour else int)]:
        expected = "a colour such as (0, 0, 0)" if by_colour else "a value such as 255"
        raise DataError(
            f"ignore={unknown[0]!r} is neither a class ({names_of(names)}) nor {expected}."
        )
    if _USUAL_VOID not in values and not by_colour:
        ignored.append(_USUAL_VOID)
    left = [(n, v) for n, v in zip(names, values, strict=True) if v not in ignored]
    if len(left) < 2:
        raise DataError(
            f"ignore={ignore!r} leaves {names_of(n for n, _ in left) or 'no class'} of "
            f"{names_of(names)}: expected two classes or more that count."
        )
    return tuple(n for n, _ in left), MaskReader(
        tuple(v for _, v in left), tuple(dict.fromkeys(ignored)), items
    )


def layer_reader_of(
    classes: Classes | None, ignore: Any, items: Items | None = None
) -> tuple[tuple[str, ...], LayerReader]:
    """Names of labels that may overlap, and how their masks are read."""
    if classes is None or isinstance(classes, Mapping):
        raise DataError(
            f"classes={classes!r}: for masks that overlap give the names of the labels in the "
            'order of their layers, classes=["road", "lane"].'
        )
    names, _ = class_names(classes, least=1)
    listed = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    if unknown := [each for each in listed if not isinstance(each, int) or each in (0, 1)]:
        raise DataError(
            f"ignore={unknown[0]!r}: in masks that overlap it is the value of pixels that do not "
            "count for the label of their layer, such as 128; 0 and 1 are its own values."
        )
    return names, LayerReader(names, tuple(listed), items)


def _values(masks: Iterable[str], items: Items | None) -> set[int]:
    """The values of the first masks, and of more while these have no other value than 0.

    Masks that cannot be read are left out here: the check of all files names them.
    """
    found: set[int] = set()
    for number, path in enumerate(masks):
        if number >= _SAMPLE and found - {0}:
            break
        try:
            array = mask_array(items.label_of(path)) if items else read_mask(path, colours=False)
        except (DataError, OSError, ValueError):
            continue
        found.update(np.unique(array).tolist())
    return found
