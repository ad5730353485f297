"""Create the record of a run from a learner, which does not change."""

from __future__ import annotations

import base64
import io
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layergroups._formatting import memory, name_of
from layergroups.data import common_folder, data_source, open_image, quiet
from layergroups.errors import LayerGroupsError
from layergroups.reports._images import Pixels, marked_pixels, overlay
from layergroups.reports._interpretation import Interpretation
from layergroups.reports._protocols import Trained
from layergroups.reports.figures import stacks_of
from layergroups.reports.run._record import (
    Cell,
    NetworkFacts,
    Outcome,
    RunRecord,
    SetupFacts,
    ShownItem,
    epoch_rows,
)
from layergroups.tasks import ClassReport, ConfusionMatrix, MaskReport, Residuals

_THUMB: Final = 112  # pixels of the longer side
_LARGE: Final = 208
_THUMB_BYTES: Final = 1_500_000  # of all small pictures, as data URIs
_LARGE_BYTES: Final = 500_000
_IN_A_CELL: Final = 24
_CELLS_SHOWN: Final = 30  # of masks, with pictures
_MASKS_IN_A_CELL: Final = 4
_WORST: Final = 9
_POINTS: Final = 800
_CHUNK: Final = 64
_TEXT: Final = 600  # characters of a text


def jpeg_uri(image: Image.Image, side: int = _THUMB) -> str:
    """A small JPEG of an image, of at most `side` pixels, as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=68, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _image_of(pixels: Pixels) -> Image.Image:
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Items:
    interp: Interpretation
    root: str  # common folder of all files, or empty
    texts: bool  # whether texts are shown

    @classmethod
    def of(cls, interp: Interpretation, texts: bool) -> Items:
        root = common_folder(str(path) for path in interp.paths if path is not None)
        return cls(interp, root, texts and bool(interp.texts))

    def name(self, position: int) -> str:
        """The path relative to the common folder, or a number."""
        path = self.interp.paths[position]
        if self.texts:
            text = self.interp.texts[position]
            return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"
        if path is None:
            return f"item {position}"
        below = self.root and path.parent != Path()
        return os.path.relpath(path, self.root) if below else str(path)

    def shown(self, position: int, thumb: str = "", heat: str = "") -> ShownItem:
        it = self.interp.item(position)
        words = (it.actual or "none", it.predicted or "none", it.probability, it.loss)
        return ShownItem(self.name(position), *words, thumb, heat, iou=it.iou)

    def words(self, position: int) -> tuple[tuple[str, float], ...]:
        """The words of a short text, marked; empty if it is long, or that is not possible."""
        if not self.texts or len(self.interp.texts[position]) > _TEXT:
            return ()
        try:
            return self.interp.words(position)
        except (LayerGroupsError, RuntimeError):  # the record goes on without them
            return ()

    def pictures(self, positions: Sequence[int]) -> dict[int, Image.Image]:
        """Small pictures of items, except those that cannot be created."""
        files = {position: self.interp.paths[position] for position in positions}
        opened = {p: _opened(path) for p, path in files.items() if path is not None}
        found = {p: image for p, image in opened.items() if image is not None}
        inputs = self.inputs([position for position in positions if position not in found])
        return found | {p: _image_of(pixels) for p, pixels in inputs.items()}

    def inputs(self, positions: Sequence[int]) -> dict[int, Pixels]:
        """The input images of items, as pixels; empty if they are not images."""
        try:
            found = self.interp.images(positions) if positions else []
        except (LayerGroupsError, TypeError, ValueError, AttributeError):
            return {}  # they cannot be loaded again, or are not images
        return dict(zip(positions, found, strict=True))


def _opened(file: Path) -> Image.Image | None:
    try:
        with quiet():
            image: Image.Image = open_image(file, min_size=_THUMB)
            return image
    except Exception:  # not a file that Pillow reads: show the model's input instead
        return None


def outcome_of(interp: Interpretation, *, pictures: bool = True) -> Outcome:
    """The results as figures, and pictures of some items; the learner does not change."""
    items = Items.of(interp, pictures)
    found = Outcome(
        task=interp.task.name,
        items=len(interp),
        loss=float(interp.losses.mean()) if len(interp) else None,
        classes=interp.classes,
        worst=tuple(_worst(interp, items, pictures)),
        lengths=interp.by_length() if interp.texts else (),
    )
    measures = interp.measures()
    if isinstance(measures, Residuals):
        return replace(found, figures=_errors(interp), points=_points(interp))
    if isinstance(measures, ConfusionMatrix):
        members = _members(interp)
        thumbs = _thumbs(items, list(_chosen(members))) if pictures else {}
        number = {position: i for i, position in enumerate(thumbs)}
        found = replace(
            found,
            figures={"accuracy": measures.accuracy},
            cells=tuple(
                Cell(*cell, len(inside), tuple(number[i] for i in inside if i in number))
                for cell, inside in members.items()
            ),
            shown=tuple(items.shown(i, thumb) for i, thumb in thumbs.items()),
        )
    elif isinstance(measures, MaskReport):
        args = (interp.predictions, interp.targets, interp.classes, interp.threshold)
        found = replace(
            found, figures=interp.task.figures(*args), class_report=interp.class_report()
        )
        return _with_pixels(found, items, pictures) if measures.confusion and len(interp) else found
    elif isinstance(measures, ClassReport):
        exact = float(interp.correct.float().mean())
        found = replace(
            found, figures={"F1 (micro)": measures.total.f1 or 0.0, "exact match": exact}
        )
    else:  # a custom task
        args = (interp.predictions, interp.targets, interp.classes, interp.threshold)
        return replace(found, figures=interp.task.figures(*args))
    return replace(found, class_report=interp.class_report(), calibration=interp.calibration())


def _with_pixels(outcome: Outcome, items: Items, pictures: bool) -> Outcome:
    """The cells of masks; for the most frequent errors, the images with the most such pixels."""
    interp = items.interp
    cells = {
        (i, j): Cell(i, j, count)
        for i, row in enumerate(interp.confusion_matrix().matrix)
        for j, count in enumerate(row)
        if count
    }
    wrong = sorted(
        (place for place in cells if place[0] != place[1]), key=lambda p: -cells[p].count
    )
    wrong = wrong[: _CELLS_SHOWN * pictures]
    counts = torch.tensor([_pixels_in(interp.mask_report(i), wrong) for i in range(len(interp))])
    shown: list[ShownItem] = []
    left = _THUMB_BYTES
    for place, own in zip(wrong, counts.T, strict=True):
        order, first = own.argsort(descending=True, stable=True)[:_MASKS_IN_A_CELL], len(shown)
        for i, pixels in items.inputs(order[own[order] > 0].tolist()).items():
            marked = marked_pixels(pixels, interp.confused_pixels(i, *place))
            uri = jpeg_uri(_image_of(marked))
            left -= len(uri)
            if left >= 0:
                shown.append(replace(items.shown(i, uri), confidence=None))
        cells[place] = replace(cells[place], shown=tuple(range(first, len(shown))))
    return replace(outcome, cells=tuple(cells.values()), shown=tuple(shown))


def _pixels_in(report: MaskReport, places: Sequence[tuple[int, int]]) -> list[int]:
    """How many pixels of one mask are in cells of the confusion matrix."""
    matrix = report.confusion.matrix if report.confusion else ()
    return [matrix[actual][predicted] for actual, predicted in places]


def _errors(interp: Interpretation) -> dict[str, float]:
    far = (interp.predictions - interp.targets).float()
    spread = float((interp.targets - interp.targets.float().mean(0)).square().sum())
    figures = {"mean absolute error": float(far.abs().mean())}
    return figures | ({"R²": 1 - float(far.square().sum()) / spread} if spread > 0 else {})


def _points(interp: Interpretation) -> tuple[tuple[float, float], ...]:
    step = max(1, -(-len(interp) // _POINTS))
    both = (t[::step, 0].tolist() for t in (interp.targets, interp.predictions))
    return tuple(zip(*both, strict=True))


def _members(interp: Interpretation) -> dict[tuple[int, int], list[int]]:
    """Items of each cell: errors by descending confidence, others by ascending confidence."""
    score, predicted = interp.predictions.max(1)
    members: dict[tuple[int, int], list[int]] = {}
    for position in score.argsort(stable=True).tolist():
        cell = (int(interp.targets[position]), int(predicted[position]))
        members.setdefault(cell, []).append(position)
    return {
        cell: found if cell[0] == cell[1] else found[::-1]
        for cell, found in sorted(members.items())
    }


def _chosen(members: dict[tuple[int, int], list[int]]) -> Iterator[int]:
    """Items to show, by priority: one of each cell, then the next of each; errors first."""
    ordered = sorted(members, key=lambda cell: (cell[0] == cell[1], -len(members[cell])))
    for row in zip_longest(*(members[cell][:_IN_A_CELL] for cell in ordered)):
        yield from (position for position in row if position is not None)


def _thumbs(items: Items, positions: Sequence[int]) -> dict[int, str]:
    left = _THUMB_BYTES
    found: dict[int, str] = {}
    for first in range(0, len(positions), _CHUNK):
        for position, picture in items.pictures(positions[first : first + _CHUNK]).items():
            uri = jpeg_uri(picture)
            left -= len(uri)
            if left < 0:
                return found
            found[position] = uri
    return found


def _worst(interp: Interpretation, items: Items, pictures: bool) -> Iterator[ShownItem]:
    masks, left = interp.task.per_pixel, _LARGE_BYTES
    indices = [item.index for item in interp.top_losses(_WORST, by="iou" if masks else "loss")]
    inputs = items.inputs(indices) if pictures else {}
    heats = _heats(interp, indices) if inputs and not masks else {}
    for index in indices:
        drawn = [inputs[index]] if index in inputs else []
        drawn += [overlay(inputs[index], heats[index])] if index in heats else []
        if masks and drawn:
            drawn.append(np.concatenate(interp.masks(index, drawn[0]), axis=1))
        uris = [jpeg_uri(_image_of(pixels), _LARGE * (1 + 2 * masks)) for pixels in drawn]
        left -= sum(map(len, uris))
        shown = items.shown(index, *(uris if left >= 0 else ()))
        yield replace(shown, words=items.words(index))


def _heats(interp: Interpretation, indices: Sequence[int]) -> dict[int, Tensor]:
    try:
        return dict(zip(indices, interp.grad_cam(indices), strict=True))
    except (LayerGroupsError, RuntimeError):  # the record goes on without them
        return {}


_PACKAGES: Final = (
    *("layergroups", "torch", "torchvision", "timm"),
    *("accelerate", "torchmetrics", "safetensors"),
    *("transformers", "tokenizers", "segmentation-models-pytorch"),
)
_SECRET: Final = re.compile(r"(token|secret|password|passwd|api[-_]?key|credential)", re.IGNORECASE)


def command_line(words: Sequence[str] | None = None) -> str:
    """A command, by default that of this process, without the values of secret options."""
    if words is None:
        program, *rest = sys.argv or [""]
        name = Path(program).name
        if name in ("ipykernel_launcher.py", "colab_kernel_launcher.py"):
            return "a notebook"
        if program in ("", "-c"):
            return f"python {program}".strip()
        start = ["python", program] if name.endswith(".py") else [name]
        if name == "__main__.py":
            start = ["python", "-m", Path(program).parent.name]
        words = [*start, *rest]
    return shlex.join(_without_secrets(words))


def versions() -> dict[str, str]:
    """Versions of Python, this library and its main dependencies."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["CUDA (PyTorch build)"] = str(torch.version.cuda)
    return found


