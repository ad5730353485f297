"""Learners for the tests of checkpoints."""

from tests.training.conftest import dls, make

__all__ = ["dls", "make"]
