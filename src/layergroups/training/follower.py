"""Before each step of a fit: has somebody changed the model or what is frozen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layergroups.training.learner import Learner


class Follower:
    """Sees before each step whether the model or the freezing changed, and brings all in step.

    It counts the changes that the groups have seen, for a callback that looks at the groups after
    surgery has then synced them already, but new parts must still be placed.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._look()

    def follow(self) -> bool:
        """Whether there was surgery; if so it has been followed."""
        learner, groups = self._learner, self._learner.groups
        groups.sync(names=False)
        surgery = learner.model is not self._model or len(groups.changes) != self._changes
        if surgery:
            learner.placed_model()
            groups.sync()
        if surgery or (groups.frozen, groups.rates) != self._standing:
            learner.norms.train(learner.model)
            self._look()
        groups.looked()
        return surgery

    def _look(self) -> None:
        groups = self._learner.groups
        self._model, self._changes = self._learner.model, len(groups.changes)
        self._standing = (groups.frozen, groups.rates)
