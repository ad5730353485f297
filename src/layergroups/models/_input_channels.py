"""Change a model's number of input channels and adapt its pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._checks import whole_number
from layergroups._paths import layer_of
from layergroups._torch import own_parameters, tree_map_only
from layergroups.anatomy import INPUT, Op, Trace, first_trace, trace, unwrap
from layergroups.errors import AnatomyError, ModelError
from layergroups.groups import frozen_by_groups
from layergroups.models._catalog import LoadedModel
from layergroups.models._head_surgery import all_or_nothing

_COUNTS = ("num_channels", "in_chans", "in_channels", "in_chan", "num_input_channels")


@dataclass(frozen=True)
class InputChange:
    """The changes made by `change_input_channels`."""

    paths: tuple[str, ...]  # of the first layers, whose weights were adapted
    before: int  # input channels
    after: int
    how: str  # how the new weights were computed

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{', '.join(self.paths)}: {self.before} → {self.after} input channels, {self.how}"


def change_input_channels(
    model: nn.Module, channels: int, *, example_input: Any = None
) -> InputChange:
    """Change the number of input channels of a model, in place, and adapt its weights.

    A dry run finds the convolutions that read the image, including patch embeddings. Each gets a
    new weight: for one channel the sum over all channels, otherwise the channels repeated in a
    cycle and scaled. The numbers of channels that models of transformers and timm store are
    updated, and so are layer groups. The new weight has no optimizer state. The statistics for
    normalising images belong to the data and do not change.

    Args:
        model: any module; it is changed.
        channels: the new number, such as 1 or 4.
        example_input: an input of the model before the change: a tensor (N, C, H, W), a tuple of
            arguments or a dict of keyword arguments; default is derived from the model's config.

    Returns:
        Which layers were changed and how; none if the number of channels is the same.

    Raises:
        ModelError: the image is not read by plain convolutions, or the model cannot run with the
            new number of channels. The model is then unchanged.
        AnatomyError: the model cannot be run.
    """
    whole_number("channels", channels, 1, 4, ModelError)
    model = unwrap(model)
    example, found = first_trace(model, example_input)
    paths, before = _entrances(model, found)
    if before == channels:
        return InputChange(paths, before, channels, "unchanged")
    wider = tree_map_only(Tensor, lambda t: _with_channels(t, before, channels), example)
    with all_or_nothing(model):
        for path in paths:
            layer: Any = model.get_submodule(path)
            _exchange(layer, _adapted(model, layer.weight, channels))
        for holder, name in list(_counts_of_channels(model, paths, before)):
            if isinstance(holder, dict):
                holder[name] = channels
            else:
                setattr(holder, name, channels)
        try:
            trace(model, wider)
        except AnatomyError as error:
            raise ModelError(
                f"{type(model).__name__} cannot run on {channels} channels, although "
                f"{', '.join(paths)} can: another part relies on {before}, such as a normalisation "
                "of the input. Remove it (googlenet, inception_v3: model.transform_input = False)."
            ) from error
        _update_timm(model, before, channels)
    how = "summed" if channels == 1 else f"repeated in a cycle and scaled by {before}/{channels}"
    return InputChange(paths, before, channels, f"the weights of {before} channels {how}")


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weight (out, old, ...) of a first convolution to a new number of input channels.

    Channels are summed to one, so a grey image has the same output as with three equal channels;
    otherwise repeated in a cycle and scaled by old / new, so sums keep their scale.

    Source: timm, `adapt_input_conv` (Wightman, "PyTorch Image Models"); reimplemented.
    """
    before = weight.shape[1]
    exact = weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if channels == 1:
        return exact.sum(1, keepdim=True).to(weight.dtype)
    cycle = torch.arange(channels, device=weight.device) % before
    return (exact[:, cycle] * (before / channels)).to(weight.dtype)


def _entrances(model: nn.Module, found: Trace) -> tuple[tuple[str, ...], int]:
    ops = [op for op in found.ops if op.parameters and _images_read(op, found)]
    if not ops:
        raise ModelError(
            f"{type(model).__name__} takes no image: no layer with parameters reads an input of "
            "three or more dimensions. Pass example_input=, an input of the model."
        )
    for op in ops:
        _check_entrance(model, op, found)
    counts = {op.read_shapes[op.reads.index(_images_read(op, found)[0])][1] for op in ops}
    if len(counts) > 1:
        raise ModelError(
            f"{type(model).__name__} takes inputs of {sorted(counts)} channels; call "
            "change_input_channels on the part that takes one of them."
        )
    return tuple(dict.fromkeys(layer_of(_weight(op, found)) for op in ops)), counts.pop()


