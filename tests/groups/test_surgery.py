"""Snapshots of a model: changes and conversions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.laws.models import TinyResNet, image
from tests.laws.surgeries import SURGERIES
from torch import nn

from layergroups.groups._surgery import ChangeDetector, conversions, take_snapshot

FORMS: dict[str, Callable[[nn.Module], object]] = {
    "half": lambda m: m.half(),
    "one parameter": lambda m: setattr(m.fc.bias, "data", m.fc.bias.data.double()),
    "half and bfloat16": lambda m: m.half().bfloat16(),
    "meta": lambda m: m.to("meta"),
    "shorter": lambda m: setattr(m.fc.bias, "data", m.fc.bias.data[:2]),
    "another view": lambda m: setattr(m.fc.weight, "data", m.fc.weight.data.t()),
}


@pytest.mark.parametrize("change", [*SURGERIES, *FORMS.values()])
def test_every_change_is_found(change: Callable[[TinyResNet], object]) -> None:
    model = TinyResNet()
    detector = ChangeDetector(model)
    assert not detector.changed()
    change(model)
    assert detector.changed()


def test_values_modes_and_hooks_are_not_changes() -> None:
    model = TinyResNet()
    detector = ChangeDetector(model)
    model.eval()
    model.requires_grad_(False)
    model(image())
    model.fc.weight.data.mul_(2)
    model.load_state_dict(TinyResNet().state_dict())
    model.to(memory_format=torch.channels_last)
    model.zero_grad()
    model.register_forward_hook(lambda *_: None)
    assert not detector.changed()
    assert not detector.changed()


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_a_conversion_is_one_whatever_its_values_are(value: float) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = value
    before, old = take_snapshot(model), (model.weight, model.bias)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert model.weight is not old[0]
    found = conversions(before, take_snapshot(model))
    assert found == {model.weight: old[0], model.bias: old[1]}
    model.bias = nn.Parameter(torch.randn(2, dtype=torch.float64))
    assert conversions(before, take_snapshot(model)) == {model.weight: old[0]}
