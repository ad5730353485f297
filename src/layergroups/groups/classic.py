"""The splits of fastai and its users, as a table: it can be asked for, it is never needed.

Source: fastai 1 and 2, `vision/learner.py`: resnets before child 6 of the body, vgg at
features[22], densenets at features[7], squeezenets at features[5] (fastai 1 also at [8]), alexnet
at features[6]; mobilenet_v2 at features[10] as its users do.
"""

from __future__ import annotations

from torch import nn

# class of the original network -> (the part that is split, children before which it is split)
CLASSIC: dict[str, tuple[str, tuple[int, ...]]] = {
    "ResNet": ("", (6,)),
    "VGG": ("features", (22,)),
    "DenseNet": ("features", (7,)),
    "SqueezeNet": ("features", (5,)),
    "AlexNet": ("features", (6,)),
    "MobileNetV2": ("features", (10,)),
}
CLASSIC_V1 = {**CLASSIC, "SqueezeNet": ("features", (5, 8))}
_RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def classic_paths(network: str, model: nn.Module, *, version: int = 2) -> tuple[str, ...]:
    """Paths at which the classic table splits a network; empty where it has no entry for it.

    Args:
        network: class of the original network, "ResNet".
        model: that network, or a `Sequential(body, head)` made from it.
        version: 2 for fastai 2's table, 1 for fastai 1's.
    """
    inside, indices = (CLASSIC if version == 2 else CLASSIC_V1).get(network, ("", ()))
    container = _holder(model, inside, max(indices, default=0))
    if not indices or container is None:
        return ()
    path, module = container
    names = [name for name, _ in module.named_children()]
    if not inside:
        names = [n for n in _RESNET_CHILDREN if n in names] or names
    return tuple(f"{path}.{names[i]}".removeprefix(".") for i in indices)


def _holder(model: nn.Module, inside: str, index: int) -> tuple[str, nn.Module] | None:
    """The module whose children are counted: a long enough Sequential, or the resnet itself."""
    for path, module in model.named_modules():
        long_enough = len(list(module.children())) > index
        is_resnet = not inside and "layer3" in dict(module.named_children())
        counted = isinstance(module, nn.Sequential) if inside else True
        if long_enough and (is_resnet or counted):
            return path, module
    return None
