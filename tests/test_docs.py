"""The documents tell the truth: every Python block in them runs, top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "docs/questions.md"]


def blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def make_photos(folder: Path) -> None:
    """Two classes that differ by colour."""
    torch.manual_seed(0)
    for name, red in (("cat", 200), ("dog", 40)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            noise = torch.randint(0, 50, (40, 48, 3), dtype=torch.uint8)
            noise[..., 0] += red
            Image.fromarray(noise.numpy()).save(folder / name / f"{i}.jpg")
    Image.fromarray(noise.numpy()).save(folder.parent / "photo.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(document)):
        code = compile(block, f"{document}, block {number + 1}", "exec")
        exec(code, names)
    assert names


def test_the_two_commands_stand_at_the_top_of_the_readme() -> None:
    top = (ROOT / "README.md").read_text(encoding="utf-8")[:1500]
    assert "make demo" in top
    assert "make test" in top
