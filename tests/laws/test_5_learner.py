"""Law 5 in a Learner: across validation, prediction, saving, loading and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layergroups import ImageDataLoaders, load_learner, vision_learner
from layergroups.training import Learner
from tests.training.tiny import TinyLoaders, moved, pretrained, snapshot, tiny_model


def learner(tmp_path: Path, *, norms: str = "auto", model: nn.Module | None = None) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model or pretrained(tiny_model())
    return Learner(TinyLoaders(), model, split=["0.0", "0.7", "1"], seed=0, path=tmp_path,
                   progress=False, batch_norm=norms)  # fmt: skip


def x() -> Tensor:
    return torch.rand(2, 3, 16, 16)


LOOKS: dict[str, Callable[[Learner], object]] = {
    "validate": lambda learn: learn.validate(),
    "get_preds": lambda learn: learn.get_preds(),
    "predict": lambda learn: learn.predict(x()[0]),
    "save": lambda learn: learn.save("stage"),
    "train mode": lambda learn: learn.model.train(),
    "eval and train": lambda learn: learn.model.eval().train(),
    "print": lambda learn: str(learn.layer_groups),
}


@pytest.mark.parametrize("norms", ["auto", "update"])
@pytest.mark.parametrize("frozen", [("0.0",), ("0.7",), ("1",), ("0.0", "0.7")], ids=str)
@pytest.mark.parametrize("look", LOOKS)
def test_frozen_groups_stay_frozen_after_any_other_call(
    look: str, frozen: tuple[str, ...], norms: str, tmp_path: Path
) -> None:
    learn = learner(tmp_path, norms=norms)
    learn.fit(1, 1e-2)
    names = {"0.0": ("0.0.", "0.1.", "0.3.", "0.4."), "0.7": ("0.7.", "0.8."), "1": ("1.",)}
    prefixes = tuple(p for name in frozen for p in names[name])
    learn.layer_groups.freeze(*frozen)
    before = snapshot(learn.model)
    LOOKS[look](learn)
    learn.fit(1)
    LOOKS[look](learn)
    learn.fit(1)
    went = moved(before, learn.model)
    assert not {name for name in went if name.startswith(prefixes)}
    trains = {n for n, _ in learn.model.named_parameters() if not n.startswith(prefixes)}
    assert trains <= went


def test_a_new_learner_restores_freezing_from_a_save(tmp_path: Path) -> None:
    first = learner(tmp_path)
    first.fit(1, 1e-2)
    first.layer_groups.freeze("0.7", norm="train")
    first.save("stage")
    second = learner(tmp_path).load("stage")
    assert second.layer_groups.frozen == (False, True, False)
    before = snapshot(second.model)
    first.fit(1)
    second.fit(1)
    assert not moved(snapshot(first.model), second.model)
    assert "0.7.weight" not in moved(before, second.model)
    assert "0.8.weight" in moved(before, second.model)


def test_a_learner_from_an_export_has_the_same_groups_frozen(folder: Path, tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.2, size=32, batch_size=8)
    made = vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)
    made.layer_groups.freeze(0)
    learn = load_learner(made.export(tmp_path / "out"))
    learn.dls, learn.progress = dls, False
    assert learn.layer_groups.frozen == (True, False)
    body, head = snapshot(learn.model[0]), snapshot(learn.model[1])
    learn.fit(1, 1e-2)
    assert not moved(body, learn.model[0])
    assert moved(head, learn.model[1]) == set(head)


def test_norms_of_frozen_groups_train_where_asked_and_nothing_else_does(tmp_path: Path) -> None:
    learn = learner(tmp_path, norms="update")
    learn.layer_groups.freeze(norm="train")
    before = snapshot(learn.model)
    learn.fit(1, 1e-2)
    went = {n for n in moved(before, learn.model) if n.startswith("0.")}
    norms = {n for n in before if n.startswith(("0.1.", "0.4.", "0.8."))}
    assert went == norms


def test_another_model_of_the_same_body_can_be_unfrozen(tmp_path: Path) -> None:
    learn = learner(tmp_path, norms="update")
    learn.freeze()
    learn.model = nn.Sequential(learn.model[0], tiny_model()[1])
    assert learn.layer_groups.frozen == (True, True, False)
    learn.unfreeze()
    before = snapshot(learn.model)
    learn.fit(1, 1e-2)
    assert moved(before, learn.model) == set(before)


def test_a_group_frozen_in_the_middle_of_an_epoch_stays_from_then_on(tmp_path: Path) -> None:
    class Freezes:
        before: dict[str, Tensor]

        def before_step(self, run) -> None:
            if run.step == 3:
                run.groups.freeze("0.0")
                self.before = snapshot(run.model[0][0])

    learn = learner(tmp_path)
    learn.callbacks.append(freezes := Freezes())
    learn.fit(1, 1e-2)
    assert not moved(freezes.before, learn.model[0][0])
