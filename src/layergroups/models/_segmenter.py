"""Models that give a class to every pixel: a body, a decoder of its feature maps, a last layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from layergroups._paths import parent
from layergroups.anatomy import Trace, trace
from layergroups.errors import AnatomyError, CutError, InputSizeError, ModelError
from layergroups.models._catalog import LoadedModel
from layergroups.models._cut import (
    Assembled,
    Cut,
    CutGiven,
    apply_cut,
    cut_body,
    images_of,
    runs_on,
)
from layergroups.models._decoder import Decoder
from layergroups.models._feature_maps import (
    Encoder,
    FeatureMap,
    find_maps,
    padded_to,
    spread_maps,
)

log = logging.getLogger("layergroups")
_STRIDES: Final = (14, 16, 32)  # whose multiples networks take that do not take every size


class Segmenter(nn.Sequential):
    """An encoder and a head: images (N, channels, H, W) to scores (N, classes, H, W).

    Images whose sides are not multiples of the encoder's largest stride are padded by their edges;
    the scores are cropped back.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every pixel."""
        encoder, head = self
        stride = max(each.stride for each in encoder.maps)  # type: ignore[union-attr] # an Encoder
        padded = padded_to(images, stride)
        scores = head(encoder(padded))
        scores = F.interpolate(scores, size=padded.shape[2:], mode="bilinear")
        return scores[..., : images.shape[2], : images.shape[3]]


def model_of(body: nn.Module, head: nn.Module) -> nn.Sequential:
    """A body and its head as one model."""
    return Segmenter(body, head) if isinstance(body, Encoder) else nn.Sequential(body, head)


def assemble_segmenter(
    loaded: LoadedModel,
    n_out: int,
    *,
    size: int | tuple[int, int],
    cut: CutGiven | None = None,
    decoder: str | None = None,
    widths: Sequence[int] = (),
) -> Assembled:
    """Attach a decoder and a last layer to the feature maps of a network.

    Args:
        loaded: the network.
        n_out: classes.
        size: height and width of the images.
        cut: where the body ends, as in `create_body`.
        decoder: see `Decoder`; None for U-Net, or "plain" where the network has one resolution.
        widths: see `Decoder`.

    Raises:
        ModelError: the network has no feature maps, or not those that the decoder needs.
    """
    example = images_of(loaded.input.channels, size)
    try:
        body, planned, found = cut_body(loaded, example, cut)
    except InputSizeError:
        padded = _padded(loaded, example)
        if padded is None:
            raise
        example = padded
        body, planned, found = cut_body(loaded, example, cut)
    found = _trace_of_maps(body, loaded, found, example)
    maps = tuple(each for each in find_maps(found, body) if each.stride > 1)
    if not maps:
        raise ModelError(
            f"{loaded.name} gives no feature maps, of which a mask could be made. Use a network "
            'for images, such as "resnet18"; a model that gives masks itself goes to Learner.'
        )
    kind = decoder or ("unet" if len(maps) > 1 else "plain")
    if kind == "dpt":
        maps = _spread(found, body, maps)
    end = next(call.end for call in found.calls if call.path == maps[-1].path)
    later = [n for n, time in found.first_use.items() if time > end]
    unread, rest = _removable(body, list(dict.fromkeys(map(parent, later))))
    lost = (*planned.removed[1:], *planned.idle, *unread)
    if lost:
        log.warning("removed together with the classifier: %s", ", ".join(dict.fromkeys(lost)))
    if rest:
        log.warning("not used, since they come after the last feature map: %s", ", ".join(rest))
    if kind == "unet":  # its last step joins the image, for sharp edges
        maps = (FeatureMap("", 1, loaded.input.channels), *maps)
    planned = replace(planned, maps=maps, unread=unread)
    encoder = apply_cut(loaded.model, planned) if cut is None else Encoder(body, maps)
    layers = Decoder(kind, [m.channels for m in maps], [m.stride for m in maps], widths)
    head = nn.Sequential(layers, nn.Conv2d(layers.out_channels, n_out, 3, padding=1))
    if unread:
        _check_runs(encoder, loaded, example)
    where = next(encoder.parameters(), example).device
    return Assembled(
        model=model_of(encoder, head.to(where)),
        cut=planned,
        features=layers.out_channels,
        pooled=False,
        network=type(loaded.model).__name__,
        input=loaded.input,
        example=example,
    )


def _padded(loaded: LoadedModel, example: Tensor) -> Tensor | None:
    """The example with larger sides, as `Segmenter` pads them; None if they do not help."""
    for stride in _STRIDES:
        height, width = (-(-side // stride) * stride for side in example.shape[2:])
        padded = images_of(example.shape[1], (height, width))
        if runs_on(loaded.model, padded):
            return padded
    return None


def _check_runs(encoder: nn.Module, loaded: LoadedModel, example: Tensor) -> None:
    """Refuse a network that needs what comes after its last map, such as one of two towers."""
    try:
        trace(encoder, example)
    except AnatomyError as cause:
        raise ModelError(
            f"{loaded.name} does not run without the layers after its last feature map, so no mask "
            'can be made of its maps. Use another network, such as "resnet34".'
        ) from cause


def _spread(found: Trace, body: nn.Module, maps: tuple[FeatureMap, ...]) -> tuple[FeatureMap, ...]:
    spread = spread_maps(found, body, maps[-1]) if len(maps) == 1 else ()
    if not spread:
        raise ModelError(
            'decoder="dpt" is for networks with four blocks or more of one resolution, such as '
            'vision transformers; this one has other maps: use decoder="unet" or "plain".'
        )
    return spread


def _trace_of_maps(body: nn.Module, loaded: LoadedModel, found: Trace, example: Tensor) -> Trace:
    """A trace in which no map is a single pixel, where the network takes images that large."""
    full = images_of(example.shape[1], loaded.input.size)
    if full.shape[-1] > example.shape[-1]:
        try:
            return trace(body, full)
        except AnatomyError:
            pass
    return found


def _removable(body: nn.Module, paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which modules can be taken out of a body, and which cannot."""
    gone, rest = [], []
    for path in paths:
        try:
            apply_cut(body, Cut("whole", (), (path,), ""))
            gone.append(path)
        except CutError:
            rest.append(path)
    return tuple(gone), tuple(rest)
