"""Every file in examples/ runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from layergroups import ImageDataLoaders, vision_learner
from layergroups.demo._run import PHOTOS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TINY = ["--arch", "timm:test_resnet", "--size", "32"]


def load(name: str) -> Callable[[list[str]], None]:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], None] = module.main
    return main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A few of the demo's photos."""
    for folder in PHOTOS.glob("*/*/"):
        copy = tmp_path / "photos" / folder.relative_to(PHOTOS)
        copy.mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:2]:
            shutil.copy(photo, copy)
    return tmp_path / "photos"


def test_all_examples_are_tested() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {
        "accelerate_loop", "ddp_loop", "deepspeed_loop", "fine_tune_folder", "mixed_precision",
        "plain_loop", "run_exported", "schedules", "segmentation", "skorch_net", "text",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accelerate_loop", "epoch 3: loss"),
        ("mixed_precision", "3 of 3 groups"),
        ("schedules", "timm: {'0/decay': 0.00035, '1/decay': 0.00345, '2/decay': 0.03455}"),
        ("skorch_net", "accuracy"),
    ],
)
def test_loops_of_others(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "skorch_net":
        pytest.importorskip("skorch", reason="an example for its users alone")
    load(name)(["--backend", "eager"] if name == "mixed_precision" else [])
    assert words in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["--fsdp"]])
def test_ddp_loop(option: list[str]) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(EXAMPLES / "ddp_loop.py"), *option],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    sums = [line.split()[-1] for line in done.stdout.splitlines() if "sum of the weights" in line]
    assert len(sums) == 2
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_deepspeed_loop() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: an example for its users alone")
    example = str(EXAMPLES / "deepspeed_loop.py")
    done = subprocess.run(
        [sys.executable, example], capture_output=True, text=True, check=True, timeout=200
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("stage ")]
    moved = [f"layers {names} moved" for names in ("2", "1, 2", "0, 1, 2") for _ in range(2)]
    assert [line.split(": ")[1] for line in found] == moved * 2


def test_fine_tune_folder(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    load("fine_tune_folder")(
        [str(photos), *TINY, "--from-noise", "--epochs", "0", "--out", str(out)]
    )
    told = capsys.readouterr().out
    assert "Layer groups of " in told
    assert "accuracy 0." in told
    assert {"learner.json", "network.png"} <= {path.name for path in out.iterdir()}


def test_plain_loop(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("plain_loop")([str(photos), *TINY])
    told = capsys.readouterr().out
    assert told.count("validation photos right") == 2
    assert "head" in told


@pytest.fixture
def odd_photos(tmp_path: Path) -> list[str]:
    """Photos that must be turned, shrunk while they are decoded, enlarged, and cut at both ends."""
    colours = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    image.resize((301, 203)).save(tmp_path / "turned.jpg", exif=turned)
    image.resize((40, 131)).save(tmp_path / "tall.png")
    image.resize((19, 17)).convert("L").save(tmp_path / "small.png")
    return [str(tmp_path / name) for name in ("turned.jpg", "tall.png", "small.png")]


@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_run_exported(
    ending: str,
    tmp_path: Path,
    photos: Path,
    odd_photos: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    dls = ImageDataLoaders.from_folder(photos, size=(32, 40))
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, seed=0, progress=False)
    file = learn.export(tmp_path / f"model.{ending}")
    load("run_exported")([str(file), *odd_photos])
    for line, photo in zip(capsys.readouterr().out.splitlines(), odd_photos, strict=True):
        expected = learn.predict(photo)
        name, chance = line.removeprefix(f"{photo}: ").split()
        assert name == expected.label
        assert float(chance) == pytest.approx(float(expected.probabilities.max()), abs=2e-4)


@pytest.mark.slow
def test_an_exported_model_runs_without_this_library(
    tmp_path: Path, photos: Path, odd_photos: list[str]
) -> None:
    dls = ImageDataLoaders.from_folder(photos, size=32)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, seed=0, progress=False)
    file = learn.export(tmp_path / "model.pt2")
    barred = "".join(f"sys.modules[{name!r}] = None; " for name in ("layergroups", "timm"))
    script = f"import sys; {barred}sys.argv[1:] = {[str(file), *odd_photos]}; "
    script += (
        f"import runpy; runpy.run_path({str(EXAMPLES / 'run_exported.py')!r}, None, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert learn.predict(odd_photos[0]).label in done.stdout.splitlines()[0]


def test_text(tmp_path: Path, capsys: Any) -> None:
    from tests.texts import model_folder, reviews

    table = tmp_path / "reviews.csv"
    rows = [f"{text},{label}" for text, label in zip(*reviews(60), strict=True)]
    table.write_text("\n".join(["text,label", *rows]) + "\n")
    load("text")([str(table), "--model", str(model_folder(tmp_path / "m")), "--epochs", "1"])
    assert "correct" in capsys.readouterr().out


@pytest.mark.slow
def test_segmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--scratch", "--epochs", "2", "--out", str(tmp_path)]
    load("segmentation")(["--arch", "timm:test_resnet", "--size", "64", *out])
    assert "mask of 64 x 64 pixels" in capsys.readouterr().out
    assert {"mask.png", "results.png", "model"} <= {path.name for path in tmp_path.iterdir()}
