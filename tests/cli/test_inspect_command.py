"""`layergroups inspect`: the groups of a network or of an export, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run


def test_every_split_has_its_reason(run: Run) -> None:
    answer = run("inspect", "torchvision:resnet18")
    assert "11,689,512 parameters" in answer.out
    assert "the resolution falls 28 → 14" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 160


def test_the_alternatives_and_the_classic_split_stand_below(run: Run) -> None:
    out = run("inspect", "torchvision:resnet18").out
    assert "layer2.0:  falls 56 → 28 after 5 of 20 weight layers, but that is not yet 1/16" in out
    assert "classic:  fastai's classic table splits ResNet at layer3: the same parameters" in out
    assert out.count("the resolution falls 28 → 14, 1/16 of the image") == 1


def test_a_rule_by_hand_says_what_it_implies(run: Run) -> None:
    out = run("inspect", "resnet18", "--split", "layer2.0.bn1,fc").out
    assert "implied:" in out
    assert "cuts through layer2.0" in " ".join(out.split())


def test_json_holds_the_explanation(run: Run) -> None:
    found = json.loads(run("inspect", "resnet18", "--json").out)["explanation"]
    assert [why["group"] for why in found["chosen"]] == ["late", "head"]
    assert found["chosen"][0]["stride"] == 2
    assert found["alternatives"]
    assert found["classic"]["same"] is True
    assert found["implied"] is None


def test_json_describes_the_groups(run: Run) -> None:
    found = json.loads(run("inspect", "resnet18", "--split", "classic", "--json").out)
    assert found["name"] == "torchvision:resnet18"
    assert [group["layers"] for group in found["groups"]] == [26, 24, 2]
    assert found["groups"][1]["blocks"][0] == "layer3.0"
    assert sum(group["parameters"] for group in found["groups"]) == 11_689_512


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("2", ["body", "head"]),
        ("layer2.0,layer4", ["stem", "layer2.0", "layer4"]),
        ("layer3", ["stem", "layer3"]),
    ],
)
def test_split_rules(run: Run, rule: str, names: list[str]) -> None:
    found = json.loads(run("inspect", "resnet18", "--split", rule, "--json").out)
    assert [group["name"] for group in found["groups"]] == names


def test_the_size_of_the_images(run: Run) -> None:
    found = json.loads(run("inspect", "timm:test_resnet", "--size", 64, "--json").out)
    assert found["image"] == [64, 64]


def test_an_export_is_shown_with_its_rates(run: Run, model: Path, tmp_path: Path) -> None:
    found = json.loads(run("inspect", model, "--json").out)
    assert [group["name"] for group in found["groups"]] == ["early", "late", "head"]
    assert [group["rate"] for group in found["groups"]] == pytest.approx([1e-4] * 3)
    other = json.loads(run("inspect", model, "--split", "layerwise", "--json").out)
    assert len(other["groups"]) > 3


def test_the_picture(run: Run, tmp_path: Path) -> None:
    answer = run("inspect", "timm:test_vit", "--out", tmp_path / "net.svg")
    assert answer.code == 0
    assert "<svg" in (tmp_path / "net.svg").read_text(encoding="utf-8")


def test_a_folder_named_like_a_network_does_not_hide_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet18").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("inspect", "resnet18").code == 0
