"""Weights from a file of one's own: read without pickled code, compared first, loaded whole.

A file is taken if every entry fits the model by name and shape, or if nothing but the classifier
differs, which transfer learning replaces anyway. Everything else is refused with the differences.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from layergroups._formatting import first_few
from layergroups._paths import is_within, path_of
from layergroups.errors import WeightsError
from layergroups.models._head_surgery import classifier_layers

Converter = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
_TORCH_ENDINGS = (".pth", ".pt", ".bin")
WEIGHT_ENDINGS = (".safetensors", *_TORCH_ENDINGS)
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 3
_log = logging.getLogger("layergroups")


class WeightsFile(NamedTuple):
    """The tensors of a file, by name, and where in the file they were."""

    tensors: dict[str, Tensor]
    words: str


class Misshape(NamedTuple):
    """An entry that file and model both have, in two shapes."""

    name: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]


@dataclass(frozen=True)
class Differences:
    """How the entries of a file differ from those of a model.

    Attributes:
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        misshaped: entries of both, in two shapes.
        fitting: number of entries that fit.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[Misshape, ...]
    fitting: int

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    @property
    def unfit(self) -> set[str]:
        """Names of the file's entries that cannot be loaded."""
        return {entry.name for entry in self.misshaped} | set(self.unexpected)

    def lines(self) -> list[str]:
        """For people: for each kind of difference how many there are, and the first names."""
        shapes = [f"{n} (file {list(a)}, model {list(b)})" for n, a, b in self.misshaped]
        kinds = {
            "missing in the file": self.missing,
            "unknown to the model": self.unexpected,
            "of another shape": shapes,
        }
        return [f"{len(n)} {kind}: {first_few(n, _SHOWN)}" for kind, n in kinds.items() if n]

    def outside(self, paths: tuple[str, ...]) -> Differences:
        """The differences that lie in none of the modules at these paths."""

        def keep(name: str) -> bool:
            return not any(is_within(name, path) for path in paths)

        return Differences(
            tuple(filter(keep, self.missing)),
            tuple(filter(keep, self.unexpected)),
            tuple(entry for entry in self.misshaped if keep(entry.name)),
            self.fitting,
        )


def find_weights(path: str | Path) -> Path:
    """The weights file at a path, where "~" is the home folder; it is not opened."""
    file = path_of(path, WeightsError, 'weights="resnet18.pth"').expanduser()
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(f"weights={str(path)!r}: {file.absolute()} {kind}. {_expected()}")
    if file.suffix.lower() not in WEIGHT_ENDINGS:
        raise WeightsError(f"weights={str(path)!r}: this ending is not read. {_expected()}")
    return file


