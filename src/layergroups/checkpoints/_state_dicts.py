"""Convert weights, optimizer state and random states to named tensors and JSON, and back."""

from __future__ import annotations

import copy
import random
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._formatting import first_few
from layergroups._torch import is_sharded, shard_like
from layergroups.errors import CheckpointError
from layergroups.groups import place_steps
from layergroups.models import compare

Named = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and JSON values
PLAIN: Final = (bool, int, float, str, type(None))
_TENSOR: Final = "__tensor__"
_SCHEDULED: Final = {"lr", "betas", "momentum"}
_NOT_SAVED: Final = _SCHEDULED | {"name", "layer_group", "fused", "foreach", "capturable"}


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> Named:
    """The optimizer state by parameter name, so that a checkpoint survives regrouping.

    Returns:
        Tensors named "key/parameter" (such as "exp_avg/0.weight"), and JSON-ready values as
        `{parameter: {key: value}}`.
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
                    f"{type(optimizer).__name__} stores a {type(value).__name__} as {key!r} for "
                    f"{name}; only tensors and plain values can be saved."
                )
    options = {g["name"]: _options(g) for g in optimizer.param_groups if "name" in g}
    return tensors, {"class": type(optimizer).__name__, "values": plain, "groups": options}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group, such as weight decay, except what schedules set."""
    plain = {key: value for key, value in group.items() if isinstance(value, (*PLAIN, tuple))}
    counts = {  # scalar tensors, such as the step count of timm's optimizers
        key: {"tensor": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in group.items()
        if isinstance(value, Tensor) and value.ndim == 0
    }
    return {key: v for key, v in (plain | counts).items() if key not in _NOT_SAVED}


def _loaded_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in saved.items():
        if isinstance(value, Mapping):
            options[key] = torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
        else:
            options[key] = tuple(value) if isinstance(value, list) else value
    return options


def check_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Check that `load_optimizer_state`, and a step after it, will succeed; changes nothing.

    An incomplete state also raises KeyError, TypeError, ValueError or AttributeError.
    """
    ours = type(optimizer).__name__
    if state["class"] != ours:
        raise CheckpointError(
            f"The checkpoint has the state of {state['class']}, this learner uses {ours}. Create "
            f"it with opt_func={str(state['class']).lower()!r}, or load with with_opt=False."
        )
    for name, values in state["values"].items():
        if not all(isinstance(value, PLAIN) for value in values.values()):
            raise CheckpointError(f"The optimizer state of {name} has values that are not plain.")
    options = {name: _loaded_options(saved) for name, saved in state["groups"].items()}
    saved_states: dict[str, dict[str, Any]] = {n: dict(v) for n, v in state["values"].items()}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        saved_states.setdefault(name, {})[key] = tensor
    needed = _states_after_a_step(optimizer, options)
    if needed is None and _states_after_a_step(optimizer, {}) is not None:
        raise CheckpointError(
            f"{ours} cannot step with the saved settings of its parameter groups: "
            f"{first_few(map(str, options.values()), 1)}. To load without them: with_opt=False."
        )
    needed = needed or {}
    for name, parameter in model.named_parameters():
        saved = saved_states.get(name, {})
        for key, value in needed.get(id(parameter), {}).items() if saved else ():
            if key not in saved or not _fits(saved[key], value):
                raise CheckpointError(
                    f"The saved state of {ours} has no usable {key!r} for {name}. To load without "
                    "the optimizer: with_opt=False."
                )


def _states_after_a_step(
    optimizer: Optimizer, options: Mapping[str, Mapping[str, Any]]
) -> dict[int, dict[str, Any]] | None:
    """The state of each parameter, by its id, after a step of a copy; None if that cannot step."""
    # What an optimizer keeps is known to its code alone, so it steps once on zeros of these shapes.
    trial = copy.copy(optimizer)
    trial.state, trial.param_groups = defaultdict(dict), []
    blanks: dict[int, Tensor] = {}
    for group in optimizer.param_groups:
        by_form: dict[Any, Tensor] = {}
        for p in group["params"]:
            form = (p.shape, p.dtype, p.device)
            if form not in by_form:
                by_form[form] = torch.zeros_like(p, requires_grad=True)
                by_form[form].grad = torch.zeros_like(p)
            blanks[id(p)] = by_form[form]
        own = options.get(group.get("name", ""), {})
        trial.param_groups.append({**group, **own, "params": list(by_form.values())})
    try:
        trial.step()
    except Exception:  # it needs a closure, or more than its groups; or the settings are wrong
        return None
    return {key: dict(trial.state.get(blank, {})) for key, blank in blanks.items()}


def _fits(saved: object, wanted: object) -> bool:
    if isinstance(saved, Tensor) and isinstance(wanted, Tensor) and _kind(saved) != _kind(wanted):
        return False
    if not isinstance(wanted, Tensor) or not wanted.ndim:
        return not isinstance(saved, Tensor) or not saved.ndim
    return isinstance(saved, Tensor) and saved.shape == wanted.shape


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Equal for types between which values may be converted: fractions, complex or whole."""
    return tensor.is_floating_point(), tensor.is_complex()


def load_optimizer_state(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> tuple[str, ...]:
    """Restore the state of each parameter by name, else none; returns names without parameter."""
    check_optimizer(optimizer, model, tensors, state)
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
        saved = state["groups"].get(group.get("name"))
        if saved is not None:
            counts = [k for k, v in group.items() if isinstance(v, Tensor) and k not in _NOT_SAVED]
            for key in set(counts) - set(saved):
                del group[key]  # it did not exist then
            group.update(_loaded_options(saved))
    return tuple(sorted(unknown))


def placed(saved: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy with the device and memory format of its parameter; step counts stay on the CPU."""
    if saved.ndim == 0:
        return saved.clone()
    if is_sharded(parameter):
        return shard_like(saved, parameter)
    if saved.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False).copy_(saved)
    return saved.to(parameter.device, copy=True)


def random_state() -> Named:
    """The states of the random generators of Python, NumPy (if imported), torch and CUDA."""
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


def load_random_state(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any], *, trial: bool = False
) -> None:
    """Restore the state of every generator that exists here; a trial only checks that it can."""
    of_python: Any = random.Random() if trial else random
    of_torch = torch.Generator() if trial else torch.default_generator
    version, words, gauss = plain["python"]
    of_python.setstate((version, tuple(words), gauss))
    if "numpy" in plain:
        import numpy

        kind, keys, position, has_gauss, cached = plain["numpy"]
        state = kind, numpy.asarray(keys, dtype=numpy.uint32), position, has_gauss, cached
        (numpy.random.RandomState() if trial else numpy.random).set_state(state)
    of_torch.set_state(tensors["torch"])
    for name, saved in tensors.items():
        if name != "torch" and saved.dtype != torch.uint8:
            raise ValueError(f"{name} is not the state of a generator")
        index = int(name.partition("/")[2] or -1)
        if not trial and torch.cuda.is_available() and 0 <= index < torch.cuda.device_count():
            torch.cuda.set_rng_state(saved, index)


def split_tensors(value: Any, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Separate the tensors from nested dicts, lists and tuples (which are restored as lists)."""
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
        f"{prefix} is a {type(value).__name__}; a saved state may have dicts with string keys, "
        "lists, numbers, strings and tensors."
    )


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            if value[_TENSOR] not in tensors:
                raise CheckpointError(f"The tensor {value[_TENSOR]} is missing.")
            return tensors[value[_TENSOR]]
        return {key: join_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [join_tensors(part, tensors) for part in value]
    return value


def _joined(parts: Any) -> dict[str, Tensor]:
    return {name: tensor for tensors, _ in parts for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_prefix`: those named "prefix/name", by name."""
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise `CheckpointError` if names or shapes of saved weights differ from the model's."""
    _, misfit = fitting_weights(model, weights, source)
    if misfit:
        raise CheckpointError(
            f"{misfit} Create the learner with the same arch, classes and head, or load what fits: "
            "strict=False."
        )


def fitting_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], str]:
    """The saved weights that the model has with the same shape, and a message on the others."""
    own = model.state_dict()
    if others := [n for n, t in weights.items() if n in own and _kind(t) != _kind(own[n])]:
        saved, wanted = weights[others[0]].dtype, own[others[0]].dtype
        raise CheckpointError(
            f"{source} is not of this model: {first_few(others)} would turn from {saved} into "
            f"{wanted}. Load a file that learn.save wrote."
        )
    differences = compare(model, weights)
    if not differences:
        return dict(weights), ""
    text = f"{source} does not fit this model: {'; '.join(differences.lines())}."
    if not differences.fitting:
        raise CheckpointError(text)
    unfit = differences.unfit
    return {name: tensor for name, tensor in weights.items() if name not in unfit}, text


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load all weights by name, or none if names or shapes differ."""
    check_weights(model, weights, source)
    copy_weights(model, weights)


def copy_weights(model: nn.Module, fitting: Mapping[str, Tensor]) -> None:
    """Copy weights that fit, such as those of `fitting_weights`, into a model."""
    own = model.state_dict()
    sharded = {name: shard_like(tensor, own[name]) for name, tensor in fitting.items()}
    model.load_state_dict(sharded, strict=False)
