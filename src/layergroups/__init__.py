"""Transfer learning for any PyTorch model, organised by layer groups.

The public names are listed in `__init__.pyi`; each is imported when it is first used, so that
`import layergroups` is quick.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from layergroups._suggestions import FROM_FASTAI, nearest

__version__ = "0.1.0"

_load, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]  # noqa: PLE0604 - strings, read from __init__.pyi


def __getattr__(name: str) -> Any:
    if name not in _names:
        raise AttributeError(
            f"layergroups has no name {name}.{nearest(name, _names)} {FROM_FASTAI}"
        )
    return _load(name)
