from tests.data.conftest import folder, photo
from tests.training.conftest import dls, make

__all__ = ["dls", "folder", "make", "photo"]