def machine(accelerator: Any) -> dict[str, str]:
    """System, processor, memory, device, threads and processes."""
    device: torch.device = accelerator.device
    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
        "memory": _memory_size(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "PyTorch threads": str(torch.get_num_threads()),
        "processes": str(accelerator.num_processes),
    }
    return {name: value for name, value in found.items() if value}


def _without_secrets(words: Sequence[str]) -> list[str]:
    """Hide the values of options such as --api-key."""
    shown: list[str] = []
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = bool(_SECRET.search(option))
        shown.append("***" if hide else f"{option}=***" if secret and equals else word)
        hide = secret and not equals and word.startswith("-")
    return shown


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not on Linux
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def _memory_size() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return memory(total)


def record_run(
    learn: Trained,
    *,
    title: str | None = None,
    command: Sequence[str] | None = None,
    interp: Interpretation | None = None,
    measured: bool = True,
    pictures: bool = True,
) -> RunRecord:
    """Record a run: history, groups, predictions, data, command, versions.

    The model predicts the validation data once, unless `interp` has the predictions, and Grad-CAM
    explains a few items. The command is by default that of the process.
    """
    found = interp or (_interpreted(learn) if measured else None)
    data = data_source(learn.dls).facts(read_files=measured)
    network = _network(learn)
    name = network.name.rpartition(":")[2]
    return RunRecord(
        title=title or (f"{name} on {data.name}" if data.name else name),
        network=network,
        epochs=epoch_rows(learn.history.to_dict()),
        outcome=None if found is None else outcome_of(found, pictures=pictures),
        data=data,
        setup=SetupFacts(
            command=command_line(command),
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            settings=_settings(learn),
            versions=versions(),
            machine=machine(learn.accelerator),
        ),
    )


