"""Photos and learners for the tests of reports."""

from tests.data.conftest import folder, photo
from tests.training.conftest import dls, learn, make

__all__ = ["dls", "folder", "learn", "make", "photo"]
