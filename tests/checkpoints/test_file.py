import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layergroups.checkpoints import _file as file
from layergroups.errors import CheckpointError

STATE = {"epoch": 3, "rates": [1e-3, 0.1], "name": "straße"}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.randn(4, 3),
        "half": torch.randn(5).to(torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
    }


def test_what_is_written_is_read_again_bit_for_bit(tmp_path: Path, tensors) -> None:
    path = file.write(tmp_path / "new folder" / "a.safetensors", tensors, STATE)
    read, state = file.read(path)
    assert state == STATE
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert all(read[name].dtype == tensors[name].dtype for name in tensors)


def test_memory_orders_and_views_do_not_matter(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    given = {"turned": whole.T, "row": whole[1], "overlap": whole[1:, 1:], "whole": whole}
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    read, _ = file.read(file.write(tmp_path / "a", given | {"images": images}, {}))
    assert all(torch.equal(read[name], tensor) for name, tensor in given.items())
    assert torch.equal(read["images"], images)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    tied = torch.randn(1000)
    path = file.write(tmp_path / "a.safetensors", {"first": tied, "again": tied}, {})
    assert list(load_file(path)) == ["first"]
    assert torch.equal(file.read(path)[0]["again"], tied)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch) -> None:
    path = file.write(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"n": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(file, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        file.write(path, {"x": torch.zeros(2)}, {"n": 2})
    assert file.read(path)[1] == {"n": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


def test_state_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="JSON"):
        file.write(tmp_path / "a", {}, {"model": object()})
    assert not list(tmp_path.iterdir())


def test_an_absent_file_names_its_neighbours(tmp_path: Path) -> None:
    file.write(tmp_path / "stage-1.safetensors", {}, {})
    with pytest.raises(CheckpointError, match="stage-1"):
        file.read(tmp_path / "stage-2.safetensors")


@pytest.mark.parametrize("part", [0, 3, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, tensors, part: float) -> None:
    path = file.write(tmp_path / "a.safetensors", tensors, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(part if part == 3 else part * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        file.read(path)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, tensors) -> None:
    path = file.write(tmp_path / "a.safetensors", tensors, STATE)
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 0b0100
        path.write_bytes(damaged)
        try:
            read, state = file.read(path)
        except CheckpointError:
            continue
        assert state == STATE, position  # the flipped bit said nothing, such as a blank
        assert all(torch.equal(read[name], tensors[name]) for name in tensors), position


def test_a_foreign_safetensors_file_says_what_it_is_good_for(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"vision_learner\(dls, arch, weights="):
        file.read(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        file.read(path)


def test_another_format_names_the_release_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({}, path, metadata={"format": "layergroups", "version": "99", "state": "{}"})
    with pytest.raises(CheckpointError, match="release of layergroups that wrote it"):
        file.read(path)


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_the_umask_holds_and_is_never_touched(tmp_path: Path, monkeypatch, tensors, mask) -> None:
    before = os.umask(mask)
    try:
        # the umask belongs to all threads: changing it for a moment opens the files of others
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            text = file.write_text(tmp_path / "a.json", "{}")
            weights = file.write(tmp_path / "a.safetensors", tensors, STATE)
    finally:
        os.umask(before)
    for path in (text, weights):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_text_is_written_with_the_usual_permissions(tmp_path: Path) -> None:
    path = file.write_text(tmp_path / "x" / "a.json", json.dumps(STATE))
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert json.loads(path.read_text()) == STATE


@pytest.mark.slow
def test_what_a_killed_writer_leaves_is_deleted(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from layergroups.checkpoints import Series\n"
        "tensors = {'weight': torch.zeros(8_000_000)}\n"
        "while True: print(Series(Path(sys.argv[1])).write(1, tensors, {}), flush=True)"
    )
    series = file.Series(tmp_path)
    for delay in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()  # it has written one, and writes the next
            time.sleep(delay)
            writer.kill()
        if {*tmp_path.iterdir()} > {*series.files()}:
            break
    assert {*tmp_path.iterdir()} > {*series.files()}
    series.prune(series.files())
    assert [*tmp_path.iterdir()] == series.files()
