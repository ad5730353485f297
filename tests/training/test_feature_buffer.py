"""Where the cached values lie: space is reserved before it is used, and a full disk is no end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layergroups.training import FeatureCacheConfig
from layergroups.training.feature_cache._feature_buffer import FeatureBuffer, NoSpaceError
from layergroups.training.feature_cache._feature_cut import TensorSpec

ROOT = Path(__file__).parents[2]

FIT = """
import sys
from pathlib import Path
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from layergroups.training import FeatureCacheConfig, Learner
config = FeatureCacheConfig(memory=0, folder=Path(sys.argv[1]))
learn = Learner(
    TinyLoaders(n=3000, batch_size=500, noise=0.0), pretrained(tiny_model()),
    split=["0.0", "0.7", "1"], feature_cache=config, progress=False,
)
learn.freeze_to(1)
rows = learn.fit(3, 1e-3)
print([row.note for row in rows])
"""  # 3000 items of 8 x 4 x 4 floats: 1.5 MB


def fit_in(folder: Path, before: str = "", command: tuple[str, ...] = ()) -> str:
    """A fit in a process of its own, which a SIGBUS would kill; its output and log."""
    done = subprocess.run(
        [*command, sys.executable, "-c", before + FIT, str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout + done.stderr


def test_a_limit_on_the_size_of_files_runs_the_whole_network(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits of a process are of POSIX")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    out = fit_in(tmp_path, before=limit)
    assert "['', '', '']" in out
    assert out.count("there is no space for its outputs") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_runs_the_whole_network(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@"'
    small = ("unshare", "-rm", "sh", "-c", mount, "sh")
    allowed = (
        shutil.which("unshare") and not subprocess.run([*small, "true"], check=False).returncode
    )
    if not allowed:
        pytest.skip("this system lets nobody mount a small disk")
    out = fit_in(tmp_path, command=small)
    assert "['', '', '']" in out
    assert out.count("there is no space for its outputs") == 1


def test_a_file_has_all_its_blocks_before_the_first_write(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    config = FeatureCacheConfig(memory=0, disk=8 << 20, folder=tmp_path)
    buffer = FeatureBuffer(1 << 20, 1, [TensorSpec.of(torch.zeros(1, 2), 1)], config)
    assert buffer.mapped
    assert free - shutil.disk_usage(tmp_path).free > 4 << 20


def test_a_folder_that_cannot_be_made_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = FeatureCacheConfig(memory=0, folder=tmp_path / "file" / "below")
    with pytest.raises(NoSpaceError, match="there is no space"):
        FeatureBuffer(4, 1, [TensorSpec.of(torch.zeros(1, 2), 1)], config)
