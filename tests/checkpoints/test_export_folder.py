import copy
import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from layergroups._from_dict import from_dict
from layergroups.checkpoints import (
    Blueprint,
    Exported,
    described_head,
    load_export,
    read_export,
    rebuild,
    why_not_rebuilt,
    write_export,
)
from layergroups.errors import CheckpointError
from layergroups.input_spec import InputSpec
from layergroups.models import assemble, grow_head, load_model

ARCHITECTURES = ["torchvision:squeezenet1_1", "timm:test_resnet", "timm:test_vit"]


def made(arch: str, cut=None, **kwargs) -> tuple[nn.Sequential, Blueprint]:
    loaded = load_model(arch, pretrained=False, **kwargs)
    size = (64, 64) if "vit" not in arch else loaded.input.size
    assembled = assemble(loaded, 3, size=size, cut=cut)
    blueprint = Blueprint(
        arch=loaded.name,
        kwargs=loaded.kwargs,
        cut=assembled.cut,
        network=assembled.network,
        size=size,
        input=assembled.input,
    )
    return assembled.model, blueprint


def exported_as(blueprint: Blueprint | None, model: nn.Module, needs: str = "") -> Exported:
    return Exported(
        classes=("a", "ß", "<c>"),
        blueprint=blueprint,
        head=described_head(model),
        needs_model=needs,
        transform=json.loads(json.dumps(InputSpec(size=(64, 64)).to_dict())),
        groups={
            "rule": "auto",
            "names": ["a"],
            "members": {"a": []},
            "frozen": [False],
            "rates": [1],
        },
        loss="CrossEntropyLoss",
        metrics=("accuracy",),
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_is_made_again_from_its_description(arch: str, tmp_path: Path) -> None:
    model, blueprint = made(arch)
    assert why_not_rebuilt(model, blueprint, described_head(model)) == ""
    write_export(tmp_path, model, exported_as(blueprint, model))
    again, exported = load_export(tmp_path)
    assert exported == exported_as(blueprint, model)
    image = torch.randn(2, 3, *blueprint.size)
    assert torch.equal(model.eval()(image), again.eval()(image))


def test_a_model_with_a_grown_head_is_made_again(tmp_path: Path) -> None:
    model, blueprint = made("timm:test_resnet")
    grow_head(model, 4, example_input=torch.zeros(2, 3, 64, 64))
    grow_head(model, 6, example_input=torch.zeros(2, 3, 64, 64))
    assert why_not_rebuilt(model, blueprint, described_head(model)) == ""
    write_export(tmp_path, model, exported_as(blueprint, model))
    again, _ = load_export(tmp_path)
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()(image), again.eval()(image))


@pytest.mark.parametrize("cut", ["features.7", "classifier", -1])
def test_a_body_cut_by_hand_is_made_again(cut: str | int, tmp_path: Path) -> None:
    model, blueprint = made("torchvision:mobilenet_v2", cut)
    assert why_not_rebuilt(model, blueprint, described_head(model)) == ""
    write_export(tmp_path, model, exported_as(blueprint, model))
    again, _ = load_export(tmp_path)
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()(image), again.eval()(image))


def test_a_blueprint_goes_through_json() -> None:
    _, blueprint = made("timm:test_vit", img_size=64)
    fields = json.loads(json.dumps(asdict(blueprint)))
    assert from_dict(Blueprint, fields) == blueprint
    assert blueprint.kwargs == {"img_size": 64}


def test_making_it_again_draws_nothing_from_the_global_random_state() -> None:
    model, blueprint = made("timm:test_resnet")
    state = torch.get_rng_state()
    rebuild(blueprint, described_head(model))
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_made_again_is_said() -> None:
    model, blueprint = made("timm:test_resnet")
    head = described_head(model)
    assert "not from the name" in why_not_rebuilt(model, None, head)
    assert "head" in why_not_rebuilt(model, blueprint, None)
    longer = nn.Sequential(*model, nn.Identity())
    assert "Sequential" in why_not_rebuilt(longer, blueprint, head)
    model[0].add_module("extra", nn.Linear(2, 2))
    assert "extra" in why_not_rebuilt(model, blueprint, head)


