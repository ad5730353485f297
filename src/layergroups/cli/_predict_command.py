"""`layergroups predict`: predict images or texts with a trained model."""

from __future__ import annotations

import itertools
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import typer

from layergroups._formatting import count, first_few, say
from layergroups.cli._parsing import PREDICTED_MASKS
from layergroups.data import EvalLoader, InferenceTexts, OnError, find_images
from layergroups.errors import DataError
from layergroups.reports import write_rows
from layergroups.tasks import AnyPrediction, MaskPrediction
from layergroups.training import Learner, load_learner

Rows = Iterator[tuple[Path, AnyPrediction]]


def run(
    model: Path,
    items: Sequence[str],
    *,
    out: Path,
    force: bool,
    tile: int | None,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    format: str,
) -> None:
    """Predict images or texts with an exported model, and write a row for each as it comes.

    Masks are written into `out`, as PNG or TIFF files of the names of their images. With `force`
    they replace other files there, but never an image that is predicted.

    Raises:
        LayerGroupsError: the folder is not an export, images cannot be read, or a mask would
            replace a file.
    """
    learn = load_learner(model)
    if isinstance(learn.dls, InferenceTexts):
        if tile is not None:
            raise typer.BadParameter("--tile is for masks; this is a model of texts.")
        _predict_texts(learn, items, batch_size, format)
        return
    dls: Any = learn.dls
    paths = [Path(item) for item in items]
    if not paths:
        raise DataError(f"Give images to predict: layergroups predict {model} image.jpg")
    files = [
        file for path in paths for file in (find_images(path) if path.is_dir() else [str(path)])
    ]
    if not files:
        raise DataError(f"There are no images in {', '.join(map(str, paths))}.")
    batches = dls.test_dl(files, batch_size=batch_size, num_workers=workers, on_error=on_error)
    if not batches.samples.files:
        raise DataError("None of the images can be read.")
    rows = _rows(learn, batches, tile)
    if learn.task.per_pixel:
        kind = cast(type[MaskPrediction], learn.task.prediction)
        targets = _targets(batches.samples.files, out, kind.ending)
        _check_free(targets, files, force)
        rows = _saving(rows, targets, out)
    write_rows(format, rows, learn.task.prediction, dls.vocab, batches.samples.files)


def _predict_texts(learn: Learner, texts: Sequence[str], batch_size: int, format: str) -> None:
    """The texts given as arguments, or each line of standard input as soon as it is there."""
    dls: Any = learn.dls
    given = [] if list(texts) == ["-"] else list(texts)
    for text in given:
        if os.path.isfile(text):
            raise DataError(
                f"{text} is a file, not a text. To predict each of its lines: layergroups predict "
                f"MODEL < {text}"
            )

    def batches(texts: Sequence[str]) -> Any:
        several = dls.transform.columns > 1
        parts = [text.split("\t") if several and "\t" in text else text for text in texts]
        return dls.test_dl(parts, batch_size=batch_size)

    def rows_of_lines() -> Iterator[tuple[Any, AnyPrediction]]:
        for lines in _arriving_lines():
            for i in range(0, len(lines), batch_size):
                yield from learn.iter_preds(batches(lines[i : i + batch_size]))

    rows = learn.iter_preds(batches(given)) if given else rows_of_lines()
    write_rows(format, rows, learn.task.prediction, dls.vocab, texts, item="text")


def _arriving_lines() -> Iterator[list[str]]:
    """The lines of standard input that have arrived, without the empty ones, which are counted.

    No line waits for later ones, since a pipe may stay open.
    """
    if sys.stdin.isatty():
        say("Type a text and press Enter. Ctrl-D ends (on Windows Ctrl-Z and Enter).")
    source: Any = sys.stdin.buffer
    rest, encoding = b"", sys.stdin.encoding
    numbers, empty, odd = itertools.count(1), [], []

    def texts_of(lines: Sequence[bytes]) -> list[str]:
        texts = []
        for line, number in zip(lines, numbers, strict=False):
            line = line.removeprefix(BOM_UTF8)  # with which a file may begin
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError:
                text = line.decode(encoding, "replace")
                odd.append(number)
            if text.strip():
                texts.append(text.strip("\r "))
            else:
                empty.append(number)
        return texts

    while chunk := source.read1(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield texts_of(lines)
    if rest:
        yield texts_of([rest])
    if empty:
        say(f"No rows for {count(len(empty), 'empty line')}: {first_few(empty)}.")
    if odd:
        say(
            f"{count(len(odd), 'line is', 'lines are')} not in {encoding}: {first_few(odd)}. Some "
            "of their characters were not read."
        )


def _targets(files: Sequence[str], out: Path, ending: str) -> list[Path]:
    """The file of each mask, below the folders in which the images differ."""
    whole = [Path(file).absolute() for file in files]
    common = os.path.commonpath([file.parent for file in whole])
    names = [file.relative_to(common).with_suffix(ending) for file in whole]
    if len(set(names)) < len(names):
        names = [Path(f"{file.relative_to(common)}{ending}") for file in whole]
    return [out / name for name in names]


def _check_free(targets: Sequence[Path], images: Sequence[str], force: bool) -> None:
    """Before anything is predicted: no mask replaces an image, nor a file that was there."""
    there = [target for target in targets if os.path.lexists(target)]
    inputs = {_identity(image) for image in images if os.path.exists(image)}
    for target in there:
        if target.exists() and _identity(target) in inputs:
            raise DataError(
                f"{target} is one of the images, and its mask would replace it. Give another "
                f"folder for the masks: --out {_free_folder()}."
            )
    if there and not force:
        raise DataError(
            f"{there[0]} exists already; {count(len(there), 'file')} would be replaced by masks. "
            f"Give another folder, --out {_free_folder()}, or --force to replace "
            f"{'it' if len(there) == 1 else 'them'}."
        )


def _identity(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)  # of a link, what it points to
    return found.st_dev, found.st_ino


def _free_folder() -> Path:
    names = itertools.chain(
        [PREDICTED_MASKS], (f"{PREDICTED_MASKS}-{n}" for n in itertools.count(2))
    )
    return next(path for path in map(Path, names) if not path.exists())


def _saving(rows: Rows, targets: Sequence[Path], out: Path) -> Rows:
    """The same rows; the mask of each is written."""
    for target, (path, found) in zip(targets, rows, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        cast(MaskPrediction, found).save(target)
        yield path, found
    say(f"The masks are in {out}.")


def _rows(learn: Learner, batches: EvalLoader, tile: int | None) -> Rows:
    """The predictions; with a progress bar where they do not go to the terminal themselves."""
    if sys.stdout.isatty():
        learn.progress = False
    with learn.reporter.bar("predictions", len(batches.samples)) as bar:
        for row in (
            learn.iter_preds(batches) if tile is None
            else ((path, learn.predict(path, tile=tile)) for path in batches.paths)
        ):  # fmt: skip
            yield row
            bar.advance()
