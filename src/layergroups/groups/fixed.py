"""Parameters that stay fixed whatever the groups say, because somebody else has fixed them.

A model's author fixes sine position embeddings; peft fixes all that is not an adapter. Both say so
by `requires_grad=False`, and to thaw such a parameter together with its group would undo what
was meant. A parameter is free again when a hand sets `requires_grad_(True)` on it, or when the
adapters for whose sake it was fixed are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import nn

from layergroups.groups.freezing import thaw_what_others_froze
from layergroups.groups.partition import some
from layergroups.groups.standing import Standing, has_adapters

log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class Hold:
    """Parameters that were fixed at one surgery.

    Attributes:
        parameters: those that stood before.
        before: names that those of them had which the surgery gave other names, as wrapping does.
        guests: parameters that came with it, and train.
    """

    parameters: frozenset[nn.Parameter]
    before: tuple[tuple[nn.Parameter, str], ...]
    guests: frozenset[nn.Parameter]

    def over(self, now: Standing) -> bool:
        """Whether the model is as it was: nothing is wrapped any more, or no guest is left."""
        if self.before:
            return all(now.first(p) == name for p, name in self.before if p in now.names)
        return not any(p in now.names for p in self.guests)

    def succeeded_by(self, new: Mapping[nn.Parameter, nn.Parameter]) -> Hold:
        """The same with heirs (old parameter -> new) in the place of converted parameters."""
        return replace(
            self,
            parameters=frozenset(new.get(p, p) for p in self.parameters),
            before=tuple((new.get(p, p), name) for p, name in self.before),
            guests=frozenset(new.get(p, p) for p in self.guests),
        )


@dataclass(frozen=True)
class Fixed:
    """All parameters of a model that stay fixed whatever its groups say.

    Attributes:
        parameters: these.
        holds: for whose sake some of them are fixed, and how long.
    """

    parameters: frozenset[nn.Parameter] = frozenset()
    holds: tuple[Hold, ...] = ()

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.parameters

    def still(self) -> Fixed:
        """The same without those that a hand has freed since."""
        return replace(
            self, parameters=frozenset(p for p in self.parameters if not p.requires_grad)
        )

    def exchanged(self, old: Standing, now: Standing) -> Fixed:
        """The same for parameters that stand in their place now, under the same names."""
        names = {old.first(p) for p in self.parameters}
        return replace(self, parameters=frozenset(p for p in now.names if now.first(p) in names))

    def after(
        self,
        old: Standing,
        now: Standing,
        heirs: Mapping[nn.Parameter, nn.Parameter],
        moved: Collection[nn.Parameter],
    ) -> tuple[Fixed, Collection[nn.Parameter], Collection[nn.Parameter]]:
        """What is fixed after surgery.

        Args:
            old: the model before, heirs in the place of what they are conversions of.
            now: the model after.
            heirs: those conversions: new parameter -> old one.
            moved: parameters of the model before that their groups let train.

        Returns:
            All that is fixed, what a hand has fixed since, and what was fixed and is free again.
        """
        new = {parameter: heir for heir, parameter in heirs.items()}
        before = {new.get(p, p) for p in self.parameters} & set(now.names)
        holds = [hold.succeeded_by(new) for hold in self.holds]
        over = [hold for hold in holds if hold.over(now)]
        loose = frozenset[nn.Parameter]().union(*(hold.parameters for hold in over))
        free = {p for p in before if p.requires_grad or p in loose}
        fixed, hold = _fixed_by_hand(old, now, {p for p in moved if p not in before})
        kept = (*(h for h in holds if h not in over), *([] if hold is None else [hold]))
        return Fixed(frozenset((before - free) | fixed), kept), fixed, free


def _fixed_by_hand(
    old: Standing, now: Standing, trained: Collection[nn.Parameter]
) -> tuple[set[nn.Parameter], Hold | None]:
    """Which parameters somebody else has fixed since they were last looked at.

    Survivors of groups that train show it by themselves. Those of frozen groups do not, so they
    count as fixed too where adapters of peft came, or where parameters came that train and no
    survivor does any more.

    Args:
        old: the model before.
        now: the model after.
        trained: the survivors that trained before.

    Returns:
        The parameters, newcomers among them, and the hold on those that survive.
    """
    came = [p for p in now.names if p not in old.names and p.is_floating_point()]
    stood = [p for p in now.names if p in old.names and p.is_floating_point()]
    arrived = {p for p in came if not p.requires_grad}
    guests = frozenset(came) - arrived
    fixed = {p for p in stood if p in trained and not p.requires_grad}
    nothing_trains = bool(stood) and not any(p.requires_grad for p in stood)
    if guests and ((now.adapted and not old.adapted) or (nothing_trains and (fixed or arrived))):
        fixed = {p for p in stood if not p.requires_grad}
    if not fixed:
        return arrived, None
    moved = tuple((p, old.first(p)) for p in fixed if old.first(p) != now.first(p))
    return fixed | arrived, Hold(frozenset(fixed), moved, guests)


def find_fixed(model: nn.Module) -> Fixed:
    """Parameters that the model's author fixed, such as sine position embeddings.

    A model that comes mostly frozen was frozen by hand: there nothing counts as fixed. Nor does
    what other layer groups of this model, or of the one that it is a copy of, had frozen. In both
    cases no parameter is frozen afterwards, and one line says so. In a model with adapters of peft
    all other parameters are fixed on purpose, and stay so.
    """
    if thaw_what_others_froze(model):
        log.warning("the model was frozen by other layer groups; now these say what trains: all do")
    named = list(model.named_parameters())
    fixed = [(n, p) for n, p in named if not p.requires_grad]
    if has_adapters(model):
        log.warning("the model has adapters: %d other parameters are fixed and stay so", len(fixed))
    elif len(fixed) * 2 > len(named):
        log.warning("the model came frozen; its layer groups now say what trains: none is frozen")
        for _, p in fixed:
            p.requires_grad_(p.is_floating_point() or p.is_complex())
        return Fixed()
    elif fixed:
        log.warning("fixed by the model's author, never trained: %s", some(n for n, _ in fixed))
    return Fixed(frozenset(p for _, p in fixed))
