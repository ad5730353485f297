"""Names of architectures: what they stand for, which there are, and which are near a wrong one."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from layergroups.errors import UnknownArchitectureError

_LIBRARIES = ("torchvision", "timm")
_EXAMPLE = 'load_model("torchvision:resnet18")'

_log = logging.getLogger("layergroups")


def list_models(pattern: str = "*") -> list[str]:
    """Names of the image classification models of torchvision and timm.

    Args:
        pattern: a shell pattern ("*resnet*"), matched against the full and the plain name.

    Returns:
        Names as `load_model` takes them, torchvision's first, such as "torchvision:resnet18".
        timm's names stand without the tags of their weights.

    Raises:
        UnknownArchitectureError: the pattern is no text.
    """
    if not isinstance(pattern, str):
        raise UnknownArchitectureError(
            f"pattern={pattern!r} must be a text, in which * stands for any letters: "
            'list_models("*resnet*").'
        )
    return [
        f"{library}:{name}"
        for library in _LIBRARIES
        for name in _names(library)
        if fnmatchcase(f"{library}:{name}", pattern) or fnmatchcase(name, pattern)
    ]


def _names(library: str) -> list[str]:
    if library == "torchvision":
        from torchvision import models

        return list(models.list_models(module=models))
    import timm

    return list(timm.list_models())


def resolve(arch: object) -> tuple[str, str]:
    """The library and the plain name that a name or a model function stands for."""
    if callable(arch):
        return _resolve_function(arch)
    if not isinstance(arch, str):
        raise UnknownArchitectureError(
            f"An architecture is a name, a model function of torchvision or timm, or an nn.Module, "
            f"not {type(arch).__name__}: {_EXAMPLE}."
        )
    prefix, colon, plain = arch.partition(":")
    if not colon:
        prefix, plain = "", arch
    elif prefix == "module":
        raise UnknownArchitectureError(
            f"{arch!r} stands for a module of one's own, which cannot be made from its name. Make "
            "the module and give that instead."
        )
    elif prefix not in _LIBRARIES:
        raise UnknownArchitectureError(
            f"{arch!r}: there is no library {prefix!r}. The prefixes are "
            f'"torchvision:" and "timm:", as in {_EXAMPLE}.{_near(plain)}'
        )
    for library in _LIBRARIES:
        known = _in_torchvision if library == "torchvision" else _in_timm
        if prefix in ("", library) and (found := known(plain)):
            return library, found
    raise UnknownArchitectureError(f"No architecture is named {arch!r}.{_near(plain)}")


def _resolve_function(function: Callable[..., object]) -> tuple[str, str]:
    name = getattr(function, "__name__", "")
    home = getattr(function, "__module__", "") or ""
    if home.startswith("torchvision.") and name in _torchvision_builders():
        from torchvision.models import get_model_builder

        if get_model_builder(name) is function and (found := _in_torchvision(name)):
            return "torchvision", found
    if home.startswith("timm."):
        import timm

        if timm.is_model(name) and timm.model_entrypoint(name) is function:
            return "timm", name
    raise UnknownArchitectureError(
        f"{name or function!r} is not a model function that torchvision or timm has registered for "
        f"image classification. Call it yourself and give the module: {name or 'function'}(...). "
        f"Or give a name: {_EXAMPLE}."
    )


def _torchvision_builders() -> list[str]:
    from torchvision import models

    return list(models.list_models())


def _in_torchvision(name: str) -> str | None:
    if name in _names("torchvision"):
        return name
    if name in _torchvision_builders():
        raise UnknownArchitectureError(
            f"torchvision's {name!r} is not an image classification model (but detection, "
            "segmentation, video, optical flow or quantised); these are not supported yet. "
            f"Classification models are listed by list_models('torchvision:*').{_near(name)}"
        )
    return None


def _in_timm(name: str) -> str | None:
    """The name as timm has it today, or None if timm does not know it."""
    import timm
    from timm.models import get_deprecated_models

    deprecated = get_deprecated_models()
    if name in deprecated:
        current: str | None = deprecated[name]
        if current:
            _log.warning("timm calls %s now %s", name, current)
        return current
    if not name or ":" in name or not timm.is_model(name):
        return None
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        plain = name.partition(".")[0]
        tags = ", ".join(f'"timm:{tagged}"' for tagged in timm.list_pretrained(f"{plain}.*"))
        raise UnknownArchitectureError(
            f"timm has no weights {name!r} of {plain}; it has {tags or 'none'}."
        ) from error
    return name


def _near(name: str) -> str:
    """Near names of both libraries, and how to list all, as sentences."""
    known: dict[str, list[str]] = {}
    for library in _LIBRARIES:
        for plain in _names(library):
            known.setdefault(plain, []).append(f'"{library}:{plain}"')
    close = difflib.get_close_matches(name.lower().partition(".")[0], known, n=4)
    near = [full for plain in close for full in known[plain]]
    stem = re.match(r"[a-z]*", name.lower())
    pattern = f"*{stem.group()}*" if stem and stem.group() else "*"
    sentence = f" Near it are {', '.join(near)}." if near else ""
    return f"{sentence} layergroups.list_models({pattern!r}) lists names."
