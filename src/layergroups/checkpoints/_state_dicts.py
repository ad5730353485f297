"""Weights, optimizer and random generators as named tensors and JSON values, and back."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._torch import is_sharded, shard_like
from layergroups.errors import CheckpointError
from layergroups.groups import place_steps
from layergroups.models import compare

Named = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and JSON values
PLAIN: Final = (bool, int, float, str, type(None))
_TENSOR: Final = "__tensor__"
_NOT_SAVED: Final = frozenset(
    {
        *("lr", "betas", "momentum"),  # what a schedule sets at each step
        *("name", "layer_group", "fused", "foreach", "capturable"),
    }
)


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> Named:
    """The optimizer's state of each parameter, by the parameter's name.

    Order and number of parameter groups do not matter, so a checkpoint survives regrouping.

    Returns:
        Tensors named "key/parameter" (such as "exp_avg/0.weight"), and JSON-ready values as
        `{parameter: {key: value}}`.

    Raises:
        CheckpointError: the optimizer keeps something that is neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value
            elif isinstance(value, PLAIN):
                plain.setdefault(name, {})[key] = value
            else:
                raise CheckpointError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} as {key!r} for "
                    f"{name}; only tensors and plain values can be saved without pickle."
                )
    options = {g["name"]: _options(g) for g in optimizer.param_groups if "name" in g}
    return tensors, {"class": type(optimizer).__name__, "values": plain, "groups": options}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group, such as weight decay, but no schedule's.

    A number in a tensor, as which timm's optimizers count the steps of a group, is a dict here.
    """
    plain = {key: value for key, value in group.items() if isinstance(value, (*PLAIN, tuple))}
    counts = {
        key: {"tensor": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in group.items()
        if isinstance(value, Tensor) and value.ndim == 0
    }
    return {key: v for key, v in (plain | counts).items() if key not in _NOT_SAVED}


def _load_options(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """The inverse of `_options`; a count that had not begun then is removed."""
    for key in [k for k, v in group.items() if isinstance(v, Tensor) and k not in _NOT_SAVED]:
        if key not in saved:
            del group[key]
    group.update(_loaded_options(saved))


def _loaded_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in saved.items():
        if isinstance(value, Mapping):
            options[key] = torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
        else:
            options[key] = tuple(value) if isinstance(value, list) else value
    return options


def check_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """See that `load_optimizer_state` will succeed; changes nothing.

    Raises:
        CheckpointError: the state is of a different kind of optimizer.
        KeyError, TypeError, ValueError, AttributeError: something is missing in it.
    """
    ours = type(optimizer).__name__
    if state["class"] != ours:
        raise CheckpointError(
            f"The checkpoint holds the state of {state['class']}, this learner has {ours}. Make "
            f"the learner with opt_func={str(state['class']).lower()!r}, or load with "
            "with_opt=False."
        )
    for name, values in state["values"].items():
        if not all(isinstance(value, PLAIN) for value in values.values()):
            raise CheckpointError(f"The optimizer's state of {name} holds more than plain values.")
    for options in state["groups"].values():
        _loaded_options(options)


def load_optimizer_state(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> tuple[str, ...]:
    """Give each parameter the state that was saved under its name; the others start afresh.

    Returns:
        The names of parameters in the saved state that this model does not have.

    Raises:
        CheckpointError: see `check_optimizer`; nothing was changed then.
    """
    check_optimizer(optimizer, state)
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    unknown: set[str] = set()
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        if name in parameters:
            optimizer.state[parameters[name]][key] = placed(tensor, parameters[name])
        else:
            unknown.add(name)
    for name, values in state["values"].items():
        if name in parameters:
            optimizer.state[parameters[name]].update(values)
        else:
            unknown.add(name)
    place_steps(optimizer)
    for group in optimizer.param_groups:
        if group.get("name") in state["groups"]:
            _load_options(group, state["groups"][group["name"]])
    return tuple(sorted(unknown))


def placed(saved: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy on its parameter's device and in its memory order; step counts stay on the CPU."""
    if saved.ndim == 0:
        return saved.clone()
    if is_sharded(parameter):
        return shard_like(saved, parameter)
    if saved.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False).copy_(saved)
    return saved.to(parameter.device, copy=True)


def random_state() -> Named:
    """The states of Python's, NumPy's (where imported), torch's and CUDA's generators."""
    version, words, gauss = random.getstate()
    plain: dict[str, Any] = {"python": [version, list(words), gauss]}
    if "numpy" in sys.modules:
        import numpy

        kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        words_list = numpy.asarray(keys).tolist()
        plain["numpy"] = [str(kind), words_list, int(position), int(has_gauss), float(cached)]
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for index, device_state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda/{index}"] = device_state
    return tensors, plain


