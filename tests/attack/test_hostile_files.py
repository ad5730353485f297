"""Exports and checkpoints with changed bytes: refused, or the same answers; no code runs."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from tests.attack.conftest import mutations
from tests.attack.test_hostile_images import good_photos, picture

from layergroups import ImageDataLoaders, Learner, load_learner, vision_learner
from layergroups.errors import LayerGroupsError


def learner(folder: Path) -> Learner:
    torch.manual_seed(0)
    loaders = ImageDataLoaders.from_folder(folder, size=16, batch_size=4, num_workers=0, seed=0)
    options = {"pretrained": False, "progress": False, "lin_ftrs": []}
    return vision_learner(loaders, "timm:test_resnet", path=folder.parent, **options)


def test_changed_exports_are_refused_or_answer_the_same(
    rng: random.Random, times: int, tmp_path: Path
) -> None:
    learn = learner(good_photos(tmp_path / "photos", rng))
    learn.export(tmp_path / "export")
    image = picture(rng)
    expected = load_learner(tmp_path / "export").predict(image).probabilities
    for file in sorted((tmp_path / "export").iterdir()):
        is_text = file.suffix == ".json"
        refused = 0
        for changed in mutations(rng, file.read_bytes(), (25 if is_text else 10) * times):
            again = tmp_path / "changed"
            shutil.copytree(tmp_path / "export", again)
            (again / file.name).write_bytes(changed)
            try:
                found = load_learner(again).predict(image).probabilities
                # A description may be changed to another valid one (other names, other size).
                assert is_text or torch.equal(found, expected)
            except LayerGroupsError:
                refused += 1
            shutil.rmtree(again)
        assert refused


def test_changed_checkpoints_are_refused_and_leave_the_learner_as_it_was(
    rng: random.Random, times: int, tmp_path: Path
) -> None:
    learn = learner(good_photos(tmp_path / "photos", rng))
    learn.fit(1)
    saved = Path(learn.save("good"))
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    for changed in mutations(rng, saved.read_bytes(), 40 * times):
        saved.with_name("bad.safetensors").write_bytes(changed)
        if changed == saved.read_bytes():
            continue
        with pytest.raises(LayerGroupsError):
            learn.load("bad")
        assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
