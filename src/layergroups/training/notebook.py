"""Pictures where they are seen at once: in a notebook."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(draw: Callable[[], Figure]) -> bool:
    """Draw and show a picture, if this is the kernel of a notebook; whether it is."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return False
    display: Any = importlib.import_module("IPython.display")
    data = io.BytesIO()
    draw().savefig(data, format="png", dpi=110)
    display.display(display.Image(data=data.getvalue()))
    return True
