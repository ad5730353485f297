"""Load weights from a local file: read it without pickled code, compare it, then load all of it.

A file is accepted if every entry fits the model by name and shape, or if only the classifier
differs, which transfer learning replaces anyway. Otherwise an error lists the differences.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The tensors of a file by name, and a description of their source."""

    tensors: dict[str, Tensor]
    words: str


@dataclass(frozen=True)
class Differences:
    """How the entries of a file differ from those of a model."""

    missing: Sequence[str]  # in the file
    unexpected: Sequence[str]  # in the file
    misshaped: Mapping[str, str]  # name of an entry, and both shapes
    fitting: int  # number of entries

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    @property
    def unfit(self) -> set[str]:
        """Names of the file's entries that cannot be loaded."""
        return {*self.misshaped, *self.unexpected}

    def lines(self) -> list[str]:
        """A line for each kind of difference: how many entries, and the first names."""
        kinds: dict[str, Sequence[str]] = {
            "missing in the file": self.missing,
            "unknown to the model": self.unexpected,
            "of a different shape": [f"{n} ({shapes})" for n, shapes in self.misshaped.items()],
        }
        return [f"{len(n)} {kind}: {first_few(n, _SHOWN)}" for kind, n in kinds.items() if n]

    def outside(self, paths: tuple[str, ...]) -> Differences:

        def keep(names: Iterable[str]) -> list[str]:
            return [n for n in names if not any(is_within(n, path) for path in paths)]

        misshaped = {name: self.misshaped[name] for name in keep(self.misshaped)}
        return Differences(keep(self.missing), keep(self.unexpected), misshaped, self.fitting)


def find_weights(path: str | Path) -> Path:
    """Check that a weights file exists, without opening it; "~" is the home folder."""
    file = path_of(path, WeightsError, 'weights="resnet18.pth"').expanduser()
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(f"weights={str(path)!r}: {file.absolute()} {kind}. {_expected()}")
    if file.suffix.lower() not in WEIGHT_ENDINGS:
        raise WeightsError(f"weights={str(path)!r}: unsupported file extension. {_expected()}")
    return file


def read_weights(path: str | Path) -> WeightsFile:
    """Read the tensors of a weights file to the CPU, without running any code in it.

    Common wrappers ({"state_dict": ...}, {"model": ...}) are opened; moving averages take
    precedence.
    """
    file = find_weights(path)
    if file.suffix.lower() != ".safetensors":
        return _unwrap(file, _read_torch(file))
    try:
        return _unwrap(file, load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"cannot be read as safetensors: {error}."
        raise WeightsError(f"{file} {reason}{_content_hint(file)}") from error


def compare(model: nn.Module, tensors: Mapping[str, Tensor]) -> Differences:
    """Compare names and shapes of a model's entries with those of `tensors`."""
    ours = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    common = [name for name in ours if name in tensors]
    misshaped = {
        name: f"file {list(tensors[name].shape)}, model {list(ours[name].shape)}"
        for name in common
        if tensors[name].shape != ours[name].shape
    }
    return Differences(
        missing=[name for name in ours if name not in tensors],
        unexpected=[name for name in tensors if name not in ours],
        misshaped=misshaped,
        fitting=len(common) - len(misshaped),
    )


def load_weights_file(
    model: nn.Module, path: str | Path, *, convert: Converter | None = None
) -> str:
    """Load a weights file into a model, in place: everything, or everything but the classifier.

    The result of `convert`, for an older or differently sized file, is used if it fits better.
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
        except Exception as error:  # a converter may fail on files of other kinds
            problem = error
    classifier = tuple(classifier_layers(model))
    serious = differences.outside(classifier)
    if serious or differences.fitting == 0:
        raise WeightsError(_misfit(found.words, differences)) from problem
    unfit = differences.unfit
    model.load_state_dict({k: v for k, v in tensors.items() if k not in unfit}, strict=False)
    if differences:
        _log.warning(
            "%s: loaded all but the classifier (%s), which does not fit and which a new head "
            "replaces",
            found.words,
            ", ".join(classifier),
        )
    return found.words


def _compare_file(model: nn.Module, tensors: Mapping[str, Tensor]) -> Differences:
    """As `compare`; files written before PyTorch 0.4.1 may lack `num_batches_tracked`."""
    found = compare(model, tensors)
    missing = [n for n in found.missing if not n.endswith("num_batches_tracked")]
    return replace(found, missing=missing)


def _expected() -> str:
    return (
        f"Expected is a {', '.join(WEIGHT_ENDINGS)} file with a state dict, as written by "
        "torch.save(model.state_dict(), ...) or safetensors."
    )


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # on odd formats; an error follows them
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} is damaged, or holds pickled objects besides tensors, which could run any "
            f"code, so it was not opened.{_content_hint(file)} If you trust its source, save only "
            "its tensors where it was made: torch.save(model.state_dict(), 'plain.pth')."
        ) from error
    except Exception as error:
        raise WeightsError(
            f"{file} cannot be read by torch: {error}.{_content_hint(file)}"
        ) from error


def _content_hint(file: Path) -> str:
    with file.open("rb") as stream:
        start = stream.read(64).lstrip()
    if not start:
        return " The file is empty."
    if start.startswith(b"version https://git-lfs"):
        return " It is a Git LFS pointer, not the weights: run git lfs pull."
    if start.startswith(b"<"):
        return " It is a web page: the download returned an error page instead of the weights."
    return ""


def _unwrap(file: Path, content: object) -> WeightsFile:
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
    """Remove the prefixes of wrappers (DataParallel, compile, Lightning) that all names share."""
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
            "They look like weights of a different architecture, or of a different library (try "
            'the prefix "timm:" or "torchvision:").'
        )
    elif differences.misshaped:
        hint = (
            "They are of a variant of this network (width, depth or input size). Pass the "
            "architecture and arguments that its weights were trained with."
        )
    else:
        hint = "The file is incomplete, or of a different version of this network."
    listed = "\n".join(f"  {line}" for line in differences.lines())
    return (
        f"The weights of {words} do not fit: {differences.fitting} of the model's {total} entries "
        f"fit.\n{listed}\n{hint}"
    )
