"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="layergroups-tests-")
os.environ["LAYERGROUPS_CACHE"] = _CACHE.name
# The library logs a line when it makes this folder: not in whichever test happens to run first.
Path(_CACHE.name, "photos").mkdir()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tiny models a second thread only waits
# A shell that starts the tests in the background has told them to ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402 - the environment must be set before
from hypothesis import settings  # noqa: E402 - likewise

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and weights that lies beside the project, where it is present."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder ../shared with real photos and weights")
    return folder
