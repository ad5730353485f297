"""Words for stronger variations: what they do to photos, and that seeds decide it."""

import numpy as np
import pytest
import torch
from tests.data.conftest import picture

from layergroups._random import private_randomness
from layergroups.data import Augmentation, ImageDataLoaders
from layergroups.data.image._transforms import ERASE, GREY, POLICIES, EvalTransform, TrainTransform
from layergroups.errors import DataError

WORDS = (*POLICIES, ERASE)


def varied(augment: Augmentation, seed: int) -> torch.Tensor:
    transform = TrainTransform(augment, EvalTransform((24, 32)))
    with private_randomness(seed):
        return transform.pixels(picture(1, (80, 60)))


@pytest.mark.parametrize("word", WORDS)
def test_a_word_varies_more_than_the_default_and_by_its_seed(word: str) -> None:
    given, mild = Augmentation.named(word), Augmentation(brightness=0.0, contrast=0.0)
    found = [varied(given, seed) for seed in range(20)]
    assert all(pixels.shape == (24, 32, 3) and pixels.dtype == torch.uint8 for pixels in found)
    assert torch.equal(found[3], varied(given, 3))
    plain = [varied(mild, seed) for seed in range(20)]
    changed = [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert sum(changed) >= (12 if word != ERASE else 2)


def test_erasing_fills_a_rectangle_of_some_photos() -> None:
    found = [varied(Augmentation(erase=1.0, brightness=0.0, contrast=0.0), s) for s in range(10)]
    for pixels in found:
        grey = (pixels == GREY).all(dim=2)
        rows, columns = grey.any(dim=1).sum(), grey.any(dim=0).sum()
        assert 0.01 < grey.float().mean() < 0.4
        assert grey.sum() == rows * columns


def test_policies_and_erasing_go_together_in_batches(folder) -> None:
    given = {"size": 16, "batch_size": 4, "cache": False}
    path = folder(cat=5, dog=5)
    both = Augmentation(policy="rand", erase=0.5)
    for augment in (both, "trivial"):
        here, workers = (
            ImageDataLoaders.from_folder(path, augment=augment, num_workers=n, **given)
            for n in (0, 1)
        )
        for (x, y), (x2, y2) in zip(here.train, workers.train, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert here.augment == Augmentation.named("trivial")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Augmentation.named("strong"), 'the words are "rand", "trivial"'),
        (lambda: Augmentation(policy="strong"), "'strong' is not known"),
        (lambda: Augmentation(policy="erase"), r"Augmentation\(erase=0.25\)"),
        (lambda: Augmentation(erase=2), "erase=2"),
        (lambda: Augmentation(policy=3), "augment=3 is not known"),
    ],
)
def test_an_unknown_word_lists_the_known_ones(make, says) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_grey_is_what_the_network_takes_for_nothing() -> None:
    grey = np.full((24, 32, 3), GREY, np.uint8)
    assert EvalTransform((24, 32))(grey).abs().max() < 0.25
