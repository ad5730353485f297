"""The picture of a schedule."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("split", "lr"), [(1, 1e-3), ("layerwise", slice(1e-6, 1e-3)), (2, [0, 0])]
)
def test_any_groups_and_rates_are_drawn(make, split: Any, lr: Any) -> None:
    learn = make(split=split)
    for fit in ("fit", "fine_tune", "thaw"):
        assert learn.plot_schedule(fit, 2, lr=lr)._repr_png_()
