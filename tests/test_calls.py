"""Calls that do not fit and names that are not there: the answer names what would be right."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

import layergroups as lg
from layergroups._calls import Taught, misfit, taught
from layergroups._fastai_names import ARGUMENTS, NAMES
from layergroups.errors import ArgumentError, LayerGroupsError, NoAttributeError
from tests.training.tiny import TinyLoaders, tiny_model

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "from-fastai.md"
# what a user of fastai types, and what the answer must name
CALLS: list[tuple[Callable[[Any], object], str]] = [
    (lambda learn: learn.fit(3, cbs=[]), r"Learner\.fit has no argument cbs=; .*callbacks=\["),
    (lambda learn: learn.fit(n_epoch=3), r"n_epoch=; its name is epochs=: learn\.fit\(epochs=3\)"),
    (lambda learn: learn.fit(1, wd=0.1), r"no argument wd=; .*Learner\(\.\.\., wd=0\.1\)"),
    (lambda learn: learn.fit(1, 1e-3, 0.1),
     r"at most 2 arguments by position \(epochs, lr\), not 3\. By name it takes callbacks=, "),
    (lambda learn: learn.fit(), r"Learner\.fit: missing a required argument: 'epochs'"),
    (lambda learn: learn.fit(1, epochs=2), "multiple values for argument 'epochs'"),
    (lambda learn: learn.fit(1, callback=[]), "Perhaps you meant callbacks=. It takes epochs, lr"),
    (lambda learn: learn.fit_one_cycle(3, lr_max=1e-3), r"fit_one_cycle\(3, lr=1e-3\)"),
    (lambda learn: learn.fine_tune(3, cbs=[]), r"callbacks="),
    (lambda learn: learn.fine_tune(3, lr_mult=100), r"lr=slice\("),
    (lambda learn: learn.fine_tune(3, pct_start=0.3), r"FineTuneDefaults\(schedule="),
    (lambda learn: learn.plot_schedule("fit_one_cycle", 3, lr_max=1), "fit_one_cycle has no .*lr="),
    (lambda learn: learn.get_preds(ds_idx=1), r"dl=dls\.train_eval"),
    (lambda learn: learn.validate(ds_idx=1), r"dl=dls\.train_eval"),
    (lambda learn: learn.show_results(max_n=4), "its name is n="),
    (lambda learn: learn.tta(use_max=True), "beta=0"),
    (lambda learn: learn.export(), "missing a required argument: 'folder'"),
    (lambda learn: lg.Learner(learn.dls, learn.model, cbs=[]), "Learner has no .*callbacks="),
    (lambda learn: lg.Learner(learn.dls, learn.model, moms=(0.9, 0.8, 0.9)), "fit_one_cycle"),
    (lambda learn: lg.Learner(learn.dls, learn.model, metric=[]), "Perhaps you meant metrics="),
    (lambda learn: lg.vision_learner(learn.dls), "missing a required argument: 'arch'"),
    (lambda learn: lg.vision_learner(learn.dls, "resnet18", True), r"position \(dls, arch\)"),
    (lambda learn: lg.load_learner("model", cpu=True), "ACCELERATE_USE_CPU=1"),
    (lambda learn: lg.Interpretation.from_learner(learn, ds_idx=1), r"dl=dls\.train_eval"),
    (lambda learn: lg.ImageDataLoaders.from_folder("a", item_tfms=[]), "size=224 .*augment="),
    (lambda learn: lg.ImageDataLoaders.from_folder("a", batch_tfms=[], bs=8), "augment="),
    (lambda learn: lg.ImageDataLoaders.from_folder("a", batchsize=8), "you meant batch_size="),
    (lambda learn: lg.ImageDataLoaders.from_lists([], [], val_bs=8), "from_lists .*batch_size="),
    (lambda learn: lg.ImageDataLoaders.from_lists([], [], is_vaild=[]), "meant is_valid="),
    (lambda learn: lg.ImageDataLoaders.from_lists("a", [], []), r"position \(files, labels\)"),
    (lambda learn: lg.ImageDataLoaders.from_pattern("a", [], "b", size=8), r"\(files, pattern\)"),
    (lambda learn: lg.ImageDataLoaders.show_batch(None, nrows=2), "n= says how many"),
    (lambda learn: lg.ImageDataLoaders.from_table(df={}), "its name is table="),
    (lambda learn: lg.ImageDataLoaders.from_pattern("a", "b", label_func=len), "name is pattern="),
    (lambda learn: lg.ImageDataLoaders.show_batch(None, max_n=9), "its name is n="),
]  # fmt: skip
ATTRIBUTES: list[tuple[Callable[[Any], object], str]] = [
    (lambda learn: learn.to_fp16(), r'Learner has no to_fp16; learn\.mixed_precision = "fp16"'),
    (lambda learn: learn.to_bf16(), '"bf16"'),
    (lambda learn: learn.recorder.plot_loss(), r"learn\.history .*learn\.plot_schedule\("),
    (lambda learn: learn.add_cb(3), r"learn\.callbacks is a plain list"),
    (lambda learn: learn.fit_one_cycel, r"no fit_one_cycel\. Perhaps you meant fit_one_cycle\."),
    (lambda learn: learn.qqqq, r"^Learner has no qqqq\.$"),
    (lambda learn: lg.ImageDataLoaders.from_df, r"ImageDataLoaders has no from_df; .*from_table\("),
    (lambda learn: lg.ImageDataLoaders.from_name_re, r"from_pattern\(.* r\""),
    (lambda learn: lg.ImageDataLoaders.from_name_func, r"from_pattern\(.*lambda"),
    (lambda learn: lg.ImageDataLoaders.from_path_func, r"from_pattern\(.*lambda"),
    (lambda learn: lg.ImageDataLoaders.from_foldre, "Perhaps you meant from_folder"),
    (lambda learn: lg.Interpretation.print_classification_report, r"class_report\(\)"),
]


@pytest.fixture
def learn() -> lg.Learner:
    return lg.Learner(TinyLoaders(n=16), tiny_model(), split=["0.0", "0.7", "1"], progress=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, colour in enumerate(["red", "blue"] * 5):
        (tmp_path / colour).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / colour / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(("call", "words"), CALLS)
def test_a_call_that_does_not_fit_is_answered_with_one_that_does(
    call: Callable[[Any], object], words: str, learn: lg.Learner
) -> None:
    with pytest.raises(ArgumentError, match=words) as caught:
        call(learn)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(("look", "words"), ATTRIBUTES)
def test_a_name_that_is_not_there_is_answered_with_one_that_is(
    look: Callable[[Any], object], words: str, learn: lg.Learner
) -> None:
    with pytest.raises(NoAttributeError, match=words) as caught:
        look(learn)
    shown = "".join(traceback.format_exception(caught.value))
    assert "Did you mean" not in shown  # one guess is enough


def test_asking_whether_a_name_is_there_works_as_ever(learn: lg.Learner, folder: Path) -> None:
    dls = lg.ImageDataLoaders.from_folder(folder, size=32, bs=4)
    assert not hasattr(learn, "to_fp16")
    assert getattr(learn, "recorder", None) is None
    assert not hasattr(dls, "train_ds")
    assert not hasattr(lg.ImageDataLoaders, "from_df")
    assert not hasattr(lg, "DataBlock")
    with pytest.raises(NoAttributeError, match=r"no train_ds; .*dls\.train_photos"):
        _ = dls.train_ds  # type: ignore[attr-defined] # wrong on purpose
    with pytest.raises(ArgumentError, match="its name is n="):
        dls.show_batch(max_n=9)  # type: ignore[call-arg] # wrong on purpose
    assert pickle.loads(pickle.dumps(dls)).train_photos == dls.train_photos
    assert copy.copy(dls).vocab == copy.deepcopy(dls).vocab == dls.vocab
    assert copy.copy(learn).model is learn.model


def test_signatures_names_and_texts_are_those_of_the_functions() -> None:
    fit = inspect.signature(lg.Learner.fit)
    assert [*fit.parameters][:4] == ["self", "epochs", "lr", "callbacks"]
    assert fit.return_annotation == "History"
    assert [*inspect.signature(lg.Learner).parameters][:3] == ["dls", "model", "loss_func"]
    assert next(iter(inspect.signature(lg.ImageDataLoaders.from_folder).parameters)) == "path"
    assert "options" in inspect.signature(lg.vision_learner).parameters
    assert lg.Learner.fit.__qualname__ == "Learner.fit"
    assert str(lg.Learner.fit.__doc__).startswith("Train at flat rates.")


def test_an_error_from_within_stays_what_it_is(learn: lg.Learner) -> None:
    class Wrong(nn.Module):
        def forward(self) -> None: ...

    @taught
    def outer(word: int) -> None:
        """One that calls wrongly itself."""
        Wrong().forward(word)  # type: ignore[call-arg] # wrong on purpose

    with pytest.raises(TypeError, match=r"forward\(\) takes 1 positional") as caught:
        outer(3)
    assert not isinstance(caught.value, LayerGroupsError)


def test_a_property_that_fails_says_how_itself() -> None:
    class Holder(Taught):
        @property
        def inner(self) -> object:
            return {}.missing  # type: ignore[attr-defined] # wrong on purpose

    with pytest.raises(AttributeError, match="'dict' object has no attribute 'missing'"):
        _ = Holder().inner


def test_methods_of_classes_derived_from_ours_are_answered_too(learn: lg.Learner) -> None:
    class Mine(lg.Learner):
        def fit_twice(self, epochs: int) -> None:
            """Twice."""

    mine = Mine(learn.dls, tiny_model(), split=["0.0", "0.7", "1"], progress=False)
    with pytest.raises(ArgumentError, match=r"^Mine\.fit_twice has no argument n_epoch=; "):
        mine.fit_twice(n_epoch=3)  # type: ignore[call-arg] # wrong on purpose
    with pytest.raises(NoAttributeError, match=r"Mine has no recorder; learn\.history"):
        _ = mine.recorder  # type: ignore[attr-defined] # wrong on purpose


def test_what_does_not_fit_a_plain_function_is_said_by_its_name() -> None:
    def paint(colour: str) -> None: ...

    assert str(misfit(paint, (), {"color": "red"})) == (
        "paint has no argument color=. Perhaps you meant colour=. It takes colour."
    )


def test_names_of_the_package_are_answered_too() -> None:
    with pytest.raises(AttributeError, match="'SaveModelCallback'; its name is SaveBest"):
        _ = lg.SaveModelCallback


FOREIGN = {name.rpartition(".")[2] for name in ARGUMENTS}.union(*NAMES.values())


def test_the_document_for_users_of_fastai_has_every_name() -> None:
    text = re.sub(r"^```.*?^```", "", DOCUMENT.read_text(encoding="utf-8"), flags=re.M | re.S)
    marked = {name.rstrip("=") for name in re.findall(r"`([^`]+)`", text)}
    assert marked >= FOREIGN, sorted(FOREIGN - marked)


def test_no_foreign_name_hides_one_of_ours() -> None:
    ours = {"Learner": lg.Learner, "ImageDataLoaders": lg.ImageDataLoaders, "layergroups": lg}
    ours["Interpretation"] = lg.Interpretation
    for owner, names in NAMES.items():
        fields = getattr(ours[owner], "__dataclass_fields__", {})
        assert not [name for name in names if hasattr(ours[owner], name) or name in fields]


def test_what_the_answers_name_is_there(learn: lg.Learner) -> None:
    texts = " ".join(
        [*ARGUMENTS.values(), *(t for names in NAMES.values() for t in names.values())]
    )
    owners: dict[str, Any] = {"learn": learn, "ImageDataLoaders": lg.ImageDataLoaders}
    owners |= {"dls": lg.ImageDataLoaders, "interp": lg.Interpretation}
    named = re.findall(r"\b(learn|dls|interp|ImageDataLoaders)\.(\w+)", texts)
    assert len(named) > 50
    for owner, name in named:
        fields = getattr(owners[owner], "__dataclass_fields__", {})
        assert hasattr(owners[owner], name) or name in fields, f"{owner}.{name}"
    for name in re.findall(r"its name is (\w+)(?:,|;|$)", "\n".join(NAMES["layergroups"].values())):
        assert hasattr(lg, name)
