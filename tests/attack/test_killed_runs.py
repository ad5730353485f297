"""`layergroups train` under signals at random moments, several of them, and on a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.attack.test_hostile_images import good_photos, picture

from layergroups import load_learner

TINY = ["--arch", "timm:test_resnet", "--no-pretrained", "--size", "16", "--batch-size", "2"]


def train(photos: Path, out: Path, *more: str, limit: int = 0) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk is an error, not a death

    command = [sys.executable, "-m", "layergroups", "train", str(photos), *TINY, "--workers", "0"]
    return subprocess.Popen(
        [*command, "--out", str(out), *more], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limited if limit else None,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def wait_for_start(run: subprocess.Popen[str], checkpoints: Path) -> None:
    """Until a checkpoint of a later step than the start lies there: something is learned."""
    for _ in range(6000):
        names = {path.name for path in checkpoints.rglob("step-*.safetensors")}
        if run.poll() is not None or names - {"step-00000000.safetensors"}:
            return
        time.sleep(0.05)
    pytest.fail("no checkpoint within five minutes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_one_after_another_end_a_run_that_is_saved(
    number: signal.Signals, rng: random.Random, times: int, tmp_path: Path
) -> None:
    photos = good_photos(tmp_path / "photos", rng)
    for attempt in range(max(1, times // 2)):
        out, kept = tmp_path / f"out{attempt}", tmp_path / f"kept{attempt}"
        run = train(photos, out, "--epochs", "500", "--checkpoint-dir", str(kept))
        wait_for_start(run, kept)
        time.sleep(rng.uniform(0, 0.5))
        while run.poll() is None:
            os.kill(run.pid, number)
            time.sleep(rng.uniform(0.005, 0.03))
        said, _ = run.communicate()
        assert run.returncode in (130, -number), said  # the last one may come after all is done
        assert "is saved in" in said
        load_learner(out).predict(picture(rng))


def test_a_full_disk_is_one_line_and_leaves_no_half_model(
    rng: random.Random, times: int, tmp_path: Path
) -> None:
    photos = good_photos(tmp_path / "photos", rng)
    for attempt in range(times):
        out = tmp_path / f"out{attempt}"
        run = train(photos, out, "--epochs", "1", limit=rng.randrange(1000, 300_000))
        said, _ = run.communicate(timeout=300)
        assert run.returncode not in (0, -signal.SIGXFSZ), said
        assert "Traceback" not in said
        assert not list(out.rglob("*.safetensors"))
