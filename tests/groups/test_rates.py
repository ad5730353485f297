"""From a learning rate argument to base rates."""

from __future__ import annotations

import pytest
from tests.laws.models import TinyResNet, image

from layergroups import LayerGroups, decay
from layergroups.groups import LayerDecay, spread_rates


def test_rates_that_fit() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    groups.set_rates(slice(1e-5, 1e-3))
    assert groups.rates == pytest.approx((1e-5, 1e-4, 1e-3))
    groups.set_rates(slice(1e-3))
    assert groups.rates == pytest.approx((1e-4, 1e-4, 1e-3))
    groups.set_rates({"head": 1.0})
    assert groups.rates == pytest.approx((1e-4, 1e-4, 1.0))
    groups.set_rates(decay(1e-2, 0.5))
    assert groups.rates == pytest.approx((0.0025, 0.005, 0.01))
    assert groups["late"].lr == pytest.approx(0.005)


def test_a_decay_is_data() -> None:
    assert decay(1e-3) == LayerDecay(1e-3, 0.75)
    assert spread_rates(decay(1.0, 0.5), ("a", "b", "c")) == (0.25, 0.5, 1.0)
