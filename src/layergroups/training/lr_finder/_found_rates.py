"""The result of `lr_find`: curves, suggestions and rates.

A suggestion (valley, steep, minimum, slide) is a function from the rates of a sweep and the
smoothed losses to a rate, defined as in fastai.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from layergroups._drawing import Figure, save_or_return
from layergroups._formatting import Printable, rate, table
from layergroups.errors import TrainingError
from layergroups.reports import RateCurve, draw_rates


@dataclass(frozen=True)
class FoundRates(Printable):
    """The losses of one sweep of all groups and one of each, and the rates that they suggest.

    It unpacks as in fastai, `steep, valley = learn.lr_find(suggest_funcs=("steep", "valley"))`,
    into the suggestions for all groups together, and they are attributes too: `found.valley`. The
    rate of such a suggestion is that of the group whose rate is highest. A kind of suggestion that
    finds no rate on a curve is left out with its reason (`together.missing`), and unpacks as nan.

    Attributes:
        together: the sweep of all groups that train, the relation of their rates kept.
        groups: the sweep of each of them alone, by its name; empty if not asked for.
        relation: the rate of each of them in `together`, as a part of the highest.
        inactive: groups that were frozen or had rate 0, and so were not tried.
        kinds: the kinds of suggestion that were asked for, in order.
    """

    _columns = 120
    together: RateCurve
    groups: Mapping[str, RateCurve] = field(default_factory=dict)
    relation: Mapping[str, float] = field(default_factory=dict)
    inactive: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def lrs(self) -> tuple[float, ...]:
        """The rates of the sweep of all groups."""
        return self.together.lrs

    @property
    def losses(self) -> tuple[float, ...]:
        """The smoothed losses of the sweep of all groups."""
        return self.together.losses

    # For all groups together; see the functions of these names.
    valley = property(lambda self: _chosen(self.together, "valley"))
    steep = property(lambda self: _chosen(self.together, "steep"))
    minimum = property(lambda self: _chosen(self.together, "minimum"))
    slide = property(lambda self: _chosen(self.together, "slide"))

    @property
    def suggestions(self) -> dict[str, dict[str, float]]:
        """Every suggestion: for "all" and for each group by name, a rate by each kind."""
        return {c.name: dict(c.suggestions) for c in (self.together, *self.groups.values())}

    @property
    def rates(self) -> dict[str, float]:
        """A rate for each group that trains, for `learn.fit_one_cycle(3, lr=found.rates)`.

        By the first kind of suggestion that found a rate; see `rates_by`.
        """
        return self.rates_by(next(iter(self.together.suggestions)))

    def rates_by(self, kind: str) -> dict[str, float]:
        """A rate for each group that trains, by one kind of suggestion.

        The rate of a group's own sweep is divided by the number of groups: to first order, together
        they then change the loss as much as one of them alone. A group without a sweep, or whose
        sweep has no such suggestion, gets its part of the rate for all.

        Raises:
            TrainingError: there is no such suggestion for all groups together.
        """
        together = _chosen(self.together, kind)
        return {
            name: self._alone(name, kind) or together * part for name, part in self.relation.items()
        }

    def _alone(self, name: str, kind: str) -> float:
        curve = self.groups.get(name)
        found = {} if curve is None else curve.suggestions
        return found.get(kind, 0.0) / len(self.relation)

    def figure(self) -> Figure:
        """All curves with their suggestions, as a figure of matplotlib."""
        return draw_rates(self._curves, self._note)

    def plot(self, path: str | Path | None = None) -> Path | Figure:
        """Draw all curves with their suggestions.

        Args:
            path: a file ending with .png, .svg or .pdf; None gives the figure of matplotlib.

        Raises:
            LayerGroupsError: another ending, or the file cannot be written.
        """
        return save_or_return(self.figure(), path)

    @property
    def _curves(self) -> list[RateCurve]:
        """The sweeps that differ; where one group trains, all together are that group."""
        one_trains = len(self.relation) == len(self.groups) == 1
        return [*([] if one_trains else [self.together]), *self.groups.values()]

    @property
    def _note(self) -> str:
        words = "Not tried, because frozen or at rate 0"
        return f"{words}: {', '.join(self.inactive)}" if self.inactive else ""

    @property
    def _reasons(self) -> list[str]:
        curves: dict[str, list[str]] = {}
        for curve in self._curves:
            for reason in curve.missing.values():
                curves.setdefault(reason, []).append(curve.name)
        return [f"For {', '.join(names)}: {reason}." for reason, names in curves.items()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "together": self.together.to_dict(),
            "groups": {name: curve.to_dict() for name, curve in self.groups.items()},
            "relation": dict(self.relation),
            "inactive": list(self.inactive),
            "kinds": list(self.kinds),
            "rates": self.rates,
        }

    def __iter__(self) -> Iterator[float]:
        found = self.together.suggestions
        return iter([found.get(kind, math.nan) for kind in self.kinds or found])

    def __repr__(self) -> str:
        found = [f"{kind}={rate(lr)}" for kind, lr in self.together.suggestions.items()]
        rates = {name: float(rate(lr)) for name, lr in self.rates.items()}
        return f"FoundRates({', '.join([*found, f'rates={rates}'])})"

    def __rich__(self) -> Group:
        listed = ", ".join(f"{name} {rate(lr)}" for name, lr in self.rates.items())
        use = "learn.fit_one_cycle(3, lr=found.rates) takes them."
        notes = [Text(f"rates of all at once: {listed}\n{use}"), *map(Text, self._reasons)]
        if self.inactive:
            words = f"Frozen or at rate 0, and so not tried: {', '.join(self.inactive)}."
            notes.append(Text(f"{words} learn.unfreeze() to try them."))
        return Group(_table(self), *notes)


def _chosen(curve: RateCurve, kind: str) -> float:
    suggestions = curve.suggestions
    if kind in suggestions:
        return suggestions[kind]
    known = f"There is no suggestion {kind!r}; there are {', '.join(suggestions)}."
    if kind in curve.missing:
        raise TrainingError(f"{known} The reason: {curve.missing[kind]}.")
    raise TrainingError(f'{known} Ask for it: learn.lr_find(suggest_funcs=("{kind}",)).')


def _table(found: FoundRates) -> Table:
    """A row for each sweep; 80 columns will do for names of up to a dozen letters."""
    kinds, rows = found.kinds or tuple(found.together.suggestions), []
    for curve in found._curves:
        rates = [rate(curve.suggestions[k]) if k in curve.suggestions else "-" for k in kinds]
        losses = [loss for _, loss in curve.points]
        ends = (f"{losses[0]:.3f}", f"{min(losses):.3f}")
        rows.append((Text(curve.name, "bold"), *rates, *ends, Text(curve.end, "dim")))
    headings = ("trains", *kinds, "loss", "lowest", "ended")
    return table(headings, rows, left=("ended",), padding=(0, 1))


SuggestFunc = Callable[[Sequence[float], Sequence[float]], float]
_SLIDE_WIDTH: Final = 15  # steps
_SLIDE_ROOM: Final = 2 * _SLIDE_WIDTH  # steps in which it can slide at all
_SLIDE_FLAT: Final = 0.005


class NoSuggestionError(TrainingError):
    """A kind of suggestion finds no rate on a curve; the message is the reason."""


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Half way down the longest fall of the loss: the longest falling subsequence."""
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
    two ends, as losses a step, differ by no more than 0.005. Where it never stops there is no
    suggestion; fastai gives the first rate of the sweep.
    """
    n = len(losses)
    if n < _SLIDE_ROOM:
        raise NoSuggestionError(f"slide needs {_SLIDE_ROOM} steps, not {n}: lr_find(num_it=100)")
    slopes = np.gradient(losses)
    low = found = n - 1 - _SLIDE_WIDTH
    while abs(slopes[low + _SLIDE_WIDTH] - slopes[low]) > _SLIDE_FLAT:
        found = low
        low -= 1
        if low < 0:
            raise NoSuggestionError("slide found no interval over which the loss changes evenly")
    return rates[found]


SUGGESTIONS: Final[Mapping[str, SuggestFunc]] = {
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
    "slide": slide,
}


def named(suggest_funcs: object) -> dict[str, SuggestFunc]:
    several = isinstance(suggest_funcs, Sequence) and not isinstance(suggest_funcs, str)
    listed: Sequence[Any] = suggest_funcs if several else [suggest_funcs]  # type: ignore[assignment] # checked one by one
    found: dict[str, SuggestFunc] = {}
    for wanted in listed:
        if isinstance(wanted, str) and wanted in SUGGESTIONS:
            found[wanted] = SUGGESTIONS[wanted]
        elif callable(wanted):
            inner = wanted.func if isinstance(wanted, partial) else wanted
            found[getattr(inner, "__name__", type(inner).__name__)] = wanted
        else:
            raise TrainingError(f"suggest_funcs: {wanted!r} is not a suggestion. Give {_HELP}")
    if not found:
        raise TrainingError(f"suggest_funcs={suggest_funcs!r}: give at least one, such as {_HELP}")
    return found


_HELP: Final = (
    'suggest_funcs=("valley", "steep", "minimum", "slide"), or functions (rates, losses) -> rate.'
)


def _falls(losses: Sequence[float]) -> list[int]:
    """For each loss the length of the longest run of ever lower losses that ends there."""
    tails: list[float] = []  # tails[k]: minus the highest loss at which a run of k + 1 ends
    lengths = []
    for loss in losses:
        place = bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    return lengths
