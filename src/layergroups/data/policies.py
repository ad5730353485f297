"""Stronger variations of training photos, by a word: policies of torchvision."""

from __future__ import annotations

from typing import Any, Final

from torchvision.transforms import v2

from layergroups.errors import DataError

_POLICIES: Final = {
    "rand": "RandAugment",
    "trivial": "TrivialAugmentWide",
    "auto": "AutoAugment",
    "augmix": "AugMix",
}
POLICIES: Final = tuple(_POLICIES)
ERASE: Final = "erase"  # the word for random erasing alone
ERASED: Final = 0.25  # the part of photos of which it erases a rectangle
GREY: Final = 116  # nearly 0 after normalising, in images of any number of channels


def check_word(word: str) -> str:
    """A word for an augmentation.

    Raises:
        DataError: it is none; lists them.
    """
    if word not in (*POLICIES, ERASE):
        known = ", ".join(f'"{name}"' for name in (*POLICIES, ERASE))
        raise DataError(
            f"augment={word!r} is not known; the words are {known}. Or give True, False, "
            'Augmentation(policy="trivial", erase=0.25), or a function of a Pillow image.'
        )
    return word


def policy_step(policy: str) -> Any:
    """The transform of torchvision that a word stands for."""
    smooth = v2.InterpolationMode.BILINEAR
    return getattr(v2, _POLICIES[policy])(fill=GREY, interpolation=smooth)


def erase_steps(p: float) -> list[Any]:
    """Erase a rectangle, with probability p; it works on tensors, the photo becomes one.

    Source: Zhong et al. 2017, «Random Erasing Data Augmentation».
    """
    return [v2.PILToTensor(), v2.RandomErasing(p, value=GREY)]
