"""Decoders: feature maps of a body as one map, of which the last layer makes masks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional as F

from layergroups._formatting import count
from layergroups.errors import ModelError
from layergroups.models._feature_maps import padded_to

DECODERS: Final = ("unet", "fpn", "deeplabv3+", "dpt", "plain")
_WIDTHS: Final = (256, 128, 64, 32, 16)  # of U-Net, from the smallest map on
_FINER: Final = 8  # the result of DPT has so many times the sides of its maps
_PYRAMID: Final = (4, 8, 16, 32)  # strides that FPN and DeepLabV3+ read


class Decoder(nn.Module):
    """Feature maps of a body as one map: a decoder of segmentation_models_pytorch, or "plain".

    Args:
        kind: "unet" (Ronneberger et al. 2015), "fpn" (Lin et al. 2017, Kirillov et al. 2019),
            "deeplabv3+" (Chen et al. 2018); for networks with one resolution "dpt" (Ranftl et al.
            2021) of four maps, or "plain": convolutions and upsampling of the last map alone.
        channels: of the maps, the largest map first.
        strides: of the maps, in pixels; a U-Net may read the image itself as a map of stride 1.
        widths: channels inside the decoder, from the smallest map on; U-Net and plain have a step
            for each. Empty for the default.
    """

    def __init__(
        self,
        kind: str,
        channels: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.kind, self.channels, self.strides = kind, tuple(channels), tuple(strides)
        if kind not in DECODERS:
            known = ", ".join(f'"{name}"' for name in DECODERS)
            raise ModelError(f"decoder={kind!r} is not known; the names are {known}.")
        if kind in ("fpn", "deeplabv3+") and not set(_PYRAMID) <= set(self.strides):
            raise ModelError(
                f"decoder={kind!r} needs maps of 1/4, 1/8, 1/16 and 1/32 of the image, but the "
                f'network has {_parts(self.strides)}: use decoder="unet" or "plain".'
            )
        self.widths = tuple(widths) or self._default_widths()
        make = {"unet": self._unet, "fpn": self._fpn, "deeplabv3+": self._deeplab}
        make["dpt"] = self._dpt
        doubles = kind in ("unet", "plain")
        steps = max(1, len(_powers(self.strides[-1])) - 1) if doubles else len(self.widths)
        try:
            if min(self.widths) < 1 or len(self.widths) > steps:
                raise ValueError(f"expected at most {steps} numbers from 1")
            self.layers, self.stride = make.get(kind, self._plain)()
        except (ValueError, TypeError, RuntimeError, IndexError) as cause:
            raise ModelError(
                f"decoder={kind!r} cannot be made with widths={self.widths}: {cause}. Leave widths "
                "out, or give a number of channels for each step, such as widths=(64, 32)."
            ) from cause

    @property
    def reads_image(self) -> bool:
        """Whether the image itself is a map."""
        return self.strides[0] == 1

    @property
    def out_channels(self) -> int:
        """Channels of its result."""
        return self.widths[-1]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """A map (N, out_channels, h, w)."""
        if self.kind == "plain":
            return self.layers(maps[-1])  # type: ignore[no-any-return] # of a module
        if self.kind == "dpt":  # it halves and doubles maps, so their sides must be even
            height, width = (_FINER * side for side in maps[-1].shape[2:])
            made: Tensor = self.layers([padded_to(each, 2) for each in maps], [None] * len(maps))
            return made[..., :height, :width]
        by_stride = dict(zip(self.strides, maps, strict=True))
        smallest, last = maps[-1], self.strides[-1]
        n, _, height, width = smallest.shape
        full = [
            by_stride[s] if s in by_stride else smallest.new_empty(
                (n, 0, height * last // s, width * last // s)
            )
            for s in _powers(last)
        ]  # fmt: skip
        if self.kind == "deeplabv3+":  # it reads a map of 1/16 with the channels of the last one
            full[-1] = F.interpolate(full[-1], size=by_stride[16].shape[2:], mode="bilinear")
        if self.reads_image:
            full = [full[0], *full]  # a U-Net of the package leaves the first map out
        return self.layers(full)  # type: ignore[no-any-return] # of a module

    def _default_widths(self) -> tuple[int, ...]:
        if self.kind == "unet":
            return _WIDTHS[: max(1, len(_powers(self.strides[-1])) - 2 + self.reads_image)]
        if self.kind == "plain":  # halves the stride down to about 4
            return _WIDTHS[: max(1, (self.strides[-1] // 4).bit_length())]
        return (256,) if self.kind == "deeplabv3+" else (128,)

    def _full_channels(self) -> list[int]:
        """Channels for every power of two up to the last stride: 0 where there is no map."""
        known = dict(zip(self.strides, self.channels, strict=True))
        return [known.get(stride, 0) for stride in _powers(self.strides[-1])]

    def _unet(self) -> tuple[nn.Module, int]:
        from_package, channels = _decoder("unet", "UnetDecoder"), self._full_channels()
        if self.reads_image:
            channels = [0, *channels]
        made = from_package(channels, self.widths, n_blocks=len(self.widths))
        return made, max(1, self.strides[-1] >> len(self.widths))

    def _fpn(self) -> tuple[nn.Module, int]:
        made = _decoder("fpn", "FPNDecoder")(
            self._full_channels(), segmentation_channels=self.widths[-1]
        )
        return made, 4

    def _deeplab(self) -> tuple[nn.Module, int]:
        made = _decoder("deeplabv3", "DeepLabV3PlusDecoder")(
            self._full_channels(), 5, self.widths[-1], (12, 24, 36), 16, True, 0.5
        )
        return made, 4

    def _dpt(self) -> tuple[nn.Module, int]:
        n, width = len(self.strides), self.widths[-1]
        between = [width * factor for factor in (1, 2, 4, 4)]  # as it has them of 256
        layers = _decoder("dpt", "DPTDecoder")(
            self.channels, [16] * n, False, "ignore", between[:n], width
        )
        return layers, max(1, self.strides[-1] // _FINER)

    def _plain(self) -> tuple[nn.Module, int]:
        steps: list[nn.Module] = []
        before = self.channels[-1]
        for number, width in enumerate(self.widths):
            if number:
                steps.append(nn.Upsample(scale_factor=2.0, mode="bilinear"))
            convolution = nn.Conv2d(before, width, 3 if number else 1, padding=min(1, number))
            steps += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        return nn.Sequential(*steps), max(1, self.strides[-1] >> (len(self.widths) - 1))


def _powers(last: int) -> list[int]:
    """The strides 1, 2, 4, ... up to the last one, which may be none of these."""
    return [1 << k for k in range(max(1, last.bit_length()) - 1)] + [last]


def _parts(strides: Sequence[int]) -> str:
    return f"{count(len(strides), 'map')} of {', '.join(f'1/{stride}' for stride in strides)}"


def _decoder(module: str, name: str) -> Any:
    try:
        found = import_module(f"segmentation_models_pytorch.decoders.{module}.decoder")
    except ImportError as cause:
        raise ModelError(
            "This decoder needs segmentation_models_pytorch: "
            'pip install "layergroups[segmentation]". Without it, decoder="plain" works.'
        ) from cause
    return getattr(found, name)
