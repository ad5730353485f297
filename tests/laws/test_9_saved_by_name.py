"""Law 9: a resumed run ends bit for bit where the unbroken one ends; no damage goes unseen."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from layergroups import checkpoints
from layergroups.checkpoints import Series
from layergroups.data import ImageDataLoaders
from layergroups.errors import CheckpointError, TrainingError
from layergroups.training import FineTuneDefaults, FitContext, Learner
from tests.laws import killed
from tests.laws.killed import learner
from tests.training.tiny import moved, snapshot

RUNS = [("phases", 8), ("two_boundaries", 6), ("surgery", 6), ("unseeded", 6)]
ROOT = Path(__file__).parents[2]


class Crash(Exception):
    """Ends a run at a step, as a crash would."""


class CrashAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run: FitContext) -> None:
        if run.step == self.step:
            raise Crash


def crash_in(learn: Learner, step: int, fit: Any) -> None:
    learn.callbacks.append(CrashAt(step))
    with pytest.raises(TrainingError, match="CrashAt"):
        fit(learn)
    learn.callbacks.pop()


def assert_same_end(one: Learner, two: Learner) -> None:
    """Weights, buffers, optimizer and history are the same to the bit."""
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        for key, value in one.opt.state[p].items():
            assert torch.equal(value, two.opt.state[q][key]), key
    for row, other in zip(one.history, two.history, strict=True):
        assert (row.train_loss, row.valid_loss) == (other.train_loss, other.valid_loss)
        for name in ("passes", "body_passes"):
            assert row.resources.get(name) == other.resources.get(name), name
    assert one.layer_groups.state_dict() == two.layer_groups.state_dict()


# A killed process


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(killed.os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("run", "times"), RUNS)
def test_a_run_killed_at_any_moment_ends_as_the_unbroken_one(
    run: str, times: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.laws.killed", run, str(tmp_path), str(times), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok") == times
    assert "killed=True" in done.stdout


# Going on after a crash


def frozen(learn: Learner) -> None:
    learn.freeze()


def half_thawed(learn: Learner) -> None:
    learn.freeze_to(-2)


def unfrozen(learn: Learner) -> None:
    learn.unfreeze()


@pytest.mark.parametrize("how", [frozen, half_thawed, unfrozen])
@pytest.mark.parametrize("step", [1, 7, 12, 13, 24])
def test_a_crashed_fit_goes_on_in_every_phase(how: Any, step: int, tmp_path: Path) -> None:
    def fit(learn: Learner) -> None:
        how(learn)
        learn.fit_one_cycle(
            2, slice(1e-4, 1e-2), checkpoint_dir=tmp_path, checkpoint_every=5, resume=True
        )

    unbroken = learner()
    how(unbroken)
    unbroken.fit_one_cycle(2, slice(1e-4, 1e-2))
    crash_in(learner(), step, fit)
    resumed = learner()
    fit(resumed)
    assert_same_end(unbroken, resumed)


def test_the_head_phase_of_fine_tune_goes_on(tmp_path: Path) -> None:
    figures = FineTuneDefaults(head_passes=6, head_steps=1)

    def tune(learn: Learner, **saved: Any) -> None:
        learn.fine_tune(1, 1e-2, freeze_epochs=2, defaults=figures, **saved)

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 2, "resume": True}
    unbroken, resumed = learner(), learner()
    tune(unbroken)
    crash_in(learner(), 31, lambda learn: tune(learn, **saved))
    tune(resumed, **saved)
    assert_same_end(unbroken, resumed)
    assert [row.note for row in unbroken.history] == [row.note for row in resumed.history]
    assert resumed.epochs_done == unbroken.epochs_done == 3


def tuned_twice(learn: Learner, **saved: Any) -> Learner:
    """Two phases that one pass feeds."""
    figures = FineTuneDefaults(lowest=1, head_passes=3, head_steps=1)
    learn.fine_tune(3, 1e-2, defaults=figures, **saved)
    return learn


@pytest.fixture(scope="module")
def unbroken_tuning() -> Learner:
    return tuned_twice(learner())


@pytest.mark.parametrize("step", [30, 49, 60, 75])
def test_fine_tune_of_which_one_pass_feeds_both_phases_goes_on(
    step: int, unbroken_tuning: Learner, tmp_path: Path
) -> None:
    """The store of the second phase is filled again with the views that the first one took."""

    class Crashes:
        """At a step of the whole run."""

        def __init__(self) -> None:
            self.steps = 0

        def after_step(self, run: FitContext) -> None:
            self.steps += 1
            if self.steps == step:
                raise Crash

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 2, "resume": True}
    with pytest.raises(TrainingError, match="Crashes"):
        tuned_twice(learner((Crashes(),)), **saved)
    resumed = tuned_twice(learner(), **saved)
    assert_same_end(unbroken_tuning, resumed)
    assert [row.note for row in unbroken_tuning.history] == [row.note for row in resumed.history]
    assert unbroken_tuning.cache.state_dict() == resumed.cache.state_dict() != []


def test_a_finished_fit_is_not_done_again(tmp_path: Path) -> None:
    first, second = learner(), learner()
    saved = {"checkpoint_dir": tmp_path, "resume": True}
    rows = first.fit(1, 1e-2, **saved)
    second.callbacks.append(CrashAt(1))
    assert second.fit(1, 1e-2, **saved) == rows
    assert_same_end(first, second)
    assert second.fits_done == 1


def test_callbacks_with_a_state_go_on_with_it(tmp_path: Path) -> None:
    class Average:
        def __init__(self) -> None:
            self.mean = torch.zeros(8, 3)

        def after_step(self, run: FitContext) -> None:
            self.mean.lerp_(run.model[1][4].weight.detach().T, 0.1)

        def state_dict(self) -> dict[str, Any]:
            return {"mean": self.mean, "other": [1, (None, "x")]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            assert state["other"] == [1, [None, "x"]]
            self.mean = state["mean"]

    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 4}
    averages = [Average() for _ in range(3)]
    learner((averages[0],)).fit(2, 1e-2)
    crash_in(learner((averages[1],)), 18, lambda learn: learn.fit(2, 1e-2, **saved))
    learner((averages[2],)).fit(2, 1e-2, **saved)
    assert torch.equal(averages[0].mean, averages[2].mean)


def test_a_layer_without_weights_that_came_in_mid_fit_is_not_forgotten(tmp_path: Path) -> None:
    class Soften:
        def before_step(self, run: FitContext) -> None:
            if run.step == 8:
                run.model[0][2] = nn.GELU()

    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 3}
    unbroken, resumed = learner((Soften(),)), learner((Soften(),))
    unbroken.fit(2, 1e-2)
    crash_in(learner((Soften(),)), 20, lambda learn: learn.fit(2, 1e-2, **saved))
    resumed.fit(2, 1e-2, **saved)
    assert_same_end(unbroken, resumed)
    assert isinstance(resumed.model[0][2], nn.GELU)


def test_an_interrupted_fit_goes_on_in_the_same_learner(tmp_path: Path) -> None:
    class CtrlC:
        def after_step(self, run: FitContext) -> None:
            if run.step == 15:
                raise KeyboardInterrupt

    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 4}
    unbroken, learn = learner(), learner((CtrlC(),))
    unbroken.fit(2, 1e-2)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 1e-2, **saved)
    learn.callbacks.clear()
    learn.fit(2, 1e-2, **saved)
    assert_same_end(unbroken, learn)


# What cannot go on says so


def test_an_earlier_run_is_never_overwritten(tmp_path: Path) -> None:
    learner().fit(1, checkpoint_dir=tmp_path)
    before = [(p, p.read_bytes()) for p in sorted(tmp_path.rglob("*.safetensors"))]
    with pytest.raises(TrainingError, match="resume=True"):
        learner().fit(1, checkpoint_dir=tmp_path)
    assert [(p, p.read_bytes()) for p in sorted(tmp_path.rglob("*.safetensors"))] == before


def test_another_fit_is_refused(tmp_path: Path) -> None:
    learner().fit(1, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="epochs 1, now 2"):
        learner().fit(2, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="phase 'fit', now 'one cycle'"):
        learner().fit_one_cycle(1, checkpoint_dir=tmp_path, resume=True)


def test_other_layer_groups_are_refused_when_resuming(tmp_path: Path) -> None:
    learner().fit(1, checkpoint_dir=tmp_path)
    dls, model = killed.TinyLoaders(n=96), killed.pretrained(killed.tiny_model())
    other = Learner(dls, model, split=["0.0", "1"], progress=False, seed=3)
    with pytest.raises(CheckpointError, match="other layer groups"):
        other.fit(1, checkpoint_dir=tmp_path, resume=True)


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    learner().fit(1, checkpoint_dir=tmp_path)
    other = learner()
    other.model[1][4] = nn.Linear(8, 4)
    with pytest.raises(CheckpointError, match=r"1\.4\.weight \(file \[3, 8\]"):
        other.fit(1, checkpoint_dir=tmp_path, resume=True)


def other_data(**options: Any) -> Any:
    return killed.TinyLoaders(**{"n": 96, **options})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda learn: setattr(learn, "dls", other_data(n=80)), "training items"),
        (lambda learn: setattr(learn, "dls", other_data(batch_size=16)), "batch size"),
        (lambda learn: setattr(learn, "dls", other_data(size=(24, 24))), "size"),
        (lambda learn: setattr(learn, "seed", 4), "seed 3, now 4"),
        (lambda learn: setattr(learn, "loss_func", nn.MultiMarginLoss()), "loss"),
        (lambda learn: setattr(learn, "ema", 0.9), "ema"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_what_a_run_is_made_of_is_part_of_its_identity(
    change: Any, name: str, finished: bool, tmp_path: Path
) -> None:
    """Also where the fit is done: else it would end at once, with the result of the other run."""
    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 4}
    if finished:
        learner().fit(1, 1e-2, **saved)
    else:
        crash_in(learner(), 7, lambda learn: learn.fit(1, 1e-2, **saved))
    other = learner()
    change(other)
    before = snapshot(other.model)
    with pytest.raises(CheckpointError, match=name):
        other.fit(1, 1e-2, **saved)
    assert not moved(before, other.model)


def test_other_labels_are_other_data(tmp_path: Path) -> None:
    learner().fit(1, checkpoint_dir=tmp_path)
    other = learner()
    other.dls.train.y = other.dls.train.y.roll(1)
    with pytest.raises(CheckpointError, match="labels"):
        other.fit(1, checkpoint_dir=tmp_path, resume=True)


def test_other_rates_are_refused(tmp_path: Path) -> None:
    learner().fit(1, 1e-2, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"0\.01.*0\.001"):
        learner().fit(1, 1e-3, checkpoint_dir=tmp_path, resume=True)


def test_photos_of_other_names_are_other_data_and_a_moved_folder_is_not(tmp_path: Path) -> None:
    for folder, names in (("one", "abc"), ("two", "abc"), ("three", "abd")):
        for part in ("train", "valid"):
            for label in ("cat", "dog"):
                (tmp_path / folder / part / label).mkdir(parents=True)
                for name in names:
                    Image.new("RGB", (16, 16)).save(
                        tmp_path / folder / part / label / f"{name}.png"
                    )
    one, two, three = (
        ImageDataLoaders.from_folder(tmp_path / name, size=16, num_workers=0).fingerprint()
        for name in ("one", "two", "three")
    )
    assert one == two != three


@pytest.mark.parametrize(
    "wrong",
    [{"resume": True}, {"checkpoint_every": 3}, {"checkpoint_dir": "x", "checkpoint_every": 0}],
)
def test_arguments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="checkpoint"):
        learner().fit(1, **wrong)


# Damage


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << (at % 8)
    path.write_bytes(content)


def cut_short(path: Path, at: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: at % len(content)])


@pytest.mark.parametrize("damage", [flipped, cut_short])
def test_the_last_good_one_is_used(
    damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 4}
    unbroken, resumed = learner(), learner()
    unbroken.fit(2, 1e-2)
    crash_in(learner(), 18, lambda learn: learn.fit(2, 1e-2, **saved))
    newest = Series(tmp_path / "fit-000").files()[0]
    damage(newest, 12345)
    resumed.fit(2, 1e-2, **saved)
    assert f"{newest}" in caplog.text
    assert "previous checkpoint" in caplog.text
    assert_same_end(unbroken, resumed)


def test_when_all_are_damaged_that_is_an_error_and_nothing_is_deleted(tmp_path: Path) -> None:
    learn = learner()
    crash_in(learn, 14, lambda learn: learn.fit(2, checkpoint_dir=tmp_path))
    files = Series(tmp_path / "fit-000").files()
    for path in files:
        cut_short(path, 1000)
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read"):
        learner().fit(2, checkpoint_dir=tmp_path, resume=True)
    assert Series(tmp_path / "fit-000").files() == files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    learn = learner()
    learn.fit(1)
    learn.path = tmp_path_factory.mktemp("whole")
    return learn.save("whole").read_bytes()


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(
    where: float, bit: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.safetensors"
    content = bytearray(whole)
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoints.read(path)


@settings(max_examples=50, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True))
def test_no_cut_goes_unseen(
    where: float, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    path.write_bytes(whole[: int(where * len(whole))])
    with pytest.raises(CheckpointError):
        checkpoints.read(path)


# Strangers


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of a stranger ran')",))


def test_a_pickle_of_a_stranger_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": Bomb()}, tmp_path / "torch.safetensors")
    learn = learner()
    for name in ("bomb", "torch"):
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            learn.load(tmp_path / name)


def test_a_state_nested_too_deep_is_refused(tmp_path: Path) -> None:
    deep = "[" * 100_000
    manifest = json.dumps({"tensors": {}, "aliases": {}, "state": zlib.crc32(deep.encode())})
    header = {
        "format": "layergroups", "version": str(checkpoints._file.VERSION), "state": deep,
        "manifest": manifest, "checksum": str(zlib.crc32(manifest.encode())),
    }  # fmt: skip
    save_file({}, tmp_path / "deep.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.read(tmp_path / "deep.safetensors")


def test_what_would_need_pickle_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    class Odd:
        def after_step(self, run: FitContext) -> None: ...
        def state_dict(self) -> dict[str, Any]:
            return {"function": print}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(CheckpointError, match=r"callbacks/0-Odd/function is a builtin"):
        learner((Odd(),)).fit(1, checkpoint_dir=tmp_path)
