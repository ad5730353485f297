"""Replace, grow or shrink the classifiers of a model, which a dry run finds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._formatting import first_few
from layergroups._forward import run_model
from layergroups._paths import is_within, parent
from layergroups._torch import own_tensors
from layergroups.anatomy import (
    Anatomy,
    Classifier,
    Flow,
    Snapshot,
    find_head,
    first_trace,
    read_anatomy,
    restoring,
    unwrap,
)
from layergroups.errors import ModelError
from layergroups.groups import frozen_by_groups
from layergroups.models._heads import ConcatLinear, outputs_of, parts_of, resize_units, whole_path

log = logging.getLogger("layergroups")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def all_or_nothing(*models: object, values: bool = False) -> Iterator[None]:
    """Restore models if the block raises: modules, attributes, configs, flags, and `values`.

    Objects other than modules are ignored.
    """
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    configs = [m.config for m in modules if hasattr(getattr(m, "config", None), "__dict__")]
    attributes: list[Any] = [vars(holder) for holder in (*modules, *configs)]
    inside = [v for held in attributes for v in held.values() if isinstance(v, (dict, list, set))]
    before = Snapshot([*attributes, *inside], deep=False)
    tensors = [t for m in modules for t in own_tensors(m).values()]
    flags = [(tensor, tensor.requires_grad) for tensor in tensors]
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors if values]
    try:
        yield
    except BaseException:
        before.restore()
        for tensor, trains in flags:
            tensor.requires_grad_(trains)
        with torch.no_grad():
            for tensor, value in copies:
                tensor.copy_(value)
        raise


def replace_head(
    model: nn.Module,
    n_out: int,
    *,
    example_input: Any = None,
    head: str | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Replace the final classifiers of a model by new ones with `n_out` outputs, in place.

    Works on any model whose classifier a dry run finds, including models of transformers, whose
    `config.num_labels` and `num_labels` are updated. Layer groups update automatically. The new
    layers have torch's default initialisation, and the device and dtype of the old ones.

    Args:
        model: any module; it is changed.
        n_out: outputs of the new classifiers: classes or targets.
        example_input: a tensor (N, ...), a tuple of arguments or a dict of keyword arguments;
            default is an input derived from the model's config.
        head: path of the module whose last layer is the classifier, or several, if it is known.

    Returns:
        The paths of the replaced layers.

    Raises:
        ModelError: no classifier was found, it is not a linear layer or a convolution, or the
            model relies on its old number of outputs. The model is then unchanged.
        AnatomyError: the model cannot be run.
    """
    _check_count(n_out)
    instead = f"nn.Sequential(model, nn.Linear(features, {n_out}))"
    found = _found(model, example_input, instead, head=head)
    made = {path: _like(parts_of(layer)[0], path, n_out) for path, layer in found.items()}
    return _exchange_all(model, found, made, n_out, example_input)


def grow_head(model: nn.Module, n_out: int, *, example_input: Any = None) -> tuple[str, ...]:
    """Add outputs to the final classifiers of a model, in place; old outputs stay bit-identical.

    The old layer stays in the model with the same parameters, so their optimizer state stays valid.
    A `ConcatLinear` joins its outputs with those of a new layer: `fc.weight` becomes `fc.0.weight`,
    the new rows are `fc.1.weight`. A single wider layer would not do, because a matrix product of a
    different width rounds differently. The new rows have torch's default initialisation. A
    classifier that is tied to an embedding stays tied. Layer groups, `replace_head`, `shrink_head`
    and further calls of `grow_head` treat the grown layer as one.

    Args:
        model: any module; it is changed.
        n_out: outputs afterwards: the old ones first, then the new ones.
        example_input: as in `replace_head`.

    Returns:
        The paths of the grown layers.

    Raises:
        ModelError: no classifier was found, it has `n_out` outputs or more already, or the model
            does not call it as a layer. The model is then unchanged.
        AnatomyError: the model cannot be run.
    """
    _check_count(n_out)
    found = _found(model, example_input, f"nn.Sequential(model, nn.Linear(features, {n_out}))")
    for path, layer in found.items():
        if outputs_of(layer) >= n_out:
            raise ModelError(
                f"grow_head: {path} already has {outputs_of(layer)} outputs. n_out={n_out} counts "
                f"old and new outputs: grow_head(model, {outputs_of(layer) + 1}). For fewer: "
                f"shrink_head(model, {n_out})."
            )
    made = {path: _grown(layer, path, n_out) for path, layer in found.items()}
    old = range(min(map(outputs_of, found.values())))
    return _exchange_all(model, found, made, n_out, example_input, old)


