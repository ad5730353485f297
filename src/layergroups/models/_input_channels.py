"""Change how many channels of an image a model takes; its pretrained weights are adapted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

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
    """What `change_input_channels` did.

    Attributes:
        paths: the first layers, whose weights were adapted.
        before: channels that the model took.
        after: channels that it takes now.
        how: how the new weights came from the old ones, in words.
    """

    paths: tuple[str, ...]
    before: int
    after: int
    how: str

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{', '.join(self.paths)}: {self.before} → {self.after} input channels, {self.how}"


def change_input_channels(
    model: nn.Module, channels: int, *, example_input: Any = None
) -> InputChange:
    """Let a model take images of another number of channels, in place, with adapted weights.

    The convolutions that read the image, patch embeddings too, are found by a dry run. Each stays
    the same layer and gets a new weight: for one channel the sum over all channels, otherwise the
    channels repeated in a cycle and scaled. The numbers of channels that models of transformers and
    timm hold follow, and so do layer groups. An optimizer starts afresh for the new weight. The
    statistics by which images are normalised belong to the data and do not follow.

    Args:
        model: any module; it is changed.
        channels: how many the images have from now on, such as 1 or 4.
        example_input: an input that the model takes now: a tensor (N, C, H, W), a tuple of
            arguments or a dict of keyword arguments; if it is left out, one is made from what is
            known of the model.

    Returns:
        Which layers were changed and how; with as many channels as before nothing is changed.

    Raises:
        ModelError: the image does not enter by convolutions of its own channels, or the model
            cannot run on the new ones; the model is as it was then.
        AnatomyError: the model cannot be run.
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ModelError(f"channels={channels!r}: an image has at least one, such as 1, 3 or 4")
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
                f"{type(model).__name__} cannot run on {channels} channels, though "
                f"{', '.join(paths)} takes them: something else in it counts on {before}, such as "
                "a normalisation of the input. Take that out first (googlenet and inception_v3: "
                "model.transform_input = False), then call change_input_channels again."
            ) from error
        _update_timm(model, before, channels)
    summed = f"the weights of {before} channels summed"
    cycle = (
        f"the weights of {before} channels repeated in a cycle and scaled by {before}/{channels}"
    )
    return InputChange(paths, before, channels, summed if channels == 1 else cycle)


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """The weight of a first convolution for another number of input channels.

    For one channel the weights of all channels are summed, so that a grey image gives what it gave
    as three equal channels. Otherwise the channels are repeated in a cycle and scaled by old / new,
    so that sums keep their scale.

    Shapes: (out, old, ...) in, (out, channels, ...) out.

    Source: timm, `adapt_input_conv` (Wightman, "PyTorch Image Models"); written anew.
    """
    before = weight.shape[1]
    exact = weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if channels == 1:
        return exact.sum(1, keepdim=True).to(weight.dtype)
    cycle = torch.arange(channels, device=weight.device) % before
    return (exact[:, cycle] * (before / channels)).to(weight.dtype)


def _entrances(model: nn.Module, found: Trace) -> tuple[tuple[str, ...], int]:
    """Paths of the convolutions that the image enters, and how many channels it has."""
    ops = [op for op in found.ops if op.parameters and _images_read(op, found)]
    if not ops:
        raise ModelError(
            f"{type(model).__name__} takes no image: no layer with parameters reads an input of "
            "three or more dimensions. Give example_input=, an input as the model takes it."
        )
    for op in ops:
        _check_entrance(model, op, found)
    counts = {op.read_shapes[op.reads.index(_images_read(op, found)[0])][1] for op in ops}
    if len(counts) > 1:
        raise ModelError(
            f"{type(model).__name__} takes inputs of {sorted(counts)} channels; change the layers "
            "of one yourself, or call change_input_channels on the part that takes it."
        )
    return tuple(dict.fromkeys(layer_of(_weight(op, found)) for op in ops)), counts.pop()


def _images_read(op: Op, found: Trace) -> list[int]:
    """The values that an operation reads which were made from inputs alone and look like images."""
    values = found.values
    return [
        v
        for v in op.reads
        if values[v].kind == INPUT and values[v].floating and len(values[v].shape) >= 3
    ]


def _weight(op: Op, found: Trace) -> str:
    """Name of the parameter with the most dimensions that an operation uses."""
    return max(op.parameters, key=lambda name: len(found.shapes[name]))


def _check_entrance(model: nn.Module, op: Op, found: Trace) -> None:
    path = layer_of(_weight(op, found))
    layer = model.get_submodule(path)
    shape = op.read_shapes[op.reads.index(_images_read(op, found)[0])]
    cause = ""
    if op.name != "convolution":
        cause = f"the operation {op.name}, so where its channels stand in the weight is not known"
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
        cause = "a convolution that reads the image in another layout than it was given"
    if cause:
        raise ModelError(
            f"the image enters {type(model).__name__} at {path or 'the root'} by {cause}. Replace "
            f"the layer yourself: model.set_submodule({path!r}, your_layer)"
        )


def _adapted(model: nn.Module, weight: nn.Parameter, channels: int) -> nn.Parameter:
    """The new weight; it trains unless the user froze the old one (a frozen group may train)."""
    trains = weight.requires_grad or any(weight is p for p in frozen_by_groups(model))
    return nn.Parameter(adapted_weight(weight, channels), requires_grad=trains)


def _exchange(layer: Any, weight: nn.Parameter) -> None:
    """Give a convolution another weight, and its other fields the values that go with it."""
    before, after = layer.weight.shape[1], weight.shape[1]
    layer.weight = weight
    layer.in_channels = after
    if isinstance(getattr(layer, "scale", None), float):  # timm's ScaledStdConv2d: fan-in ** -0.5
        layer.scale *= (before / after) ** 0.5


def _counts_of_channels(
    model: nn.Module, paths: tuple[str, ...], before: int
) -> Iterator[tuple[Any, str]]:
    """Objects on the way to the first layers that know the number of channels, and its name there.

    These are modules, such as a patch embedding that checks its input, and their configs.
    """
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
    """Let the example input that is made from timm's description of the weights fit again."""
    for module in model.modules():
        for name in ("pretrained_cfg", "default_cfg"):
            described = module.__dict__.get(name)
            if isinstance(described, dict) and (described.get("input_size") or ())[:1] == (before,):
                size = (after, *described["input_size"][1:])
                setattr(module, name, {**described, "input_size": size})


def _with_channels(tensor: Tensor, before: int, after: int) -> Tensor:
    """Zeros in the place of an image, with the new number of channels; other inputs as they are."""
    if tensor.ndim < 3 or not tensor.is_floating_point() or tensor.shape[1] != before:
        return tensor
    return tensor.new_zeros(tensor.shape[0], after, *tensor.shape[2:])


def with_channels(
    loaded: LoadedModel, channels: int, *, size: tuple[int, int]
) -> tuple[LoadedModel, InputChange | None]:
    """The network for images of so many channels; its first convolution is changed if needed.

    Args:
        loaded: the network, which is changed in place, with what its weights expect.
        channels: of the images that will come.
        size: their height and width, in pixels.

    Returns:
        The network with statistics for these channels, and what `change_input_channels` did; None
        if the network takes so many channels already.

    Raises:
        ModelError: the network cannot be changed so.
        AnatomyError: it cannot be run.
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
