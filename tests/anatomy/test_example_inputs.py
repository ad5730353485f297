"""Inputs of other models: several, given, or guessed."""

from __future__ import annotations

import pytest
import torch
from tests.anatomy.covered import check_laws
from torch import Tensor, nn

from layergroups.anatomy import read_anatomy
from layergroups.errors import AnatomyError, ExampleInputError


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.facts = nn.Linear(5, 8)
        self.mix = nn.Linear(16, 8)
        self.classifier = nn.Linear(8, 4)

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        both = torch.cat([self.image(image).flatten(1), self.facts(facts)], dim=1)
        return self.classifier(self.mix(both).relu())


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_are_a_tuple_or_a_dict(as_dict: bool) -> None:
    image, facts = torch.zeros(2, 3, 16, 16), torch.zeros(2, 5)
    example = {"image": image, "facts": facts} if as_dict else (image, facts)
    anatomy = check_laws(TwoInputs(), example)
    assert [c.path for c in anatomy.classifiers] == ["classifier"]


def test_an_input_that_cannot_be_guessed_is_asked_for() -> None:
    with pytest.raises(ExampleInputError, match="example_input="):
        read_anatomy(TwoInputs())


def test_example_input_is_asked_for_where_none_fits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, 3))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ self.w + b

    with pytest.raises(ExampleInputError, match="example_input="):
        read_anatomy(Odd())
    assert read_anatomy(Odd(), (torch.zeros(2, 3), torch.zeros(2, 3))).blocks[0].parameters == (
        "w",
    )


def test_wrong_example_input_names_the_cause() -> None:
    with pytest.raises(AnatomyError, match=r"of shape \(2, 5\)"):
        read_anatomy(nn.Linear(3, 2), torch.zeros(2, 5))
