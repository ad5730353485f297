"""Parameters that stay fixed whatever the groups say, because somebody else has fixed them.

A model's author fixes sine position embeddings; peft fixes all that is not an adapter. Both say so
by `requires_grad=False`, and to thaw such a parameter together with its group would undo what
was meant. A parameter is free again when a hand sets `requires_grad_(True)` on it, or when the
adapters for whose sake it was fixed are gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from layergroups.groups.standing import Standing


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

    def succeeded_by(self, new: dict[nn.Parameter, nn.Parameter]) -> Hold:
        """The same with heirs (old parameter -> new) in the place of converted parameters."""
        return replace(
            self,
            parameters=frozenset(new.get(p, p) for p in self.parameters),
            before=tuple((new.get(p, p), name) for p, name in self.before),
            guests=frozenset(new.get(p, p) for p in self.guests),
        )


def fixed_by_hand(
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
