"""The folder of a run: claimed before, written whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layergroups.data import EvalTransform
from layergroups.errors import CheckpointError, TrainingError
from layergroups.models import assemble, load_model
from layergroups.reports import RunRecord, claim_folder, confusion_matrix, write_run
from layergroups.training import Learner, load_learner


class Batches:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])


class Data:
    train = valid = Batches()
    vocab = ("no", "yes")

    def transform_config(self) -> dict[str, object]:
        return EvalTransform((32, 32)).to_config()


@pytest.fixture
def learn() -> Learner:
    loaded = load_model("timm:test_resnet", pretrained=False)
    model = assemble(loaded, 2, size=32)
    return Learner(Data(), model.model, groups=model.layer_groups(), progress=False)


def test_new_and_empty_folders_can_be_had(tmp_path: Path) -> None:
    assert claim_folder(tmp_path / "a/b") is False
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "a/b/.DS_Store").touch()
    assert claim_folder(tmp_path / "a/b") is False


def test_folders_of_other_things_cannot(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"other content \(notes.txt\)"):
        claim_folder(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be a folder"):
        claim_folder(tmp_path / "notes.txt")


def test_a_run_is_written_and_may_be_replaced(learn: Learner, tmp_path: Path) -> None:
    learn.fit(1)
    files = write_run(learn, tmp_path, confusion_matrix(learn))
    assert {p.name for p in tmp_path.iterdir()} == {
        "learner.json", "model.safetensors", "history.csv", "run.json", "confusion_matrix.png"
    }  # fmt: skip
    assert files.history.read_text(encoding="utf-8").count("\n") == 2
    assert RunRecord.load(tmp_path).epochs[0].phase == "fit"
    assert claim_folder(tmp_path) is True
    write_run(learn, tmp_path)
    assert not (tmp_path / "confusion_matrix.png").exists()


def test_graphs_of_an_earlier_model_are_removed_and_told(
    learn: Learner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(learn, tmp_path)
    for name in ("model.pt2", "model.pt2.json", "mine.pt2"):
        (tmp_path / name).touch()
    write_run(learn, tmp_path)
    assert not [*tmp_path.glob("model.pt2*")]
    assert (tmp_path / "mine.pt2").exists()
    assert "--format pt2" in caplog.text


class Bare(Data):
    transform_config = None


def test_a_run_that_fails_in_writing_leaves_the_earlier_one(learn: Learner, tmp_path: Path) -> None:
    write_run(learn, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = Learner(Bare(), learn.model, groups=learn.layer_groups, progress=False)
    with pytest.raises(TrainingError, match="transform_config"):
        write_run(other, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_it_needs_the_model_where_the_export_does(learn: Learner, tmp_path: Path) -> None:
    write_run(learn, tmp_path)  # made without vision_learner, so there is no blueprint
    with pytest.raises(CheckpointError, match="model=your_module"):
        load_learner(tmp_path)