def shrink_head(
    model: nn.Module, keep: int | Sequence[int], *, example_input: Any = None
) -> tuple[str, ...]:
    """Keep some outputs of the final classifiers of a model, or reorder them, in place.

    The remaining outputs keep their weights, bit for bit. If a grown head shrinks to its earlier
    size, the original layer is restored; otherwise the layer and its parameters are new objects,
    without optimizer state.

    Args:
        model: any module; it is changed.
        keep: how many outputs to keep, the first ones; or their indices in the new order:
            `shrink_head(model, [2, 0])`. All indices in a different order reorder the classes.
        example_input: as in `replace_head`.

    Returns:
        The paths of the changed layers.

    Raises:
        ModelError: no classifier was found, `keep` does not fit it, or its outputs are not rows
            of its weight. The model is then unchanged.
        AnatomyError: the model cannot be run.
    """
    found = _found(model, example_input, "nn.Sequential(model, nn.Linear(features, n))")
    kept = {path: _kept(keep, outputs_of(layer), path) for path, layer in found.items()}
    made = {path: _chosen(model, path, kept[path]) for path in found}
    first = next(iter(kept.values()))
    return _exchange_all(model, found, made, len(first), example_input, first)


def classifier_layers(
    model: nn.Module, anatomy: Anatomy | None = None, *, n_out: int | None = None
) -> dict[str, nn.Module]:
    """The final classifiers of a model by path; a grown classifier counts as one layer.

    A dry run finds them in the dataflow. A classifier whose weight is tied to an embedding is found
    under its second name. Without a dry run they are those of timm's `pretrained_cfg`, or the last
    registered module with direct parameters.

    Args:
        model: any module.
        anatomy: of a dry run of the model.
        n_out: only classifiers with this many outputs. If the dry run shows none, the linear
            layer or convolution that ran last, which a norm may follow.
    """
    if anatomy is None:
        paths = _registered_classifiers(model)
    else:
        paths = [_untied(model, anatomy, c) for c in anatomy.classifiers if _has(model, c.path)]
    found = _whole_layers(model, paths)
    if anatomy is None or n_out is None:
        return found
    fitting = {path: layer for path, layer in found.items() if outputs_of(layer) == n_out}
    if not fitting:
        ran = [p for p in anatomy.layers if _has(model, p) and is_linear(model.get_submodule(p))]
        last = _whole_layers(model, ran[-1:])
        fitting = {path: layer for path, layer in last.items() if outputs_of(layer) == n_out}
    return fitting


