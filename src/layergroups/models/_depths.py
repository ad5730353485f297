"""Features of several depths: the output of a body, and statistics of its inner feature maps.

A linear head on the last features alone reads what the classes of the pretraining needed. Earlier
maps hold the edges, textures and sizes that other classes differ in.

Source: Evci and others, "Head2Toe: Utilizing Intermediate Representations for Better Transfer
Learning" (2022), for a linear head on features of all depths; Huang and Belongie, "Arbitrary Style
Transfer in Real-time with Adaptive Instance Normalization" (2017), for mean and standard deviation
of the channels as a description of a map.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from layergroups._paths import parent
from layergroups.anatomy import Flow, Trace, output_shape
from layergroups.models._feature_maps import (
    FIRST,
    LAST,
    TOKENS,
    FeatureMap,
    all_maps,
    depth,
    find_maps,
    outputs_at,
)

_RESOLUTIONS = 3  # networks of fewer have maps at equal distances instead
_BLOCKS = 4  # that these have
_SMALL = 1e-5  # added to a variance: the square root has no finite gradient at 0


class ChannelStatistics(nn.Module):
    """Mean and standard deviation of each channel of a feature map; of tokens, those of patches.

    Shapes: what the module of the map returns in, float (N, 2 * channels) out.
    """

    def __init__(self, feature_map: FeatureMap) -> None:
        super().__init__()
        self.map = feature_map

    def forward(self, value: Tensor) -> Tensor:
        """Means, then standard deviations."""
        places = {FIRST: (2, 3), LAST: (1, 2), TOKENS: (1,)}[self.map.layout]
        if self.map.layout == TOKENS:
            value = value[:, self.map.prefix :]
        variance, mean = torch.var_mean(value.float(), places, correction=0)
        return torch.cat([mean, (variance + _SMALL).sqrt()], 1)

    def extra_repr(self) -> str:
        """The map that is read."""
        return self.map.path


class DepthFeatures(nn.Module):
    """A body whose output is averaged, and followed by statistics of inner maps.

    Shapes: images (N, channels, H, W) in; float (N, F) out: the output of the body, averaged if it
    is a map or tokens, then mean and standard deviation of the channels of each inner map.
    """

    def __init__(self, body: nn.Module, maps: tuple[FeatureMap, ...]) -> None:
        super().__init__()
        for each in maps:
            body.get_submodule(each.path)  # AttributeError if the body has no such module
        self.body = body
        # Modules of their own: where a map is frozen its statistics are cached, not the map.
        self.statistics = nn.ModuleList(ChannelStatistics(each) for each in maps)

    @property
    def maps(self) -> tuple[FeatureMap, ...]:
        """The maps that are read."""
        return tuple(each.map for each in self.statistics)  # type: ignore[misc] # of Module

    def forward(self, images: Tensor) -> Tensor:
        """Features of images."""
        last, seen = outputs_at(self.body, [each.path for each in self.maps], images)
        features = [last if last.ndim == 2 else last.mean(1 if last.ndim == 3 else (2, 3))]
        features += [s(seen[each.path]) for each, s in zip(self.maps, self.statistics, strict=True)]
        return torch.cat(features, 1)


def find_depths(found: Trace, body: nn.Module) -> tuple[FeatureMap, ...]:
    """The maps whose statistics describe an image: the last of each resolution.

    Of the last resolution it is a map before the output, if there is one of other channels, such as
    before the last convolution of a MobileNet. A network of one resolution, such as a vision
    transformer, has the outputs of some of its blocks instead.
    """
    every = list(all_maps(found))
    maps = tuple(each for each in find_maps(found, body) if each.stride > 1)
    if len(maps) < _RESOLUTIONS:
        siblings: dict[str, list[FeatureMap]] = defaultdict(list)
        for _, each in every:
            siblings[parent(each.path)].append(each)
        blocks = max(siblings.values(), key=len, default=[])
        if len(blocks) >= _BLOCKS:
            at = [len(blocks) * (k + 1) // _BLOCKS - 1 for k in range(_BLOCKS)]
            maps = tuple(blocks[i] for i in at)
    if not _is_output(found, maps):
        return maps
    *lower, last = maps
    before = [
        (-depth(body, each.path), end, each) for end, each in every
        if each.stride == last.stride and each.channels != last.channels
    ]  # fmt: skip
    return (*lower, max(before, key=lambda one: one[:2])[2]) if before else tuple(lower)


def _is_output(found: Trace, maps: tuple[FeatureMap, ...]) -> bool:
    """Whether the last map is what the body returns, but for an activation."""
    if not maps:
        return False
    call = next(call for call in found.calls if call.path == maps[-1].path)
    later = Flow(found).between(call.end, found.calls[0].end)
    return call.shape == output_shape(found) and not any(op.parameters for op in later)