def _images_read(op: Op, found: Trace) -> list[int]:
    """The values read by an operation that depend only on inputs and have an image's shape."""
    values = found.values
    return [
        v
        for v in op.reads
        if values[v].kind == INPUT and values[v].floating and len(values[v].shape) >= 3
    ]


def _weight(op: Op, found: Trace) -> str:
    return max(op.parameters, key=lambda name: len(found.shapes[name]))


def _check_entrance(model: nn.Module, op: Op, found: Trace) -> None:
    path = layer_of(_weight(op, found))
    layer = model.get_submodule(path)
    shape = op.read_shapes[op.reads.index(_images_read(op, found)[0])]
    cause = ""
    if op.name != "convolution":
        cause = f"the operation {op.name}, whose channel dimension is unknown"
    elif not isinstance(own_parameters(layer).get("weight"), nn.Parameter):
        cause = "a convolution whose weight is computed from others"
    elif getattr(layer, "groups", 1) != 1:
        cause = "a convolution of several groups"
    elif shape[1] != op.weight_shape[1] or not any(
        # some input of the model has as many channels as the first layer reads
        v.kind == INPUT
        and v.producer == -1
        and v.shape[1:2] == shape[1:2]
        and len(v.shape) == len(shape)
        for v in found.values
    ):
        cause = "a convolution that reads it in a different layout than that of the input"
    if cause:
        raise ModelError(
            f"{type(model).__name__} reads the image at {path or 'the root'} by {cause}. Replace "
            f"the layer: model.set_submodule({path!r}, your_layer)"
        )


def _adapted(model: nn.Module, weight: nn.Parameter, channels: int) -> nn.Parameter:
    """The new weight; it trains unless the user froze the old weight (a frozen group may train)."""
    trains = weight.requires_grad or any(weight is p for p in frozen_by_groups(model))
    return nn.Parameter(adapted_weight(weight, channels), requires_grad=trains)


def _exchange(layer: Any, weight: nn.Parameter) -> None:
    before, after = layer.weight.shape[1], weight.shape[1]
    layer.weight = weight
    layer.in_channels = after
    if isinstance(getattr(layer, "scale", None), float):  # timm's ScaledStdConv2d: fan-in ** -0.5
        layer.scale *= (before / after) ** 0.5


def _counts_of_channels(
    model: nn.Module, paths: tuple[str, ...], before: int
) -> Iterator[tuple[Any, str]]:
    """Modules above the first layers, and their configs, that store the number of channels."""
    seen: set[int] = set()
    for path in paths:
        steps = path.split(".")[:-1]
        modules = [model.get_submodule(".".join(steps[:n])) for n in range(len(steps) + 1)]
        for holder in [h for m in modules for h in (m, getattr(m, "config", None))]:
            if holder is None or id(holder) in seen:
                continue
            seen.add(id(holder))
            for name in _COUNTS:
                held = holder if isinstance(holder, dict) else None
                value = held.get(name) if held is not None else getattr(holder, name, None)
                if isinstance(value, int) and value == before:
                    yield holder, name


def _update_timm(model: nn.Module, before: int, after: int) -> None:
    """Update the input size in timm's config, from which example inputs are derived."""
    for module in model.modules():
        for name in ("pretrained_cfg", "default_cfg"):
            described = module.__dict__.get(name)
            if isinstance(described, dict) and (described.get("input_size") or ())[:1] == (before,):
                size = (after, *described["input_size"][1:])
                setattr(module, name, {**described, "input_size": size})


def _with_channels(tensor: Tensor, before: int, after: int) -> Tensor:
    if tensor.ndim < 3 or not tensor.is_floating_point() or tensor.shape[1] != before:
        return tensor
    return tensor.new_zeros(tensor.shape[0], after, *tensor.shape[2:])


def with_channels(
    loaded: LoadedModel, channels: int, *, size: tuple[int, int]
) -> tuple[LoadedModel, InputChange | None]:
    """Adapt a network, in place, to images of this number of channels and this height and width.

    The second value is None if the network takes this many channels already.
    """
    if channels == loaded.input.channels:
        return loaded, None
    spec = loaded.input.for_channels(channels)
    try:
        trace(loaded.model, torch.zeros(2, channels, *size))
    except AnatomyError:
        example = torch.zeros(2, loaded.input.channels, *size)
        change = change_input_channels(loaded.model, channels, example_input=example)
        return replace(loaded, input=spec), change
    return replace(loaded, input=spec), None
