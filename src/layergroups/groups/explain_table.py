"""An explanation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layergroups.plain_text import plain_text

if TYPE_CHECKING:
    from layergroups.groups.explain import Explanation, Why

_WORDS = 92  # columns of a sentence where there is room
_FIGURES = ("block", "layers", "pixels", "channels", "params", "FLOPs")


def explanation_report(explanation: Explanation, *, reasons: bool = True) -> Group:
    """The places that were chosen, then the runners-up, each with its sentence.

    Args:
        explanation: what to show.
        reasons: False to leave out the sentences of the places that were chosen.
    """
    title = f"Why {explanation.network} is divided so (rule: {explanation.rule})"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if explanation.chosen:
        parts.append(_facts(explanation.chosen, runners_up=False))
        parts += [_sentences(explanation.chosen), ""] if reasons else []
    else:
        parts += ["", "All is one group.", ""]
    if explanation.runners_up:
        parts += [_facts(explanation.runners_up, runners_up=True)]
        parts += [_sentences(explanation.runners_up), ""]
    else:
        parts += ["There are no runners-up.", ""]
    if explanation.classic:
        parts.append(_line("classic", explanation.classic.sentence))
    if explanation.implied:
        parts.append(_line("implied", explanation.implied))
    return Group(*parts)


def explanation_text(explanation: Explanation) -> str:
    """The report as plain text."""
    return plain_text(explanation_report(explanation))


def percent(share: float) -> str:
    """A share of 0..1 in words; little is not nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _facts(places: Sequence[Why], *, runners_up: bool) -> Table:
    """A row for each place; layers, parameters and FLOPs are those of the body before it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("not at" if runners_up else "group at", overflow="fold")
    for heading in _FIGURES:
        table.add_column(heading, justify="right", no_wrap=True)
    for why in places:
        table.add_row(_place(why), *_figures(why))
    return table


def _figures(why: Why) -> tuple[str, ...]:
    return (
        f"{why.block + 1} of {why.blocks}",
        f"{why.depth_before} of {why.depth}",
        _change(why.side_before, why.side_after),
        _change(why.channels_before, why.channels_after),
        percent(why.parameters),
        percent(why.flops),
    )


def _place(why: Why) -> Text:
    if why.group is None or why.group == why.path:
        return Text(why.path)
    return Text.assemble((why.group, "bold"), f" {why.path}")


def _change(before: int, after: int) -> str:
    if not before and not after:
        return "-"
    return str(before) if before == after else f"{before or '-'} → {after or '-'}"


def _sentences(places: Sequence[Why]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(max_width=_WORDS - max(len(why.group or why.path) for why in places))
    for why in places:
        table.add_row(Text(f"{why.group or why.path}:"), Text(why.sentence))
    return table


def _line(word: str, sentence: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(max_width=_WORDS - len(word))
    table.add_row(Text(f"{word}:"), Text(sentence))
    return table
