"""Fits that fail at a step."""

import pytest

from layergroups.errors import TrainingError


class Crash:
    """Ends the program, as it were, before a step."""

    def __init__(self, step: int, error: type[BaseException] = RuntimeError) -> None:
        self.step, self.error = step, error

    def before_step(self, run) -> None:
        if run.step == self.step:
            raise self.error


def crash(learn, step: int, *args, error=RuntimeError, **options) -> None:
    learn.callbacks.insert(0, Crash(step, error))
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else TrainingError):
        learn.fit(*args, **options)
    learn.callbacks.pop(0)
