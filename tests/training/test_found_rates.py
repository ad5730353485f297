"""Suggestions on curves, and how they are shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.finding import NAMES, QUICK

from layergroups.errors import TrainingError
from layergroups.training import Learner
from layergroups.training.lr_finder._found_rates import (
    NoSuggestionError,
    minimum,
    slide,
    steep,
    valley,
)
from layergroups.training.state._progress import show

Make = Callable[..., Learner]


def test_it_unpacks_as_in_fastai_and_has_what_was_asked_for(make: Make) -> None:
    def mine(rates: Any, losses: Any, factor: float = 1.0) -> float:
        return float(rates[0]) * factor

    learn = make()
    asked = {"by_group": False, "suggest_funcs": ("steep", minimum, partial(mine, factor=2.0))}
    steepest, low, own = found = learn.lr_find(**QUICK, **asked)
    assert found.suggestions == {"all": {"steep": steepest, "minimum": low, "mine": own}}
    assert (found.steep, found.minimum) == (steepest, low)
    assert own == 2 * found.lrs[2]
    assert found.rates == dict.fromkeys(NAMES, steepest)
    with pytest.raises(TrainingError, match=r"no suggestion 'valley'; there are steep, minimum"):
        _ = found.valley


def test_it_prints_and_draws(make: Make, tmp_path: Path) -> None:
    learn = make()
    found = learn.lr_find(**QUICK)
    lines = str(found).splitlines()
    rows = [line.split()[0] for line in lines if line.strip()]
    assert rows[:1] == ["trains"]
    assert [row for row in rows if row in ("all", *NAMES)] == ["all", *NAMES]
    assert "learn.fit_one_cycle(3, lr=found.rates)" in str(found)
    assert all(len(line) <= 100 for line in lines)
    assert re.fullmatch(r"FoundRates\(valley=.*, minimum=.*, rates=\{.*\}\)", repr(found))
    assert found.to_dict()["groups"]["1"]["lrs"] == found.groups["1"].lrs
    assert found.plot(tmp_path / "rates.png").stat().st_size > 10_000
    figure: Any = found.plot()
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert len(curves) == 4
    assert list(curves[-1].get_ydata()) == list(found.losses[2:])  # without the first tenth


def test_one_group_that_trains_has_one_curve(make: Make) -> None:
    learn = make()
    learn.freeze("0.0", "0.7")
    found = learn.lr_find(**QUICK)
    assert found.groups["1"].raw == found.together.raw
    figure: Any = found.plot()
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    names = [text.get_text().split(",")[0] for text in figure.legends[0].get_texts()]
    assert len(curves) == 1
    assert (names[0], "all" in names) == ("1", False)
    assert [line.split()[0] for line in str(found).splitlines() if "at " in line][:1] == ["1"]
    assert found.suggestions["all"] == found.suggestions["1"]


def test_a_kind_of_suggestion_that_finds_no_rate_is_left_out_with_the_reason(make: Make) -> None:
    learn = make()
    found = learn.lr_find(**QUICK, suggest_funcs=("slide", "valley"), by_group=["1"])
    assert list(found.suggestions["all"]) == ["valley"]
    assert "slide needs 30 steps, not " in found.together.missing["slide"]
    none, some = found
    assert (math.isnan(none), some) == (True, found.valley)
    assert found.rates == found.rates_by("valley")
    for kind in (lambda: found.slide, lambda: found.rates_by("slide")):
        with pytest.raises(TrainingError, match=r"no suggestion 'slide'; .*The reason: slide need"):
            kind()
    assert "slide needs 30 steps" in str(found)
    marks: Any = found.plot().legends[0].get_texts()
    assert [text.get_text() for text in marks][-1] == "valley"
    with pytest.raises(TrainingError, match=r"slide needs 30 steps.*suggest_funcs=\"valley\""):
        learn.lr_find(**QUICK, suggest_funcs="slide")


def test_a_picture_is_shown_in_a_notebook_only(make: Make) -> None:
    found = make().lr_find(**QUICK, by_group=False)
    assert not show(found.figure)


RATES = [10 ** (-6 + i / 10) for i in range(60)]


def bowl() -> list[float]:
    """Even up to 10, down by even steps, steeper from 30, to the bottom at 45, then up."""
    losses = [2.0] * 10
    while len(losses) < 60:
        step = -0.01 if len(losses) <= 30 else -0.03 if len(losses) <= 45 else 0.2
        losses.append(losses[-1] + step)
    return losses


def test_suggestions_on_a_curve_whose_answers_are_known() -> None:
    losses = bowl()
    assert losses.index(min(losses)) == 45
    assert minimum(RATES, losses) == pytest.approx(RATES[45] / 10)
    assert RATES[30] <= steep(RATES, losses) < RATES[45]
    assert valley(RATES, losses) == RATES[45 - 37 + 12 + 6]  # the fall is 37 losses long
    assert slide(RATES, losses) == RATES[30 - 15]  # from where slopes are even up to the turn


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.floats(0.1, 10), min_size=4, max_size=60))
def test_a_suggestion_is_a_rate_of_the_sweep_whatever_the_losses(losses: list[float]) -> None:
    rates = RATES[: len(losses)]
    for suggest in (valley, steep):
        assert suggest(rates, losses) in rates
    with suppress(NoSuggestionError):
        assert slide(rates, losses) in rates[: len(losses) - 15]
    assert minimum(rates, losses) * 10 == pytest.approx(rates[losses.index(min(losses))])


def test_a_slide_needs_room_and_an_even_stretch() -> None:
    with pytest.raises(NoSuggestionError, match="needs 30 steps, not 29"):
        slide(RATES[:29], bowl()[:29])
    steeper_and_steeper = [10.0 - 0.01 * i**2 for i in range(40)]  # slopes differ everywhere
    with pytest.raises(NoSuggestionError, match="changes evenly"):
        slide(RATES[:40], steeper_and_steeper)


def test_a_valley_is_the_longest_fall_though_others_are_deeper() -> None:
    losses = [5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3, 9.0, 8.9, 1.0, 9.0]
    assert valley(RATES[:12], losses) == RATES[10 - 9 + 3 + 1]
