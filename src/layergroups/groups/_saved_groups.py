"""Compares saved layer groups with those of a model, and reads their rates and freezing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layergroups._formatting import first_few
from layergroups.errors import GroupingError
from layergroups.groups._rates import spread_rates


@dataclass(frozen=True)
class GroupDifference:
    rules: tuple[str, str]  # the saved rule and the model's
    # groups that the model does not have; their freezing and rates are lost
    only_saved: tuple[str, ...]
    only_here: tuple[str, ...]  # groups that were not saved
    # name, saved group and group here of each parameter whose group differs
    moved: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        lines = [f"Saved rule {self.rules[0]!r}, here {self.rules[1]!r}."]
        if self.only_saved:
            lines.append(f"  only in the file: {', '.join(self.only_saved)}")
        if self.only_here:
            only = ", ".join(self.only_here)
            lines.append(f"  only here, with rates and freezing by their parameters: {only}")
        for was, now in dict.fromkeys((was, now) for _, was, now in self.moved):
            names = [n for n, a, b in self.moved if (a, b) == (was, now)]
            lines.append(
                f"  {len(names)} parameters of {was!r} are in {now!r}: {first_few(names, 3)}"
            )
        return "\n".join(lines)


def check_state(saved: object, *keys: str) -> None:
    """Raise a `GroupingError` unless saved layer groups are a dict with these keys."""
    missing = [key for key in keys if not isinstance(saved, Mapping) or key not in saved]
    if missing:
        raise GroupingError(
            f"the saved layer groups lack {missing}; give what groups.state_dict() returned"
        )


def compare_groups(saved: Mapping[str, Any], here: Mapping[str, Any]) -> GroupDifference | None:
    """Compare two `LayerGroups.state_dict()`; None if groups and members are the same."""
    check_state(saved, "names", "members", "rule")
    was, now = (
        {name: group for group, names in state["members"].items() for name in names}
        for state in (saved, here)
    )
    moved = tuple((n, was[n], now[n]) for n in now if n in was and was[n] != now[n])
    if list(saved["names"]) == list(here["names"]) and not moved:
        return None
    return GroupDifference(
        rules=(str(saved["rule"]), str(here["rule"])),
        only_saved=tuple(n for n in saved["names"] if n not in here["names"]),
        only_here=tuple(n for n in here["names"] if n not in saved["names"]),
        moved=moved,
    )


def taken_over(
    saved: Mapping[str, Any],
    names: Sequence[str],
    rates: Sequence[float],
    members: Mapping[str, Sequence[str]] | None = None,
    *,
    strict: bool,
) -> tuple[tuple[float, ...], dict[int, bool]]:
    """The rates of all groups, and frozen flags by index, from saved groups of the same names.

    A group that was not saved has those of the saved group of most of its `members`, so that no
    rate is of another time than the rest; without members `rates` stay. `strict` refuses it.
    """
    check_state(saved, "names", "rates", "frozen")
    known = {name: i for i, name in enumerate(saved["names"])}
    if strict and list(known) != list(names):
        raise GroupingError(f"the saved layer groups are {list(known)}, these are {list(names)}")
    at = {i: known[name] for i, name in enumerate(names) if name in known}
    owners = {n: known.get(name) for name, own in saved.get("members", {}).items() for n in own}
    for i, name in enumerate(names):
        found = Counter(owners.get(n) for n in (members or {}).get(name, ()))
        owner = next((k for k, _ in found.most_common() if k is not None), None)
        if i not in at and owner is not None:
            at[i] = owner
    if not len(known) == len(saved["rates"]) == len(saved["frozen"]):
        raise GroupingError(
            f"the saved layer groups have {len(known)} names, {len(saved['rates'])} rates and "
            f"{len(saved['frozen'])} frozen flags; give what groups.state_dict() returned"
        )
    lists = [saved.get("reasons") or [], saved.get("freed", [])]
    if not all(isinstance(each, list | tuple) for each in lists) or (
        len(lists[0]) not in (0, len(known))
    ):
        raise GroupingError(
            f"the saved reasons are {saved.get('reasons')!r} and the freed parameters "
            f"{saved.get('freed')!r}; give what groups.state_dict() returned"
        )
    if saved.get("norm", "freeze") not in ("freeze", "train"):
        raise GroupingError(f'the saved norm={saved["norm"]!r} is neither "freeze" nor "train"')
    new = [saved["rates"][at[i]] if i in at else r for i, r in enumerate(rates)]
    return spread_rates(new, names, rates), {i: bool(saved["frozen"][j]) for i, j in at.items()}
