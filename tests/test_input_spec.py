"""The statistics and channels that a network expects."""

from __future__ import annotations

import pytest

from layergroups.input_spec import InputSpec

SPEC = InputSpec(mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.4), source="some weights")


def test_statistics_follow_the_channels() -> None:
    grey = SPEC.for_channels(1)
    assert grey.mean == pytest.approx((0.4,))
    assert grey.std == pytest.approx((0.3,))
    assert grey.source == "some weights, mean of 3 channels"
    five = SPEC.for_channels(5)
    assert five.mean == (0.1, 0.4, 0.7, 0.1, 0.4)
    assert five.channels == 5
    assert SPEC.for_channels(3) is SPEC