def test_a_cut_that_names_absent_children_is_refused() -> None:
    model, blueprint = made("torchvision:squeezenet1_1")
    fields = asdict(blueprint)
    fields["cut"]["children"] = ["nothing"]
    with pytest.raises(CheckpointError, match="nothing"):
        rebuild(from_dict(Blueprint, fields), described_head(model))


def test_a_description_cannot_make_the_factory_read_files() -> None:
    model, blueprint = made("timm:test_resnet")
    fields = asdict(blueprint) | {"kwargs": {"checkpoint_path": "evil.pth"}}
    with pytest.raises(CheckpointError, match="checkpoint_path"):
        rebuild(from_dict(Blueprint, fields), described_head(model))


def test_an_export_that_needs_its_model_takes_it(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    write_export(tmp_path, model, exported_as(None, model, "it is a module of one's own"))
    with pytest.raises(CheckpointError, match="because it is a module of one's own"):
        load_export(tmp_path)
    again, _ = load_export(tmp_path, nn.Linear(4, 3))
    assert torch.equal(again.weight, model.weight)


def test_class_names_are_kept_as_they_are(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    write_export(tmp_path, model, exported_as(None, model))
    assert read_export(tmp_path)[1].classes == ("a", "ß", "<c>")
    assert "ß" in (tmp_path / "learner.json").read_text(encoding="utf-8")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values of a description; of a list, its last."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[-1:]
    found = []
    for key, inner in inside:
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*path, key))
    return found


def changed(fields: dict, path: tuple, value: object) -> dict:
    again = copy.deepcopy(fields)
    at = again
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return again


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("export")
    model, blueprint = made("timm:test_resnet")
    write_export(folder, model, exported_as(blueprint, model))
    return folder, json.loads((folder / "learner.json").read_text(encoding="utf-8"))


ODD = [None, True, -1, 0, 1.5, math.nan, math.inf, 10**9, "", [], ["a", "a"], [None], {"a": 1}]


def test_no_changed_description_ends_in_a_bare_error(described) -> None:
    """Each value of it replaced by each odd one: an error of one kind, or it can be read."""
    folder, fields = described
    for path in places(fields):
        for value in ODD:
            text = json.dumps(changed(fields, path, value))
            (folder / "learner.json").write_text(text, encoding="utf-8")
            with suppress(CheckpointError):
                read_export(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 1.0), ("version", None), ("classes", ["a", "a", "b"]), ("classes", []),
        ("classes", ["a", " ", "b"]), ("classes", ["a", "b"]), ("classes", ["a", 1, "b"]),
        ("blueprint/arch", 3), ("blueprint/size", [0, 0]), ("blueprint/size", [10**6, 10**6]),
        ("blueprint/input/std", [math.nan] * 3), ("blueprint/cut/kind", "x"), ("head", "x"),
        ("transform/size", [-1, 64]), ("transform/size", ["x", 64]), ("transform/mean", [1e9] * 3),
        ("transform/std", [0.0] * 3), ("transform/crop_pct", 0), ("transform", {"x": 1}),
        ("transform/interpolation", "x"), ("groups/frozen", [True, True]), ("groups/members", None),
        ("task", "zz"), ("task", "regression"), ("thresh", 1), ("metrics", ["mae"]),
        ("loss", "MSELoss"), ("loss_settings", {"x": 1}), ("outputs", "x"), ("metrics", 3),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(described, path: str, value: object) -> None:
    folder, fields = described
    text = json.dumps(changed(fields, tuple(path.split("/")), value))
    (folder / "learner.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"learner\.json") as caught:
        read_export(folder)
    assert "\n" not in str(caught.value)


def test_a_deeply_nested_description_is_refused(described) -> None:
    folder, _ = described
    (folder / "learner.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        read_export(folder)