def check_random_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """See that `load_random_state` will succeed, on generators of its own; changes nothing.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: something is missing in it, or is not the
            state of a generator.
    """
    random.Random().setstate(_python_state(plain))
    if "numpy" in plain:
        import numpy

        numpy.random.RandomState().set_state(_numpy_state(plain))
    torch.Generator().set_state(tensors["torch"])
    for name, device_state in tensors.items():
        if name != "torch" and device_state.dtype != torch.uint8:
            raise ValueError(f"{name} is not the state of a generator")


def load_random_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put every generator back where it was; generators that are not here are left out."""
    random.setstate(_python_state(plain))
    if "numpy" in plain:
        import numpy

        numpy.random.set_state(_numpy_state(plain))
    torch.set_rng_state(tensors["torch"])
    cuda = [name for name in tensors if name.startswith("cuda/")]
    if cuda and torch.cuda.is_available():
        for name in cuda:
            index = int(name.removeprefix("cuda/"))
            if index < torch.cuda.device_count():
                torch.cuda.set_rng_state(tensors[name], index)


def _python_state(plain: Mapping[str, Any]) -> tuple[Any, ...]:
    version, words, gauss = plain["python"]
    return version, tuple(words), gauss


def _numpy_state(plain: Mapping[str, Any]) -> tuple[Any, ...]:
    import numpy

    kind, keys, position, has_gauss, cached = plain["numpy"]
    return kind, numpy.asarray(keys, dtype=numpy.uint32), position, has_gauss, cached


def split_tensors(value: Any, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of nested dicts, lists and tuples.

    Args:
        value: dicts with string keys, lists, tuples (they come back as lists), plain values, and
            tensors.
        prefix: begins the name of every tensor.

    Returns:
        The tensors by name, and the same value with the names in their places.

    Raises:
        CheckpointError: something else is in it, which could not be saved without pickle.
    """
    if isinstance(value, Tensor):
        return {prefix: value}, {_TENSOR: prefix}
    if isinstance(value, PLAIN):
        return {}, value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        parts = {k: split_tensors(v, f"{prefix}/{k}") for k, v in value.items()}
        return _joined(parts.values()), {k: plain for k, (_, plain) in parts.items()}
    if isinstance(value, (list, tuple)):
        listed = [split_tensors(v, f"{prefix}/{i}") for i, v in enumerate(value)]
        return _joined(listed), [plain for _, plain in listed]
    raise CheckpointError(
        f"{prefix} is a {type(value).__name__}; a state that is saved may hold dicts with string "
        "keys, lists, numbers, strings and tensors, and nothing that would need pickle."
    )


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_tensors`.

    Raises:
        CheckpointError: a tensor that the value names is not there.
    """
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            if value[_TENSOR] not in tensors:
                raise CheckpointError(f"The tensor {value[_TENSOR]} is missing in the file.")
            return tensors[value[_TENSOR]]
        return {key: join_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [join_tensors(part, tensors) for part in value]
    return value


def _joined(parts: Any) -> dict[str, Tensor]:
    return {name: tensor for tensors, _ in parts for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, named "prefix/name"."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_prefix`: those named "prefix/name", by name."""
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes of saved weights with the model's; changes nothing.

    Raises:
        CheckpointError: they differ; names everything that does.
    """
    _, told = fitting_weights(model, weights, source)
    if told:
        raise CheckpointError(
            told + " Make the learner as it was made when this was saved: the same arch, classes "
            "and head. Or load what fits, strict=False."
        )


def fitting_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], str]:
    """Those of the saved weights that the model has in the same shape.

    Returns:
        The weights, and a text on those that do not fit; an empty one if all fit.

    Raises:
        CheckpointError: not a single one fits.
    """
    differences = compare(model, weights)
    if not differences:
        return dict(weights), ""
    text = f"{source} does not fit this model: {'; '.join(differences.lines())}."
    if not differences.fitting:
        raise CheckpointError(text)
    unfit = differences.unfit
    return {name: tensor for name, tensor in weights.items() if name not in unfit}, text


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights by name, all of them.

    Raises:
        CheckpointError: names or shapes differ; nothing was loaded then.
    """
    check_weights(model, weights, source)
    copy_weights(model, weights)


def copy_weights(model: nn.Module, fitting: Mapping[str, Tensor]) -> None:
    """Copy weights that fit, such as those of `fitting_weights`, into a model."""
    own = model.state_dict()
    spread = {name: shard_like(tensor, own[name]) for name, tensor in fitting.items()}
    model.load_state_dict(spread, strict=False)
