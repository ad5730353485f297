"""A model of masks by commands alone: train, reproduce, predict into PNG files, report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Run
from tests.data.masks import NAMES, layers, shapes

from layergroups import CrossEntropy, load_learner
from layergroups.cli import main
from layergroups.tasks import as_loss

TINY = ["--arch", "timm:test_resnet", "--no-pretrained", "--size", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders images and masks, classes.txt, and a trained model, `run`."""
    root = tmp_path_factory.mktemp("masks")
    images, masks = shapes(root)
    (root / "classes.txt").write_text("\n".join(NAMES))
    words = [str(images), "--masks", str(masks), "--classes", str(root / "classes.txt")]
    more = ["--epochs", "1", "--out", str(root / "run")]
    assert main(["train", *words, "--ignore", "disc,9", *TINY, *more]) == 0
    return root


def test_settings_of_masks_are_written_and_repeated(folder: Path, run: Run) -> None:
    settings = (folder / "run" / "run.yaml").read_text()
    assert f"masks: {folder / 'masks'}" in settings
    assert "classes: background,square,disc" in settings
    assert "ignore: disc,9" in settings
    assert run("reproduce", folder / "run", "--json").code == 0


def test_decoder_and_loss_are_chosen_and_repeated(folder: Path, run: Run, tmp_path: Path) -> None:
    words = [folder / "images", "--masks", folder / "masks", "--classes", folder / "classes.txt"]
    chosen = ["--decoder", "fpn", "--loss", "dice+focal", "--epochs", "1"]
    assert run("train", *words, *TINY, *chosen, "--out", tmp_path / "run").code == 0
    settings = (tmp_path / "run/run.yaml").read_text().splitlines()
    assert {"decoder: fpn", "loss: dice+focal"} <= set(settings)
    learn = load_learner(tmp_path / "run")
    assert learn.loss_func == as_loss("dice+focal")
    assert any(getattr(module, "kind", "") == "fpn" for module in learn.model.modules())
    assert run("reproduce", tmp_path / "run", "--json").code == 0
    again = ["--from", tmp_path / "run", "--loss", "cross_entropy", "--out", tmp_path / "on"]
    assert run("train", *words, *again).code == 0
    assert load_learner(tmp_path / "on").loss_func == CrossEntropy()
    other = run("train", *words, *again, "--decoder", "unet")
    assert "--decoder" in other.only_error_line


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--decoder", "unett"], "Did you mean unet"),
        (["--loss", "dyce"], "Did you mean dice"),
        (["--loss", "bce"], "Dice and cross entropy"),
        (["--pooling", "mean"], "--text"),
    ],
)
def test_names_that_do_not_fit_masks(
    folder: Path, run: Run, tmp_path: Path, option: list[str], says: str
) -> None:
    words = [folder / "images", "--masks", folder / "masks", "--classes", folder / "classes.txt"]
    answer = run("train", *words, *TINY, *option, "--out", tmp_path / "new")
    assert says in answer.err.splitlines()[-1]
    assert answer.code == 2
    assert not (tmp_path / "new").exists()
    assert "--masks" in run("train", folder, "--decoder", "fpn").only_error_line


