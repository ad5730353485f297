import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergroups.errors import TrainingError
from layergroups.training import Flat, FlatCos, OneCycle

parts = st.floats(0, 1)


def test_one_cycle_starts_peaks_and_ends_where_it_says() -> None:
    cycle = OneCycle(div=25, div_final=1e5, pct_start=0.25, moms=(0.95, 0.85, 0.9))
    assert cycle.multiplier(0) == 1 / 25
    assert cycle.multiplier(0.25) == 1
    assert cycle.multiplier(1) == 1e-5
    assert cycle.multiplier(0.125) == pytest.approx((1 / 25 + 1) / 2)
    assert [cycle.momentum(t) for t in (0, 0.25, 1)] == [0.95, 0.85, 0.9]


@given(parts, st.floats(0, 1), st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_multiplier_of_one_cycle_never_exceeds_the_base_rate(t, pct_start, div, final) -> None:
    cycle = OneCycle(div, final, pct_start)
    assert 0 < cycle.multiplier(t) <= 1
    assert 0.85 <= cycle.momentum(t) <= 0.95


@given(parts)
def test_flat_is_flat(t) -> None:
    assert Flat().multiplier(t) == 1
    assert Flat().momentum(t) is None


def test_flat_cos_is_flat_then_falls() -> None:
    schedule = FlatCos(pct_start=0.75, div_final=100)
    values = [schedule.multiplier(t / 100) for t in range(101)]
    assert values[:76] == [1] * 76
    assert values[75:] == sorted(values[75:], reverse=True)
    assert math.isclose(values[-1], 0.01)
    assert FlatCos(pct_start=1).multiplier(1) == 1


def test_schedules_are_values() -> None:
    assert OneCycle(div=5) == OneCycle(div=5) != OneCycle()


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneCycle(div=0),
        lambda: OneCycle(pct_start=30),
        lambda: OneCycle(moms=(0.9, 0.8)),
        lambda: OneCycle(moms=(0.9, 0.8, 1.0)),
        lambda: FlatCos(pct_start=-1),
        lambda: FlatCos(div_final=0),
    ],
)
def test_figures_out_of_range_are_refused_with_a_right_one(make) -> None:
    with pytest.raises(TrainingError, match=r"0\.\.1|such as"):
        make()
