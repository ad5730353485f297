"""Ctrl-C and SIGTERM end a fit between two steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layergroups._interrupts import interrupts, uninterrupted

RUN = """
import os, sys, torch
from layergroups.training import Learner
from tests.training.tiny import TinyLoaders, tiny_model

class Says:
    def after_step(self, run):
        if run.step == 9:
            print("trains", flush=True)

if __name__ == "__main__":
    dls = TinyLoaders(n=64)
    items = torch.utils.data.TensorDataset(dls.train.x, dls.train.y)
    dls.train = torch.utils.data.DataLoader(items, 8, num_workers=2, persistent_workers=True)
    learn = Learner(dls, tiny_model(), split=2, progress=False, path=sys.argv[1])
    try:
        learn.fit(10_000, callbacks=[Says()], checkpoint_dir=sys.argv[1] + "/steps")
    except KeyboardInterrupt as signal:
        learn.save("end")
        print(signal, learn.history[-1].note, flush=True)
        sys.exit(130)
"""


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_sigterm_in_a_fit_saves_and_leaves_no_worker_behind(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE, env=environment, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "trains\n"
        workers = children(run.pid)
        assert len(workers) >= 2
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(60) == 130
        assert run.stdout.read() == "SIGTERM interrupted\n"
    finally:
        run.kill()
        run.communicate()
    assert (tmp_path / "end.safetensors").is_file()
    until = time.monotonic() + 20
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step(number: signal.Signals) -> None:
    done = []

    def step() -> None:
        with uninterrupted(), uninterrupted():
            os.kill(os.getpid(), number)
            done.append("step")

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        step()
    with pytest.raises(KeyboardInterrupt), interrupts():
        step()
    assert done == ["step", "step"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_of_the_user_is_called() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                assert seen == [signal.SIGTERM]
        assert seen == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)
