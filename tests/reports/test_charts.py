"""Axes of the charts on the page."""

from __future__ import annotations

from layergroups.reports.page._charts import linear_axis, rate_axis


def test_axes_have_round_numbers_around_their_values() -> None:
    axis = linear_axis([0.13, 0.87])
    assert [label for _, label in axis.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert linear_axis([2.0, 2.0]).low < 2 < linear_axis([2.0, 2.0]).high
    assert linear_axis([float("nan")]).high > linear_axis([]).low
    rates = rate_axis([1e-5, 3e-3])
    assert rates.log
    assert [label for _, label in rates.ticks] == ["1e-5", "1e-4", "1e-3", "1e-2"]
    assert rates.place(1e-5) == 0
    assert not rate_axis([1e-3, 2e-3]).log
