"""The documents tell the truth: every Python block in them runs, top to bottom."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

import layergroups as lg
import layergroups.errors
from layergroups.tasks import LOSSES, TASKS
from layergroups.training.optim._optimizers import build_optimizer
from layergroups.training.state._learner_state import LearnerState
from tests.data.masks import NAMES, shapes

ROOT = Path(__file__).resolve().parents[1]
DEMO_PHOTOS = ROOT / "src/layergroups/demo/photos"
FROM_FASTAI = "docs/coming-from/fastai-names.md"
ROOMS = ("training", "data", "reports", "models", "groups", "anatomy", "checkpoints")
OBJECTS: dict[str, type[Any]] = {
    "learn": lg.Learner,
    "dls": lg.ImageDataLoaders,
    "interp": lg.Interpretation,
    "groups": lg.LayerGroups,
}
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A Python block of a page, and the output that the page shows below it."""

    code: str
    shown: str | None


def blocks(page: str) -> list[Block]:
    fences = [*FENCE.findall((ROOT / page).read_text(encoding="utf-8")), ("", "")]
    return [
        Block(code, after if language == "text" else None)
        for (kind, code), (language, after) in pairwise(fences)
        if kind == "python"
    ]


def pages() -> list[str]:
    every = sorted((ROOT / "docs").rglob("*.md"))
    return [name for p in every if blocks(name := str(p.relative_to(ROOT)))]


