"""Names and arguments that do not exist: the error gives the nearest one that does."""

from __future__ import annotations

import abc
import copy
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import layergroups as lg
from layergroups._suggestions import SuggestsNames, nearest
from layergroups.errors import ArgumentError, NoAttributeError
from tests.training.tiny import TinyLoaders, tiny_model


@pytest.fixture
def learn() -> lg.Learner:
    return lg.Learner(TinyLoaders(n=16), tiny_model(), split=["0.0", "0.7", "1"], progress=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, colour in enumerate(["red", "blue"] * 5):
        (tmp_path / colour).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / colour / f"{i}.png")
    return tmp_path


def test_an_attribute_that_does_not_exist_names_the_nearest(learn: lg.Learner) -> None:
    with pytest.raises(NoAttributeError, match="fit_one_cycle") as caught:
        _ = learn.fit_one_cycel
    assert caught.value.name == "fit_one_cycel"
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Did you mean") == 1


def test_names_of_fastai_point_to_the_page_about_them(learn: lg.Learner) -> None:
    with pytest.raises(AttributeError, match="coming-from"):
        _ = learn.recorder
    with pytest.raises(AttributeError, match="coming-from"):
        _ = lg.SaveModelCallback


def test_asking_whether_a_name_exists_works_as_ever(learn: lg.Learner, folder: Path) -> None:
    dls = lg.ImageDataLoaders.from_folder(folder, size=32, bs=4)
    assert not hasattr(learn, "to_fp16")
    assert getattr(learn, "recorder", None) is None
    assert not hasattr(dls, "train_ds")
    assert not hasattr(lg.ImageDataLoaders, "from_df")
    assert not hasattr(lg, "DataBlock")
    assert pickle.loads(pickle.dumps(dls)).train_images == dls.train_images
    assert copy.copy(dls).vocab == copy.deepcopy(dls).vocab == dls.vocab
    assert copy.copy(learn).model is learn.model


@pytest.mark.parametrize(
    ("call", "name", "near"),
    [
        (lambda dls: lg.ImageDataLoaders.from_lists([], [], batchsize=8), "batchsize",
         "batch_size="),
        (lambda dls: lg.ImageDataLoaders.from_lists([], [], sise=8), "sise", "size="),
        (lambda dls: lg.vision_learner(dls, "resnet18", pretrained=False, metric=[]), "metric",
         "metrics="),
        (lambda dls: lg.vision_learner(dls, "resnet18", pretrained=False, num_classes=3),
         "num_classes", ""),
        (lambda dls: lg.vision_learner(dls, "resnet18", pretrained=False, cbs=[]), "cbs", ""),
    ],
)  # fmt: skip
def test_an_argument_that_does_not_exist_is_named(
    call: Callable[[object], object], name: str, near: str, folder: Path
) -> None:
    dls = lg.ImageDataLoaders.from_folder(folder, size=32, bs=4)
    with pytest.raises(ArgumentError, match=f"no argument {name}=") as caught:
        call(dls)
    assert isinstance(caught.value, TypeError)
    assert near in str(caught.value)


def test_a_property_that_fails_raises_its_own_error() -> None:
    class Holder(SuggestsNames):
        @property
        def inner(self) -> object:
            return {}.missing

    with pytest.raises(AttributeError, match="'dict' object has no attribute 'missing'"):
        _ = Holder().inner


@pytest.mark.parametrize("kind", [lg.Learner, lg.ImageDataLoaders, lg.Interpretation])
def test_public_classes_combine_with_abstract_base_classes(kind: type) -> None:
    assert type("Mine", (kind, abc.ABC), {}).__mro__[1] is kind


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert nearest("qqqq", ["fit", "predict"]) == ""
