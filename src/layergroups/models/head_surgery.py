"""Change the head of a model that stays as it is otherwise, found by a dry run."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from layergroups.anatomy import Anatomy, Classifier, read_anatomy
from layergroups.errors import ModelError

log = logging.getLogger("layergroups")


def replace_head(model: nn.Module, n_out: int, *, example_input: Any = None) -> tuple[str, ...]:
    """Exchange the final classifiers of a model for new ones with other outputs, in place.

    Works on any model whose classifier a dry run finds, those of transformers too, whose
    `config.num_labels` and `num_labels` follow. Layer groups of the model follow by themselves. The
    new layers start as torch initialises them, on the device and of the type of the old ones.

    Args:
        model: any module; it is changed.
        n_out: outputs of the new classifiers: classes, or numbers.
        example_input: a tensor (N, ...), a tuple of arguments or a dict of keyword arguments;
            where it is left out, one is made from what the model tells of itself.

    Returns:
        The paths of the layers that were exchanged.

    Raises:
        ModelError: no classifier was found, or it is not a linear layer or a convolution.
        AnatomyError: the model cannot be run.
    """
    if n_out < 1:
        raise ModelError(f"n_out={n_out}: a head gives at least one number")
    anatomy = read_anatomy(model, example_input)
    if not anatomy.classifiers:
        raise ModelError(
            f"{type(model).__name__} has no classifier to replace ({anatomy.head_reason}). Put one "
            f"on: nn.Sequential(model, nn.Linear(features, {n_out}))"
        )
    paths = tuple(dict.fromkeys(_path(model, c, anatomy) for c in anatomy.classifiers))
    made = {path: _like(model.get_submodule(path), path, n_out) for path in paths}
    for path, layer in made.items():
        model.set_submodule(path, layer)
    _tell(model, n_out)
    return paths


def _path(model: nn.Module, classifier: Classifier, anatomy: Anatomy) -> str:
    """Where a classifier stands; one whose weight is tied to an embedding has two names."""
    names = (classifier.weight, *anatomy.tied.get(classifier.weight, ()))
    for path in (name.rpartition(".")[0] for name in names[1:]):
        if isinstance(model.get_submodule(path), nn.Linear):
            log.warning("%s was tied to %s; the new one is not", path, classifier.weight)
            return path
    return classifier.path


def _like(old: nn.Module, path: str, n_out: int) -> nn.Module:
    """A layer as the old one but for its outputs."""
    weight = getattr(old, "weight", None)
    if not isinstance(weight, torch.Tensor) or not path:
        raise _not_a_layer(old, path)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    bias = getattr(old, "bias", None) is not None
    if isinstance(old, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sizes: dict[str, Any] = {
            "stride": old.stride, "padding": old.padding, "dilation": old.dilation,
        }  # fmt: skip
        return type(old)(old.in_channels, n_out, old.kernel_size, bias=bias, **sizes, **place)  # type: ignore[arg-type] # one size for each kind
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, n_out, bias=bias, **place)
    if type(old).__name__ == "Conv1D" and weight.ndim == 2:  # of transformers: (in, out)
        return nn.Linear(weight.shape[0], n_out, bias=bias, **place)
    raise _not_a_layer(old, path)


def _not_a_layer(old: nn.Module, path: str) -> ModelError:
    return ModelError(
        f"the classifier at {path or 'the root'} is a {type(old).__name__}, not a linear layer or "
        f"a convolution, so how a new one is made is not known. Set it yourself: "
        f"model.set_submodule({path!r}, your_layer)"
    )


def _tell(model: nn.Module, n_out: int) -> None:
    """Let a transformers model know its new number of labels; its loss and reshapes ask for it."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "num_labels"):
        config.num_labels = n_out
    for module in model.modules():
        if isinstance(getattr(module, "num_labels", None), int):
            module.num_labels = n_out  # type: ignore[assignment] # a plain number, not a module
