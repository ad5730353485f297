"""Which networks give a mask of the image's size: a decoder on each, without pretrained weights.

    python benchmarks/mask_coverage.py resnet18 timm:vit_tiny_patch16_224
    python benchmarks/mask_coverage.py              # a sample of families of torchvision and timm

Each network gets an image at the smallest size that it takes, of unequal sides where it can, and is
trained for one step: the mask must have the size of the image, and every parameter of body and
decoder a gradient.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import torch

from layergroups.errors import LayerGroupsError
from layergroups.models import assemble_segmenter, load_model

TORCHVISION = """
alexnet vgg11 resnet18 resnext50_32x4d densenet121 googlenet inception_v3 mobilenet_v2
mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 squeezenet1_0 efficientnet_b0 efficientnet_v2_s
regnet_y_400mf convnext_tiny swin_t swin_v2_t maxvit_t vit_b_16
"""
TIMM = """
vit_tiny_patch16_224 vit_small_patch14_dinov2 deit3_small_patch16_224 eva02_tiny_patch14_224
beit_base_patch16_224 convnextv2_atto tf_efficientnet_lite0 mobilenetv4_conv_small mobileone_s0
repvgg_a0 resnest14d hrnet_w18_small levit_128s efficientvit_b0 fastvit_t8 edgenext_xx_small
pvt_v2_b0 mobilevit_xxs xcit_nano_12_p16_224 cait_xxs24_224 coat_lite_tiny regnety_002
ghostnet_100 tinynet_e ese_vovnet19b_dw dla34 inception_next_atto poolformer_s12 caformer_s18
gcvit_xxtiny nest_tiny twins_svt_small focalnet_tiny_srf davit_tiny starnet_s1 hgnet_tiny
mambaout_femto vgg11_bn densenet121 mixer_s32_224 resmlp_12_224
"""
SIZES = ((64, 96), (128, 160), (224, 224))


def made(name: str, size: tuple[int, int]) -> tuple[Any, Any]:
    """A network with a decoder, and its scores for two images after a training step."""
    options = {"img_size": 56} if "dinov2" in name else {}
    loaded = load_model(name, pretrained=False, **options)
    size = (56, 56) if options else size
    model = assemble_segmenter(loaded, 4, size=size).model.train()
    scores = model(torch.rand(2, 3, *size))
    assert scores.shape == (2, 4, *size), f"scores {tuple(scores.shape)} of images {size}"
    scores.square().mean().backward()
    return model, scores


def answer(name: str) -> str:
    for size in SIZES:
        try:
            model, _ = made(name, size)
        except (LayerGroupsError, RuntimeError, AssertionError, ValueError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        lost = [n for n, p in model.named_parameters() if p.grad is None]
        strides = ", ".join(f"1/{each}" for each in model[1][0].strides)
        text = f"{model[1][0].kind} of {strides}"
        return f"{text}; no gradient: {lost[0]} and {len(lost) - 1} more" if lost else text
    return f"FAILS {reason}"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    every = [f"torchvision:{name}" for name in TORCHVISION.split()] + [
        f"timm:{name}" for name in TIMM.split()
    ]
    for name in sys.argv[1:] or every:
        started = time.process_time()
        print(f"{name}: {answer(name)} ({time.process_time() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