def masked(output: str) -> list[str]:
    """The words of an output, without its numbers, units of time, lines of tables and spaces."""
    words = re.sub(r"[\d.,:e+-]*\d[\d.,:e+-]*", " ", re.sub(r"[─━│┃]+", " ", output)).split()
    return [word for word in words if word not in ("ms", "s", "min", "h")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages suppose: a few photos in folders, in a table and beside them, and weights.

    `resnet18` finds pretrained weights where torchvision would have stored its download.
    """
    rows = []
    for name in ("hat", "shoes"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for photo in sorted((DEMO_PHOTOS / "train" / name).iterdir())[:10]:
            shutil.copy(photo, tmp_path / "photos" / name)
            rows.append((f"photos/{name}/{photo.name}", name, len(rows)))
    shutil.copytree(tmp_path / "photos", tmp_path / "more-photos")
    (tmp_path / "more-photos/pants").mkdir()
    for photo in sorted((DEMO_PHOTOS / "train/pants").iterdir())[:10]:
        shutil.copy(photo, tmp_path / "more-photos/pants")
    (tmp_path / "flat").mkdir()
    for file, name, _ in rows:
        shutil.copy(tmp_path / file, tmp_path / "flat" / f"{name}_{Path(file).name}")
    shutil.copy(tmp_path / file, tmp_path / "photo.jpg")
    for table, heading, cells in (
        ("labels.csv", "file,label", lambda name, i: name),
        ("tags.csv", "file,tags", lambda name, i: f"{name} {'new' if i % 3 else 'used'}"),
        ("prices.csv", "file,price", lambda name, i: f"{20 + 7 * i % 50}.0"),
    ):
        lines = [f"{file},{cells(name, i)}" for file, name, i in rows]
        (tmp_path / table).write_text("\n".join([heading, *lines]))
    shapes(tmp_path)
    Image.new("RGB", (600, 540)).save(tmp_path / "large.tif")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    store = tmp_path / "torch/hub/checkpoints"
    store.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), store / ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Lightning: what torch tells it, and advice for longer runs
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*(many workers|logging inter|eval mode).*"
)
@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", pages())
def test_every_block_runs_and_prints_what_the_page_shows(page: str) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for number, (code, shown) in enumerate(blocks(page)):
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            exec(compile(code, f"{page}, block {number + 1}", "exec"), names)
        printed = output.getvalue()
        if shown is not None and "LAYERGROUPS_WRITE_DOCS" in os.environ:
            write_output(ROOT / page, code, shown, printed)
        elif shown is not None:
            assert masked(shown) == masked(printed), printed


def write_output(page: Path, code: str, old: str, new: str) -> None:
    """Show what a block prints: `LAYERGROUPS_WRITE_DOCS=1 pytest -m slow tests/test_docs.py`."""
    lines = "\n".join(line.rstrip() for line in new.strip("\n").splitlines())
    before, found, after = page.read_text(encoding="utf-8").partition(code)
    after = after.replace(f"```text\n{old}```", f"```text\n{lines}\n```", 1)
    page.write_text(before + found + after, encoding="utf-8")


def test_the_readme_shows_blocks_of_the_site() -> None:
    site = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages())
    fences = FENCE.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
    shown = [fence[0] for fence in fences if fence[1] in ("python", "text")]
    assert len(shown) == 3
    assert [fence for fence in shown if fence not in site] == []


def test_pictures_and_links_of_the_readme_are_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        found = re.findall(
            r"(!?)\[[^]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
        )
        links = [link for picture, link in found if picture or page.name == "README.md"]
        assert [link for link in links if not (page.parent / link).exists()] == []


def documented() -> set[str]:
    """The names that the reference explains, without the name of the package."""
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/reference").glob("*.md"))
    return set(re.findall(r"^::: layergroups\.(\S+)", text, re.MULTILINE))


def test_the_reference_has_every_public_name_and_no_other() -> None:
    errors = [f"errors.{name}" for name, one in vars(lg.errors).items() if isinstance(one, type)]
    public = {*lg.__all__, *errors} - {"__version__", "LayerGroupsError", "DataError"}
    assert public - documented() == set()
    for name in documented():
        module, _, attribute = f"layergroups.{name}".rpartition(".")
        assert getattr(importlib.import_module(module), attribute)


def our_names() -> list[str]:
    """What stands in code marks in the middle column of the tables, and in calls of the right."""
    text = (ROOT / FROM_FASTAI).read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    middle = [name for row in rows for name in re.findall(r"`([^`]+)`", row[1])]
    right = [name for row in rows for name in re.findall(r"`([^`]+)`", row[2])]
    ours = (
        "learn.",
        "dls.",
        "interp.",
        "groups.",
        "Learner(",
        "FitContext.",
        "Callback.",
        "History.",
    )
    return sorted({*middle, *(name for name in right if name.startswith(ours))})


def found(dotted: str) -> Any:
    """The thing of that name: of ours, or of torch and its kin."""
    first, *rest = dotted.split(".")
    if first in ("torch", "torchvision", "torchmetrics"):
        *modules, name = dotted.split(".")
        if dotted == "torch.nn.Module.register_forward_hook":
            return torch.nn.Module.register_forward_hook
        return getattr(importlib.import_module(".".join(modules)), name)
    if first in OBJECTS:
        thing: Any = OBJECTS[first]
    else:
        rooms = [lg, *(importlib.import_module(f"layergroups.{room}") for room in ROOMS)]
        thing = next(getattr(room, first) for room in rooms if first in room.__all__)
    for name in rest:
        state = thing is lg.Learner and f"self.{name}" in inspect.getsource(LearnerState.__init__)
        known = state or name in getattr(thing, "__dataclass_fields__", {})
        thing = getattr(thing, name, None) if known else getattr(thing, name)
    return thing


def is_a_word(word: str) -> bool:
    """Whether a metric, a loss or an optimizer has the name."""
    for task in TASKS.values():
        try:
            return bool(task.metric(word))
        except lg.LayerGroupsError:
            continue
    if word in LOSSES:
        return True
    weight = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1, "layer_group": 0}
    return bool(build_optimizer(word, [weight], 0.1))


@pytest.mark.parametrize("name", our_names())
def test_every_name_that_stands_beside_one_of_fastai_is_there(name: str) -> None:
    if name.startswith('"'):
        assert is_a_word(name.strip('"'))
        return
    if name.startswith("slice("):
        return
    dotted, _, words = name.partition("(")
    thing = found(dotted)
    given = re.findall(r"(\w+)=", words)
    assert set(given) <= arguments_of(thing) if given else True


def arguments_of(function: Any) -> set[str]:
    """Names of the arguments, with those that a TypedDict lists for `**options`."""
    own = set(inspect.signature(function).parameters)
    if "options" in own:
        hint = eval(function.__annotations__["options"], function.__globals__)
        own |= {name for each in get_args(hint) for name in each.__annotations__}
    return own


def test_a_name_that_is_not_there_is_found_out() -> None:
    with pytest.raises((AttributeError, StopIteration)):
        found("learn.fit_for_ever")
    with pytest.raises(lg.LayerGroupsError):
        is_a_word("acuracy")


def test_the_two_commands_stand_at_the_top_of_the_readme() -> None:
    top = (ROOT / "README.md").read_text(encoding="utf-8")[:1500]
    assert "make demo" in top
    assert "make test" in top


@pytest.mark.parametrize("name", [n for n in lg.__all__ if callable(getattr(lg, n))])
def test_what_users_call_has_a_docstring(name: str) -> None:
    found = getattr(lg, name)
    assert inspect.getdoc(found)
    if found in OBJECTS.values():
        public = [m for m in dir(found) if m[0] != "_" and m not in found.__annotations__]
        assert not [m for m in public if not inspect.getdoc(inspect.getattr_static(found, m))]
