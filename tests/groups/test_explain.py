"""Why the groups begin where they do, and the alternatives."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from tests.laws.models import TinyResNet, TinyTransformer, image
from torch import nn

from layergroups.groups import Explanation, LayerGroups
from layergroups.groups._explain import Classic


def groups_of(name: str, split: str | int | list[str] = "auto") -> LayerGroups:
    with torch.device("meta"):
        return LayerGroups(torchvision.models.get_model(name), split)


@pytest.fixture(scope="module")
def vgg() -> LayerGroups:
    return groups_of("vgg16_bn")


def test_a_boundary_has_all_its_facts(vgg: LayerGroups) -> None:
    late, head = vgg.explain().chosen
    assert (late.group, late.path, late.block + 1, late.blocks) == ("late", "features.24", 8, 16)
    assert (late.side_before, late.side_after, late.stride) == (56, 28, 2.0)
    assert (late.channels_before, late.channels_after) == (256, 512)
    assert (late.weight_ops_before, late.weight_ops) == (7, 13)
    assert late.parameters == pytest.approx(0.118, abs=1e-3)
    assert late.flops == pytest.approx(0.608, abs=1e-3)
    assert late.sentence == vgg["late"].reason
    assert (head.group, head.weight_ops_before, head.parameters, head.flops) == ("head", 13, 1, 1)
    assert (head.channels_before, head.side_after, head.stride) == (512, 0, 1)


def test_alternatives_say_why_not(vgg: LayerGroups) -> None:
    others = {why.path: why for why in vgg.explain().alternatives}
    assert list(others) == ["features.7", "features.14", "features.20", "features.34"]
    assert all(why.group is None for why in others.values())
    late = others["features.34"]
    assert late.sentence == "falls 28 → 14 only after 10 of 13 weight layers, more than two thirds"
    assert "further from half" in others["features.14"].sentence
    assert "the middle of the repeated blocks" in others["features.20"].sentence
    assert others["features.20"].stride == 1


def test_a_fall_before_or_after_the_sixteenth() -> None:
    others = {why.path: why.sentence for why in groups_of("resnet34").explain().alternatives}
    assert "only the stem" in others["layer1.0"]
    assert "not yet 1/16 of the image" in others["layer2.0"]
    assert "1/16 is reached before" in others["layer4.0"]


@pytest.mark.parametrize(
    ("name", "path", "same"),
    [
        ("vgg16_bn", "features.22", True),
        ("resnet34", "layer3", True),
        ("squeezenet1_1", "features.5", False),
    ],
)
def test_the_classic_split_is_compared(name: str, path: str, same: bool) -> None:
    classic = groups_of(name).explain().classic
    assert classic is not None
    assert (classic.paths, classic.same) == ((path,), same)
    assert ("the same parameters" in classic.sentence) == same
    assert same or "after 7 of 25 weight layers" in classic.sentence


def test_a_split_made_as_the_classic_one_is_the_same() -> None:
    classic = groups_of("squeezenet1_1", "classic").explain().classic
    assert isinstance(classic, Classic)
    assert classic.same


def test_a_transformer_has_no_falls() -> None:
    found = groups_of("vit_b_16").explain()
    assert [why.stride for why in found.chosen] == [1, 1]
    assert found.alternatives == ()
    assert found.classic is None
    assert "the resolution stays the same" in str(found)


def test_other_numbers_of_groups() -> None:
    groups = LayerGroups(TinyResNet(), 2, example_input=image(64))
    (only,) = groups.explain().alternatives
    assert only.sentence.startswith("split='auto' begins a group here")
    several = groups_of("vgg16_bn", 4).explain()
    assert [why.group for why in several.chosen] == ["body-2", "body-3", "head"]
    assert 0 < len(several.alternatives) <= 4
    assert all("of the depth" in w.sentence or "parts" in w.sentence for w in several.alternatives)
    each = LayerGroups(TinyResNet(), "layerwise", example_input=image(64)).explain()
    assert len(each.chosen) == 7
    assert each.alternatives == ()


def test_a_rule_by_hand_has_its_implications() -> None:
    groups = LayerGroups(TinyResNet(), ["layer2.0.main.1", "fc"], example_input=image(64))
    found = groups.explain()
    assert found.chosen[0].sentence.endswith("inside the block layer2.0, which is cut in two")
    assert found.chosen[1].sentence == "asked for at fc: the head"
    assert [why.path for why in found.alternatives] == ["layer3.0"]
    assert found.implied is not None
    assert found.implied.startswith("of 16 weight layers in all: stem holds ")
    assert "fc holds <1% of the parameters and 1 layer;" in found.implied
    assert found.implied.endswith("cuts through layer2.0")


def test_patterns_and_functions_are_by_hand_too() -> None:
    patterns = {"ends": "stem|layer3|fc", "inside": "layer[12]"}
    implied = LayerGroups(TinyResNet(), patterns, example_input=image(64)).explain().implied
    assert implied is not None
    assert "no block is cut through; the groups take turns" in implied

    def each(model: nn.Module) -> list[nn.Parameter]:
        return list(model.parameters())

    many = LayerGroups(TinyTransformer(), each, example_input=image()).explain()
    assert "groups of 0 to" in str(many.implied)
    assert "cuts through stem, layers.0" in str(many.implied)


def test_automatic_rules_have_no_implications(vgg: LayerGroups) -> None:
    assert vgg.explain().implied is None


def test_surgery_is_followed() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image(64))
    groups.model.fc = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    assert groups.explain().chosen[-1].path == "fc.0"


def test_the_json_round_trip(vgg: LayerGroups) -> None:
    found = vgg.explain()
    again = json.loads(json.dumps(found.to_dict()))
    assert again == found.to_dict()
    assert again["chosen"][0]["stride"] == 2
    assert again["classic"]["paths"] == ["features.22"]


@pytest.mark.parametrize("split", ["auto", "layerwise", 5, 1, ["features.denseblock3"]])
def test_the_text_is_narrow(split: str | int | list[str]) -> None:
    found = groups_of("densenet121", split).explain()
    assert isinstance(found, Explanation)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("Why DenseNet is split this way")


def test_the_text_shows_boundaries_and_reasons(vgg: LayerGroups) -> None:
    text = str(vgg.explain())
    for words in ("late features.24", "8 of 16", "7 of 13", "56 → 28", "256 → 512", "12%", "61%",
                  "more than two thirds", "features.22"):  # fmt: skip
        assert words in text


def test_html_names_all_groups_and_escapes() -> None:
    patterns = {"a<b": "stem|layer1", "c&d": "layer[23]", "end": "fc"}
    groups = LayerGroups(TinyResNet(), patterns, example_input=image(), network="<script>")
    page = groups._repr_html_()
    for words in ("a&lt;b", "c&amp;d", "end", "&lt;script&gt;"):
        assert words in page
    assert "<script>" not in page