def read_weights(path: str | Path) -> WeightsFile:
    """Read the tensors of a weights file to the CPU, without running any code in it.

    Args:
        path: a `.safetensors` file, or a `.pth`, `.pt` or `.bin` file of `torch.save`. The common
            wrappers ({"state_dict": ...}, {"model": ...} and their moving averages, which come
            first) are opened.

    Returns:
        The tensors by name, and a description for people.

    Raises:
        WeightsError: the file is absent, damaged, of another kind, or holds pickled code.
    """
    file = find_weights(path)
    if file.suffix.lower() != ".safetensors":
        return _unwrap(file, _read_torch(file))
    try:
        return _unwrap(file, load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"cannot be read as safetensors: {error}."
        raise WeightsError(f"{file} {reason}{_look(file)}") from error


def compare(model: nn.Module, tensors: Mapping[str, Tensor]) -> Differences:
    """Names and shapes of a model's entries beside those of `tensors`; nothing is changed."""
    ours = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    missing = [name for name in ours if name not in tensors]
    unexpected = [name for name in tensors if name not in ours]
    common = [name for name in ours if name in tensors]
    misshaped = [
        Misshape(name, tuple(tensors[name].shape), tuple(ours[name].shape))
        for name in common
        if tensors[name].shape != ours[name].shape
    ]
    return Differences(
        tuple(missing), tuple(unexpected), tuple(misshaped), len(common) - len(misshaped)
    )


def load_weights_file(
    model: nn.Module, path: str | Path, *, convert: Converter | None = None
) -> str:
    """Load a weights file into a model, in place; all of it, or all but the classifier.

    `convert` turns the tensors of an older or differently sized file into those of the model. Its
    result is used only where it fits better.
    """
    found = read_weights(path)
    tensors = _strip_prefixes(found.tensors, model)
    differences = _compare_file(model, tensors)
    problem: Exception | None = None
    if differences and convert is not None:
        try:
            candidate = dict(convert(dict(tensors), model))
            after = _compare_file(model, candidate)
            if len(after) < len(differences):
                tensors, differences = candidate, after
        except Exception as error:  # a converter may meet files that it was not made for
            problem = error
    classifier = tuple(classifier_layers(model))
    serious = differences.outside(classifier)
    if serious or differences.fitting == 0:
        raise WeightsError(_misfit(found.words, differences)) from problem
    unfit = differences.unfit
    model.load_state_dict({k: v for k, v in tensors.items() if k not in unfit}, strict=False)
    if differences:
        _log.warning(
            "%s: the classifier (%s) does not fit and was left out, as a new head replaces it; "
            "all else is loaded",
            found.words,
            ", ".join(classifier),
        )
    return found.words


def _compare_file(model: nn.Module, tensors: Mapping[str, Tensor]) -> Differences:
    """As `compare`; files written before PyTorch 0.4.1 may lack `num_batches_tracked`."""
    found = compare(model, tensors)
    missing = tuple(n for n in found.missing if not n.endswith("num_batches_tracked"))
    return replace(found, missing=missing)


def _expected() -> str:
    return (
        f"Expected is a file that ends in {', '.join(WEIGHT_ENDINGS)} and holds a state dict, "
        "as torch.save(model.state_dict(), ...) or safetensors writes it."
    )


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # on odd formats; an error follows them
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} is damaged, or holds pickled Python objects besides tensors (a whole model, "
            "an optimizer, arguments); reading those could run any code, so it was not opened."
            f"{_look(file)} If you trust its source, write its tensors to a plain file once, in "
            "the environment that made it: torch.save(model.state_dict(), 'plain.pth')."
        ) from error
    except Exception as error:
        raise WeightsError(f"{file} cannot be read by torch: {error}.{_look(file)}") from error


def _look(file: Path) -> str:
    """What the first bytes of an unreadable file show, as a sentence."""
    with file.open("rb") as stream:
        start = stream.read(64).lstrip()
    if not start:
        return " The file is empty."
    if start.startswith(b"version https://git-lfs"):
        return " It is a Git LFS pointer, not the weights: run git lfs pull."
    if start.startswith(b"<"):
        return " It is a web page: the download gave an error page instead of the weights."
    return ""


def _unwrap(file: Path, content: object) -> WeightsFile:
    """Open the common wrappers until the state dict is found."""
    words = f"file {file.name}"
    while isinstance(content, Mapping):
        key = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            break
        content, words = content[key], f"{words}, entry {key!r}"
    entries = dict(content) if isinstance(content, Mapping) else {}
    tensors = {str(k): v for k, v in entries.items() if isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, entries))[:80]
        kind = f"a dict with {keys}" if keys else f"a {type(content).__name__}"
        raise WeightsError(f"{file} holds no state dict; it holds {kind}. {_expected()}")
    return WeightsFile(tensors, words)


def _strip_prefixes(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Take off the prefixes of wrappers (DataParallel, compile, Lightning) that all names share."""
    ours = list(model.state_dict())
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None):
        if any(name.startswith(prefix) for name in ours):
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _misfit(words: str, differences: Differences) -> str:
    known = differences.fitting + len(differences.misshaped)
    total = known + len(differences.missing)
    if known * 2 < total:
        hint = (
            "These look like weights of another architecture, or of the same one in another "
            'library (try "timm:..." or "torchvision:..." before the name).'
        )
    elif differences.misshaped:
        hint = (
            "The file is of a variant of this network (another width, depth or input size). Give "
            "the architecture and the arguments with which its weights were made."
        )
    else:
        hint = "The file is not complete, or of another version of this network."
    listed = "\n".join(f"  {line}" for line in differences.lines())
    return (
        f"The weights of {words} do not fit: {differences.fitting} of the model's {total} entries "
        f"fit.\n{listed}\n{hint}"
    )
