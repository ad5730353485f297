"""Pictures where they are seen at once: in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def show(draw: Callable[[], Any]) -> bool:
    """Draw and show a picture, if this is the kernel of a notebook; whether it is."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return False
    sys.modules["IPython"].display.display(draw())
    return True
