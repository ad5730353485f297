"""What is inside the wheel and the source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = "layergroups/demo/photos/"
IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".npy"}
CACHES = {
    "__pycache__", ".venv", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    "demo-run",
}  # fmt: skip
CODE = {".py", ".pyi", ".css", ".csv", ".js", ".j2", ".typed", ".txt", ".md"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="make test installs it")
    folder = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return folder


def unwanted(names: Iterable[str]) -> list[str]:
    """Caches, files that are not tracked, and images other than the demo's and the documents'."""
    paths = [PurePosixPath(name) for name in names]
    return [
        str(path)
        for path in paths
        if CACHES & set(path.parts)
        or path.suffix in {".pyc", ".safetensors", ".pth", ".log"}
        or (path.suffix in IMAGES and DEMO not in str(path) and "docs" not in path.parts)
    ]


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if ".dist-info/" not in name]
        metadata = next(name for name in opened.namelist() if name.endswith("METADATA"))
        text = opened.read(metadata).decode()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    assert sorted(names) == sorted(name.removeprefix("src/") for name in tracked if name)
    assert unwanted(names) == []
    assert {PurePosixPath(n).suffix for n in names if DEMO not in n} <= CODE
    assert "layergroups/py.typed" in names
    assert "Requires-Dist: pyyaml" in text
    assert wheel.stat().st_size < 6e6


@pytest.mark.slow
def test_the_source_distribution_has_what_its_tests_and_documents_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    outside_tests = [name for name in names if not name.startswith("tests/")]
    assert unwanted(outside_tests) == []
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "Makefile"}
    assert needed <= set(names)
    assert archive.stat().st_size < 12e6


def test_what_is_unwanted_is_found() -> None:
    assert unwanted(["a/__pycache__/x.py", "a/x.pyc", "a/photo.jpg", "docs/images/x.png"]) == [
        "a/__pycache__/x.py", "a/x.pyc", "a/photo.jpg"
    ]  # fmt: skip
