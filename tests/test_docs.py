"""The documents tell the truth: every Python block in them runs, top to bottom."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

import layergroups as lg
from layergroups.tasks import LOSSES, TASKS
from layergroups.training.optim._optimizers import build_optimizer
from layergroups.training.state._learner_state import LearnerState

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "docs/questions.md", "docs/other-loops.md"]
FROM_FASTAI = "docs/from-fastai.md"
ROOMS = ("training", "data", "reports", "models", "groups", "anatomy", "checkpoints")
OBJECTS: dict[str, type[Any]] = {
    "learn": lg.Learner,
    "dls": lg.ImageDataLoaders,
    "interp": lg.Interpretation,
    "groups": lg.LayerGroups,
}


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


# Lightning: what torch tells it, and advice for longer runs
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*(many workers|logging inter|eval mode).*"
)
@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    run_all(document)


@pytest.mark.slow
def test_what_a_user_of_fastai_types_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "folders")
    (tmp_path / "photos").mkdir()
    for photo in (tmp_path / "folders").rglob("*.jpg"):
        photo.rename(tmp_path / "photos" / f"{photo.parent.name}_{photo.name}")
    monkeypatch.chdir(tmp_path)
    run_all(FROM_FASTAI)
    for name in ("batch.png", "rates.png", "results.png", "confusion.png", "top.png", "run.html"):
        assert (tmp_path / name).stat().st_size


def run_all(document: str) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(document)):
        code = compile(block, f"{document}, block {number + 1}", "exec")
        exec(code, names)
    assert names


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
