"""Heads and classifiers, found by what flows where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from tests.anatomy.covered import Answers, anatomy_of, check_laws
from torch import Tensor, nn

from layergroups.anatomy import Flow, find_head, read_anatomy, trace
from layergroups.groups import LayerGroups


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_two_heads_are_both_found(form: str) -> None:
    anatomy = check_laws(Answers(form))
    assert [c.path for c in anatomy.classifiers] == ["kind", "age"]
    assert {n for b in anatomy.head for n in b.parameters} >= {"kind.weight", "age.weight"}


def test_the_logits_of_a_dict_are_the_answer() -> None:
    assert [c.path for c in check_laws(Answers("logits")).classifiers] == ["kind"]


class Aside(nn.Module):
    """Computes something that it may give or not."""

    def __init__(self, given: bool) -> None:
        super().__init__()
        self.given = given
        self.body, self.aside, self.head = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x).relu()
        aside = self.aside(y)
        return {"logits": self.head(y), "aside": aside} if self.given else self.head(y)


def test_parameters_that_lead_to_no_output_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert check_laws(Aside(True), torch.zeros(2, 4)).no_path_to_output == ()
    anatomy = check_laws(Aside(False), torch.zeros(2, 4))
    assert (anatomy.unused, anatomy.no_path_to_output) == ((), ("aside.weight", "aside.bias"))
    LayerGroups(Aside(False), ["head"], example_input=torch.zeros(2, 4))
    assert "get no gradient" in caplog.text


# architecture, path of the classifier, features that come into it, one vector an image?
HEADS = [
    ("resnet18", "fc", 512, True),
    ("vgg16", "classifier.6", 4096, True),
    ("squeezenet1_1", "classifier.1", 512, False),
    ("convnext_tiny", "classifier.2", 768, True),
    ("densenet121", "classifier", 1024, True),
]


@pytest.mark.parametrize(("name", "path", "features", "flat"), HEADS)
def test_head(name: str, path: str, features: int, flat: bool) -> None:
    (classifier,) = anatomy_of(name).classifiers
    assert (classifier.path, classifier.in_features, classifier.takes_vector) == (
        path,
        features,
        flat,
    )
    assert classifier.out_features == 1000


def test_head_reaches_back_over_all_that_works_on_one_vector() -> None:
    assert [b.name for b in anatomy_of("vgg16").head] == [
        "classifier.0",
        "classifier.3",
        "classifier.6",
    ]


def test_headless_network_says_so() -> None:
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    anatomy = read_anatomy(network)
    assert not anatomy.has_head
    assert "several depths" in anatomy.head_reason


def test_the_head_of_a_headless_network_starts_past_its_end() -> None:
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    flow = Flow(trace(network, torch.zeros(2, 3, 64, 64)))
    assert find_head(flow).start > flow.trace.ops[-1].time


def test_a_normalised_map_is_a_feature_and_a_normalised_vector_an_answer() -> None:
    body = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()]
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    encoder = nn.Sequential(*body, nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), *ends)
    classifier = nn.Sequential(*body, *ends, nn.Linear(32, 16), nn.BatchNorm1d(16))
    images = torch.zeros(2, 3, 32, 32)
    assert not read_anatomy(encoder, images).has_head
    assert read_anatomy(classifier, images).has_head


class Tokens(nn.Module):
    """Patches as tokens, which a linear layer makes narrower and a mean joins."""

    def __init__(self, *after: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.project, self.after = nn.Linear(32, 16), nn.Sequential(*after)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.after(self.project(tokens.relu()).mean(1))


def test_averaged_tokens_that_are_normalised_are_features() -> None:
    images = torch.zeros(2, 3, 32, 32)
    norm = nn.LayerNorm(16, elementwise_affine=False)
    assert not read_anatomy(Tokens(norm), images).has_head
    assert read_anatomy(Tokens(), images).has_head
    assert [b.name for b in read_anatomy(Tokens(norm, nn.Linear(16, 4)), images).head] == [
        "after.1"
    ]


def test_mlp_head_is_the_last_layer_only() -> None:
    mlp = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [b.name for b in read_anatomy(mlp, torch.zeros(4, 10)).head] == ["4"]