def _interpreted(learn: Trained) -> Interpretation | None:
    """Predictions for the validation data; None without labelled validation data."""
    try:
        known = len(learn.dls.valid) > 0
        return Interpretation.from_learner(learn) if known else None
    except (LayerGroupsError, TypeError):
        return None


def _network(learn: Trained) -> NetworkFacts:
    groups = learn.layer_groups
    blueprint = getattr(learn, "blueprint", None)
    name = groups.anatomy.model if blueprint is None else str(blueprint.arch)
    return NetworkFacts(name=name, rule=str(groups.rule), groups=tuple(stacks_of(groups)))


def _settings(learn: Any) -> dict[str, str]:
    blueprint = getattr(learn, "blueprint", None)
    seed = getattr(learn, "seed", None)
    data = data_source(learn.dls)
    found = {
        "network": "" if blueprint is None else str(blueprint.arch),
        "loss": name_of(learn.loss_func),
        "optimizer": name_of(learn.opt_func),
        "weight decay": f"{learn.weight_decay:g}",
        "precision": str(learn.accelerator.mixed_precision).replace("no", "float32"),
        "gradient accumulation": str(learn.accumulate),
        "checksums of the data": data.checksums(),
        "seed of the data": f"{data.seed}: random split, order and augmentation of the items",
        "seed of the learner": "none: initial weights of a new head and dropout are random"
        if seed is None
        else f"{seed}: initial weights of a new head, dropout",
    }
    return {name: value for name, value in found.items() if value}