def _whole_layers(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    whole = dict.fromkeys(whole_path(model, path) for path in paths)
    return {path: model.get_submodule(path) for path in whole}


def _untied(model: nn.Module, anatomy: Anatomy, classifier: Classifier) -> str:
    for name in anatomy.tied.get(classifier.weight, ()):
        other = parent(name)
        if isinstance(model.get_submodule(other), nn.Linear):
            return other
    return classifier.path


def _registered_classifiers(model: nn.Module) -> list[str]:
    config = getattr(model, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    if named:
        return [named] if isinstance(named, str) else list(named)
    modules = model.named_modules()
    return [p for p, m in modules if p and any(True for _ in m.parameters(recurse=False))][-1:]


def _has(model: nn.Module, path: str) -> bool:
    """False if the model was changed after the dry run."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a weight, like a linear layer or a convolution."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def _found(
    model: nn.Module, example_input: Any, instead: str, head: str | Sequence[str] | None = None
) -> dict[str, nn.Module]:
    anatomy = read_anatomy(model, example_input, head=head)
    if not anatomy.classifiers:
        raise ModelError(
            f"{type(model).__name__} has no classifier to replace ({anatomy.head_reason}). Add "
            f"one: {instead}; or say which it is: replace_head(model, n, head='path')"
        )
    found = classifier_layers(unwrap(model), anatomy)
    for path, layer in found.items():
        for part in parts_of(layer):
            if not path or not (_is_conv1d_of_transformers(part) or _is_layer(part)):
                raise _not_a_layer(layer, path)
    return found


def _exchange_all(
    model: nn.Module,
    old: Mapping[str, nn.Module],
    made: Mapping[str, nn.Module],
    n_out: int,
    example_input: Any,
    kept: Sequence[int] = (),
) -> tuple[str, ...]:
    """Insert new classifiers, all or none, and check that the model runs and calls each of them.

    `kept` are the indices of the old outputs, which come first in the new layers.
    """
    cause: Exception | None = None
    ran: set[str] = set()
    with all_or_nothing(model):
        for path, layer in made.items():
            unwrap(model).set_submodule(path, layer)
        resize_units(model, n_out, kept)
        _update_labels(model, old, n_out, kept)
        try:
            ran = _classifiers_that_run(model, example_input)
        except Exception as error:
            cause = error
        for path, layer in made.items():
            grown = len(parts_of(layer)) > 1 and f"{path}.{len(parts_of(layer)) - 1}" not in ran
            if cause is not None or grown:
                raise ModelError(
                    f"{type(model).__name__} does not run with {n_out} outputs at {path}: "
                    f"{_holders_of(model, old, made)}. It is unchanged. Replace what else needs "
                    "the number of outputs, or give the head: replace_head(model, n, head='path')."
                ) from cause
    _warn_of_ties(model, old, made)
    return tuple(made)


def _classifiers_that_run(model: nn.Module, example_input: Any) -> set[str]:
    """Paths of the classifiers that a dry run calls.

    A model that gives its loss is run for real too: its targets must fit the outputs.
    """
    used, found = first_trace(model, example_input)
    gives_loss = any(found.values[v].shape == () for v in found.returned)
    if gives_loss and not any(p.is_meta for p in model.parameters()):
        with restoring(model, used), torch.no_grad():
            run_model(model, copy.deepcopy(used))
    return {c.path for c in find_head(Flow(found)).classifiers}


def _holders_of(
    model: nn.Module, old: Mapping[str, nn.Module], made: Mapping[str, nn.Module]
) -> str:
    """Which tensors outside the classifiers have a number for each old output, in words."""
    sizes = {outputs_of(layer) for layer in old.values()}
    tensors = [*unwrap(model).named_parameters(), *unwrap(model).named_buffers()]
    found = [
        name for name, t in tensors
        if t.ndim and t.shape[-1] in sizes and not any(is_within(name, path) for path in made)
    ]  # fmt: skip
    if found:
        return f"{first_few(found)} depend on the old number"
    return "it uses the weight without calling the layer, or stores the number elsewhere"


def _warn_of_ties(
    model: nn.Module, old: Mapping[str, nn.Module], new: Mapping[str, nn.Module]
) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in unwrap(model).named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for path, layer in old.items():
        staying = {id(parameter) for parameter in new[path].parameters()}
        for parameter in layer.parameters():
            others = [n for n in names.get(id(parameter), ()) if not is_within(n, path)]
            if others and id(parameter) not in staying:
                log.warning("%s was tied to %s; the new layer is not", path, others[0])


def _grown(layer: nn.Module, path: str, n_out: int) -> ConcatLinear:
    parts = parts_of(layer)
    new = _like(parts[0], path, n_out - outputs_of(layer))
    dims = {nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
    dim = next((d for kind, d in dims.items() if isinstance(parts[0], kind)), -1)
    return ConcatLinear([*parts, new], dim).train(layer.training)


def _kept(keep: int | Sequence[int], n: int, path: str) -> tuple[int, ...]:
    example = f"shrink_head(model, {max(n - 1, 1)}) or shrink_head(model, [0])"
    if isinstance(keep, int) and not isinstance(keep, bool):
        if not 1 <= keep < n:
            raise ModelError(
                f"shrink_head: keep={keep}, but {path} has {n} outputs; use {example}."
            )
        return tuple(range(keep))
    kept = tuple(keep) if isinstance(keep, (Sequence, range)) else ()
    plain = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < n for i in kept)
    if not kept or not plain or len(set(kept)) < len(kept):
        raise ModelError(
            f"shrink_head: keep={keep!r} must be a number, or distinct indices from 0 to {n - 1} "
            f"of the {n} outputs of {path}: {example}."
        )
    return kept


def _chosen(model: nn.Module, path: str, kept: tuple[int, ...]) -> nn.Module:
    """A classifier with the chosen outputs: the existing parts if they fit, else a new layer."""
    layer = model.get_submodule(path)
    parts = parts_of(layer)
    for n in range(1, len(parts) + 1):
        if kept == tuple(range(sum(map(outputs_of, parts[:n])))):
            return parts[0] if n == 1 else ConcatLinear(parts[:n], layer.dim).train(layer.training)  # type: ignore[arg-type] # of ConcatLinear
    weight = torch.cat([_rows(part, path) for part in parts])
    biases = [part.bias for part in parts if isinstance(part.bias, Tensor)]
    new = _like(parts[0], path, len(kept), device="meta")
    groups_froze = set(frozen_by_groups(model))
    trains = any(p.requires_grad or p in groups_froze for p in layer.parameters())
    chosen = torch.tensor(kept, device=weight.device)
    new.weight = nn.Parameter(weight[chosen], requires_grad=trains)
    if biases:
        new.bias = nn.Parameter(torch.cat(biases).detach()[chosen], requires_grad=trains)
    return new


def _rows(layer: nn.Module, path: str) -> Tensor:
    weight: Any = layer.weight
    if _is_conv1d_of_transformers(layer):
        return weight.detach().T.contiguous()  # type: ignore[no-any-return] # a tensor
    known = {nn.Linear.forward, *(kind.forward for kind in _CONVOLUTIONS)}
    in_groups = getattr(layer, "groups", 1) != 1
    if in_groups or (type(layer).forward not in known and not _is_plain(layer, path)):
        raise ModelError(
            f"shrink_head: the outputs of {path}, a {type(layer).__name__}, are not rows of its "
            "weight. Index its outputs instead, or use a plain layer: replace_head(model, n)."
        )
    return weight.detach()  # type: ignore[no-any-return] # a tensor


def _is_plain(layer: nn.Module, path: str) -> bool:
    """Whether a layer with a custom forward computes the same as a plain layer, on noise."""
    weight: Any = layer.weight
    plain = _like(layer, path, outputs_of(layer), device="meta")
    plain.weight = nn.Parameter(weight.detach())
    if isinstance(layer.bias, Tensor):
        plain.bias = nn.Parameter(layer.bias.detach())
    shape = (2, weight.shape[1], *(3 for _ in weight.shape[2:]))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        theirs = copy.deepcopy(layer).eval()(noise)
        return torch.allclose(theirs, plain(noise), rtol=1e-2, atol=1e-3)


def _check_count(n_out: int) -> None:
    if isinstance(n_out, nn.Module):
        raise ModelError(
            f"n_out is a {type(n_out).__name__}, but must be a number: the new classifier is made "
            "here, as wide as the old one: replace_head(model, 3). Insert a layer of your own by "
            'its path: model.set_submodule("fc", layer).'
        )
    if not isinstance(n_out, int) or isinstance(n_out, bool) or n_out < 1:
        raise ModelError(f"n_out={n_out!r} must be a whole number of at least 1.")


def _is_layer(layer: nn.Module) -> bool:
    kinds = (nn.Linear, *_CONVOLUTIONS)
    return isinstance(layer, kinds) and isinstance(layer.weight, Tensor)


def _is_conv1d_of_transformers(layer: nn.Module) -> bool:
    """A linear layer whose weight has the shape (in, out)."""
    weight = getattr(layer, "weight", None)
    return type(layer).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2


def _like(old: nn.Module, path: str, n_out: int, device: Any = None) -> nn.Module:
    weight: Any = old.weight
    place: dict[str, Any] = {"device": device or weight.device, "dtype": weight.dtype}
    bias = getattr(old, "bias", None) is not None
    for kind in _CONVOLUTIONS:
        if isinstance(old, kind):
            sizes: dict[str, Any] = {
                "stride": old.stride, "padding": old.padding, "dilation": old.dilation,
                "padding_mode": old.padding_mode,
            }  # fmt: skip
            conv = kind(old.in_channels, n_out, old.kernel_size, bias=bias, **sizes, **place)  # type: ignore[arg-type] # one size for each kind
            return conv.train(old.training)
    n_in = weight.shape[0] if _is_conv1d_of_transformers(old) else weight.shape[1]
    return nn.Linear(n_in, n_out, bias=bias, **place).train(old.training)


def _not_a_layer(old: nn.Module, path: str) -> ModelError:
    return ModelError(
        f"the classifier at {path or 'the root'} is a {type(old).__name__}, not a linear layer or "
        f"convolution below the root. Replace it: model.set_submodule({path!r}, your_layer)"
    )


def _update_labels(
    model: nn.Module, old: Mapping[str, nn.Module], n_out: int, kept: Sequence[int] = ()
) -> None:
    """Update the number of classes that models of transformers and timm store; some read it."""
    model = unwrap(model)
    before = {outputs_of(layer) for layer in old.values()}
    config: Any = getattr(model, "config", None)
    # a new head is independent of the old number; a grown head must have had that number
    if hasattr(config, "num_labels") and (not kept or config.num_labels in before):
        names = list((getattr(config, "id2label", None) or {}).values())
        config.num_labels = n_out
        if kept and len(names) > max(kept):
            labels = [names[k] for k in kept] + [f"LABEL_{i}" for i in range(len(kept), n_out)]
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: i for i, label in enumerate(labels)}
    for module in model.modules():
        for name in ("num_labels", "num_classes"):
            value = getattr(module, name, None)
            replaced = name == "num_labels" and not kept
            if isinstance(value, int) and (value in before or replaced):
                setattr(module, name, n_out)
