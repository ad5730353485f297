"""From the losses of a rate sweep to one rate: valley, steep, minimum, slide.

Each takes the rates of a sweep, rising in equal ratios, and the smoothed loss at each, and gives a
rate. The four definitions are fastai's, by which its users read such curves; the sweep itself is
Smith 2017, «Cyclical Learning Rates for Training Neural Networks».
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

from layergroups.errors import TrainingError

SuggestFunc = Callable[[Sequence[float], Sequence[float]], float]

_SLIDE_WIDTH: Final = 15  # steps
_SLIDE_ROOM: Final = 2 * _SLIDE_WIDTH  # steps in which it can slide at all
_SLIDE_FLAT: Final = 0.005


class NoSuggestionError(TrainingError):
    """A curve on which a kind of suggestion finds no rate; the message is the reason."""


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Half way down the longest fall of the loss.

    The fall is the longest run of ever lower losses, not all of them neighbours; with its length
    counted back from its end, the rate is in the middle.
    """
    lengths = _falls(losses)
    end = lengths.index(max(lengths))
    length = lengths[end]
    return rates[max(0, end - length + int(length / 3) + int(length / 6))]


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where the loss falls fastest, over the logarithm of the rate."""
    points = [(math.log(rate), loss) for rate, loss in zip(rates, losses, strict=True)]
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(points)]
    return rates[slopes.index(min(slopes))]


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate where the loss is lowest."""
    return rates[losses.index(min(losses))] / 10


def slide(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The lower end of an interval that slides down the rates until the loss is even over it.

    The interval is 15 steps wide and begins at the highest rate; it stops where the slopes at its
    two ends, as losses a step, differ by no more than 0.005. Where it never stops, fastai gives the
    first rate of the sweep, which says nothing of the curve; here there is no suggestion then.

    Raises:
        NoSuggestionError: there are fewer than 30 losses, or the interval never stops.
    """
    n = len(losses)
    if n < _SLIDE_ROOM:
        raise NoSuggestionError(
            f"slide needs {_SLIDE_ROOM} steps to look at, not {n}: lr_find(num_it=100)"
        )
    slopes = _slopes(losses)
    low = found = n - 1 - _SLIDE_WIDTH
    while abs(slopes[low + _SLIDE_WIDTH] - slopes[low]) > _SLIDE_FLAT:
        found = low
        low -= 1
        if low < 0:
            raise NoSuggestionError("slide met no stretch over which the loss changes evenly")
    return rates[found]


SUGGESTIONS: Final[Mapping[str, SuggestFunc]] = {
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
    "slide": slide,
}


def named(suggest_funcs: object) -> dict[str, SuggestFunc]:
    """Suggestions by name, from a name, a function, or several of them.

    Raises:
        TrainingError: one is neither, or there are none.
    """
    several = isinstance(suggest_funcs, Sequence) and not isinstance(suggest_funcs, str)
    listed: Sequence[Any] = suggest_funcs if several else [suggest_funcs]  # type: ignore[assignment] # checked one by one
    found = dict(map(_named, listed))
    if not found:
        raise TrainingError(f"suggest_funcs={suggest_funcs!r}: give at least one, such as {_HELP}")
    return found


_HELP: Final = (
    'suggest_funcs=("valley", "steep", "minimum", "slide"), or functions (rates, losses) -> rate.'
)


def _named(wanted: Any) -> tuple[str, SuggestFunc]:
    if isinstance(wanted, str) and wanted in SUGGESTIONS:
        return wanted, SUGGESTIONS[wanted]
    if callable(wanted):
        inner = wanted.func if isinstance(wanted, partial) else wanted
        return getattr(inner, "__name__", type(inner).__name__), wanted
    raise TrainingError(f"suggest_funcs: {wanted!r} is no suggestion. Give {_HELP}")


def _falls(losses: Sequence[float]) -> list[int]:
    """For each loss the length of the longest run of ever lower losses that ends there."""
    tails: list[float] = []  # tails[k]: minus the highest loss at which a run of k + 1 ends
    lengths = []
    for loss in losses:
        place = bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    return lengths


def _slopes(losses: Sequence[float]) -> list[float]:
    """Of each step: half the difference of its neighbours, at the ends the difference itself."""
    last = len(losses) - 1
    return [
        (losses[min(i + 1, last)] - losses[max(i - 1, 0)]) / (min(i + 1, last) - max(i - 1, 0))
        for i in range(len(losses))
    ]
