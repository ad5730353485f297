"""Photos for the tests of reports."""

from tests.data.conftest import folder, photo

__all__ = ["folder", "photo"]