def test_masks_of_colours(folder: Path, run: Run, tmp_path: Path) -> None:
    """A file of colours; run.yaml holds what it says, so that the run can be repeated without."""
    colours = np.array([(0, 0, 0), (128, 64, 128), (70, 130, 180)], np.uint8)
    (tmp_path / "masks").mkdir()
    for mask in (folder / "masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(mask))]).save(tmp_path / "masks" / mask.name)
    lines = [f"{r} {g} {b}\t{name}" for name, (r, g, b) in zip(NAMES, colours, strict=True)]
    lines += [f"0 {n} 7 one of many, {n}" for n in range(30)]  # a text that is no name of a file
    (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    words = [folder / "images", "--masks", tmp_path / "masks", "--ignore", "disc", *TINY]
    colours_in = ["--classes", tmp_path / "label_colors.txt"]
    assert run("train", *words, *colours_in, "--epochs", "1", "--out", tmp_path / "run").code == 0
    (tmp_path / "label_colors.txt").unlink()
    assert run("reproduce", tmp_path / "run", "--json").code == 0
    predicted = run("predict", tmp_path / "run", folder / "images/00.jpg", "--json", "--out",
                    tmp_path / "out")  # fmt: skip
    assert list(json.loads(predicted.out)[0]["shares"])[:3] == [*NAMES[:2], "one of many, 0"]
    typed = ["--classes", "background #000000, square #804080"]
    wrong = run("train", *words[:3], *typed, *TINY, "--out", tmp_path / "new")
    assert "(70, 130, 180), which no class has" in wrong.err


def test_masks_are_written_as_images(folder: Path, run: Run, tmp_path: Path) -> None:
    found = run("predict", folder / "run", folder / "images", "--out", tmp_path, "--json")
    assert found.code == 0
    assert [row["size"] for row in json.loads(found.out)] == [[48, 64]] * 12
    with Image.open(tmp_path / "03.png") as written:
        assert (written.mode, written.size) == ("P", (64, 48))
        assert np.array(written).max() <= 1
    tiled = run("predict", folder / "run", folder / "images/03.jpg", "--out", tmp_path / "tiles",
                "--tile", 32)  # fmt: skip
    assert tiled.code == 0
    with Image.open(tmp_path / "tiles/03.png") as written:
        assert written.size == (64, 48)


def test_images_of_the_same_name_do_not_share_a_mask(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((folder / "images/00.jpg").read_bytes())
    assert run("predict", folder / "run", tmp_path, "--out", tmp_path / "out").code == 0
    assert {file.parent.name for file in (tmp_path / "out").rglob("*.png")} == {"a", "b"}


def test_masks_replace_no_files(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("00", "01"):
        Image.open(folder / f"images/{name}.jpg").save(images / f"{name}.png")
    before = {file: file.read_bytes() for file in images.iterdir()}
    words = ["predict", folder / "run", images]
    (tmp_path / "link").symlink_to(images)
    for out in (["--out", images], ["--out", "images", "--force"], ["--out", "link", "--force"]):
        answer = run(*words, *out)
        assert re.search(r"00\.png is one of the images.*--out predicted-masks\.", answer.err)
        assert answer.code == 2
    assert run(*words).code == 0
    (tmp_path / "predicted-masks/01.png").unlink()
    (tmp_path / "predicted-masks/00.png").write_bytes(b"mine")
    answer = run(*words)
    assert re.search("00.png exists already.*--out predicted-masks-2, or --force", answer.err)
    assert [file.name for file in (tmp_path / "predicted-masks").iterdir()] == ["00.png"]
    assert run(*words, "--force").code == 0
    assert (tmp_path / "predicted-masks/00.png").read_bytes()[:4] == b"\x89PNG"
    assert {file: file.read_bytes() for file in images.iterdir()} == before


def test_masks_are_validated(folder: Path, run: Run, tmp_path: Path) -> None:
    """By the values and the ignored classes of the training, which the export holds."""
    words = ("validate", folder / "run", folder / "images", "--json")
    drawn = tmp_path / "confusion.png"
    found = json.loads(run(*words, "--masks", folder / "masks", "--out", drawn).out)
    assert [row["name"] for row in found["classes"]] == ["background", "square"]
    assert found["items"] == 12
    assert 0 < found["mean IoU"] < 1
    assert drawn.is_file()
    assert json.loads(run(*words).out) == found  # as it was trained
    assert "--masks DIR" in run("validate", folder / "run", tmp_path).only_error_line
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(tmp_path / "00.png")
    for number in range(1, 12):
        (tmp_path / f"{number:02d}.png").symlink_to(folder / f"masks/{number:02d}.png")
    broken = run(*words, "--masks", tmp_path)
    assert "00.png: has the value 7" in broken.err


def test_labels_that_overlap(run: Run, tmp_path: Path) -> None:
    images, masks = layers(tmp_path, form="folders")
    words = [images, "--masks", masks, "--overlapping", *TINY, "--epochs", "1"]
    assert run("train", *words, "--out", tmp_path / "run").code == 0
    assert "overlapping: true" in (tmp_path / "run/run.yaml").read_text()
    found = json.loads(run("validate", tmp_path / "run", images, "--json").out)
    assert [row["name"] for row in found["classes"]] == ["disc", "square"]
    out = ["--out", tmp_path / "predicted"]
    assert run("predict", tmp_path / "run", images / "03.jpg", *out).code == 0
    with Image.open(tmp_path / "predicted/03.tif") as written:
        assert (written.n_frames, written.size) == (2, (64, 48))
    refused = run("validate", tmp_path / "run", images, "--out", tmp_path / "confusion.png")
    assert "--out" in refused.only_error_line
    (masks / "disc/03.png").unlink()
    words = ["validate", tmp_path / "run", images, "--json"]
    answer = run(*words)
    assert answer.code == 2
    assert "03.jpg" in answer.err
    skipped = json.loads(run(*words, "--on-error", "skip").out)
    assert skipped["items"] == found["items"] - 1


def test_mistakes_are_explained(folder: Path, run: Run, tmp_path: Path) -> None:
    images, out = folder / "images", ["--out", tmp_path / "new"]
    for words in (
        ["train", images, "--classes", "a,b", *out],
        ["train", folder / "classes.txt", "--masks", folder / "masks", *out],
        ["train", images, "--masks", folder / "none", *out],
        ["train", images, "--masks", folder / "masks", *out],  # three values and no classes
        ["train", images, "--masks", folder / "masks", "--mask-suffix", "_m", *out],
    ):
        assert run(*words).only_error_line.startswith("layergroups: ")
    assert not (tmp_path / "new").exists()
