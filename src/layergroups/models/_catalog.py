"""Models of torchvision and timm under one naming, with what their weights expect of an image.

A name is "torchvision:resnet18" or "timm:resnet18.a1_in1k". A plain "resnet18" is looked for in
torchvision first and then in timm.

Names of architectures: what they stand for, which there are, and which are near a wrong one.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from layergroups.errors import ModelError, UnknownArchitectureError, WeightsError
from layergroups.input_spec import InputSpec
from layergroups.models import _downloads as downloads
from layergroups.models._weights import Converter, find_weights, load_weights_file

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


__all__ = ["LoadedModel", "list_models", "load_model"]
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_AUXILIARY = ("AuxLogits", "aux1", "aux2")
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_RUNTIME_ONLY = ("cache_dir",)
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model and what must be known of it to use it, and to make it again.

    Attributes:
        model: the whole network, with its old classifier.
        name: always with its library, "torchvision:resnet18"; "module:ClassName" for a module.
        input: the images that its weights expect.
        pretrained: whether it holds trained weights; of a module, what the caller said.
        weights: where the weights come from, in words.
        kwargs: further arguments of its factory, JSON-ready: `load_model(name, pretrained=False,
            **kwargs)` makes the same network again.
    """

    model: nn.Module
    name: str
    input: InputSpec
    pretrained: bool
    weights: str
    kwargs: dict[str, Any] = field(default_factory=dict)


def load_model(
    arch: str | Callable[..., nn.Module] | nn.Module,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    **kwargs: Any,
) -> LoadedModel:
    """Make a network of torchvision or timm, with pretrained weights, or take a module as it is.

    Args:
        arch: a name such as "torchvision:resnet18", "timm:resnet18" or "timm:resnet18.a1_in1k"; a
            plain name is looked for in torchvision first and then in timm. Or a model function of
            the two libraries (`torchvision.models.resnet18`), or any `nn.Module`.
        pretrained: take the library's default weights, from its cache or its hub. A module is never
            changed by it.
        weights: a file with the weights, instead of a download: `.safetensors`, `.pth`, `.pt` or
            `.bin`. It must fit but for the classifier. `pretrained` is then not asked.
        **kwargs: further arguments of the library's factory, such as img_size=160 for a vision
            transformer of timm; JSON-ready values.

    Returns:
        The model with its name, its input and where its weights come from. torchvision's googlenet
        and inception_v3 come without auxiliary classifiers, and always with `transform_input`, as
        their pretrained weights need.

    Raises:
        UnknownArchitectureError: no library knows the name; the message tells near ones.
        WeightsError: the weights cannot be had, or do not fit.
        ModelError: the factory refuses the arguments.
    """
    if isinstance(arch, nn.Module):
        return _take_module(arch, pretrained, weights, kwargs)
    if weights is not None:
        weights = find_weights(weights)
    library, name = resolve(arch)
    order = _Order(
        full=f"{library}:{name}",
        name=name,
        fetch=pretrained and weights is None,
        weights=weights,
        kwargs=kwargs,
        recorded=_json_ready(f"{library}:{name}", kwargs),
    )
    return _make_torchvision(order) if library == "torchvision" else _make_timm(order)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is to be made: a network of a library, its weights and its further arguments."""

    full: str
    name: str
    fetch: bool
    weights: str | Path | None
    kwargs: dict[str, Any]
    recorded: dict[str, Any]


# Modules and arguments


def _take_module(
    module: nn.Module, pretrained: bool, weights: str | Path | None, kwargs: Mapping[str, object]
) -> LoadedModel:
    if kwargs:
        raise ModelError(
            f"A module is made already, so {', '.join(kwargs)} cannot be given to its factory. "
            "Make the module with these arguments, or give a name instead of the module."
        )
    words = load_weights_file(module, weights) if weights is not None else "as the module was given"
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config:
        spec = _timm_input(module, config, {})
    else:
        spec = InputSpec(source="ImageNet defaults (not known for a module of one's own)")
    return LoadedModel(
        model=module,
        name=f"module:{type(module).__name__}",
        input=spec,
        pretrained=pretrained or weights is not None,
        weights=words,
    )


def _json_ready(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to be recorded, as they come back from JSON."""
    kept = {key: value for key, value in kwargs.items() if key not in _RUNTIME_ONLY}
    try:
        recorded: dict[str, Any] = json.loads(json.dumps(kept))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{name}: the arguments {kept} cannot be written as JSON ({error}), so the network "
            "could not be made again when it is loaded. Give plain numbers, strings and lists; or "
            "make the module yourself and give that."
        ) from error
    return recorded


@contextlib.contextmanager
def _making(order: _Order) -> Iterator[None]:
    """Turn the errors of a library's factory into those of this library; stdout stays free."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub announces downloads on stdout
            yield
    except Exception as error:
        if order.fetch and downloads.is_download_error(error):
            raise downloads.unavailable(order.full, f"could not be fetched ({error})") from error
        if order.recorded:
            given = ", ".join(f"{key}={value!r}" for key, value in order.recorded.items())
            raise ModelError(f"{order.full} cannot be made with {given}: {error}") from error
        if order.fetch:
            raise WeightsError(
                f"The pretrained weights of {order.full} cannot be loaded: {error}. If a file in "
                "the cache is damaged, delete it and try again."
            ) from error
        raise


def _finish(
    order: _Order, model: nn.Module, spec: InputSpec, convert: Converter | None
) -> LoadedModel:
    """The made model with the weights of a file, if one was given, and with all that is known."""
    words = spec.source if order.fetch else "none, a random start"
    if order.weights is not None:
        words = load_weights_file(model, order.weights, convert=convert)
        spec = replace(spec, source=f"{spec.source} (assumed for {words})")
    return LoadedModel(
        model=model,
        name=order.full,
        input=spec,
        pretrained=order.fetch or order.weights is not None,
        weights=words,
        kwargs=order.recorded,
    )


# torchvision


def _make_torchvision(order: _Order) -> LoadedModel:
    from torchvision import models

    default = models.get_model_weights(order.name).DEFAULT
    with_auxiliary = order.name in _WITH_AUXILIARY
    kwargs = _auxiliary_arguments(order) if with_auxiliary else order.kwargs
    if order.fetch:
        downloads.check_torchvision(order.full, default.url)
    with _making(order):
        model = models.get_model(order.name, weights=default if order.fetch else None, **kwargs)
        side = default.transforms().crop_size[0]
        if "image_size" not in kwargs and getattr(model, "image_size", side) != side:
            # the default weights were trained on other sizes than the builder's default
            model = models.get_model(order.name, weights=None, image_size=side, **kwargs)
    if with_auxiliary:
        _drop_auxiliary(model)
    return _finish(order, model, _torchvision_input(default, order.recorded), _torchvision_names)


def _torchvision_input(default: Any, kwargs: Mapping[str, Any]) -> InputSpec:
    preset = default.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    size = kwargs.get("image_size", crop)
    return InputSpec(
        size=(size, size),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=_interpolation(preset.interpolation.value),
        crop_pct=crop / resize,
        source=f"torchvision {default}",
    )


def _auxiliary_arguments(order: _Order) -> dict[str, Any]:
    """Arguments that make googlenet and inception_v3 one function, pretrained or not."""
    if order.kwargs.get("aux_logits"):
        raise ModelError(
            f"{order.full} with aux_logits=True gives several outputs in training, which is not "
            "supported. Leave aux_logits out: the auxiliary classifiers are then dropped."
        )
    rest = {key: value for key, value in order.kwargs.items() if key != "aux_logits"}
    init = order.weights is None
    alone = {} if order.fetch else {"aux_logits": False, "init_weights": init}
    return {"transform_input": True, **alone, **rest}


def _drop_auxiliary(model: nn.Module) -> None:
    """Without its auxiliary classifiers the network gives one tensor, also in training."""
    setattr(model, "aux_logits", False)  # noqa: B010 - of no declared type
    for name in _AUXILIARY:
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, None)


def _torchvision_names(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of torchvision's published files as its models have them today."""
    return {
        _OLD_DENSENET.sub(r"\1", name): tensor
        for name, tensor in tensors.items()
        if name.partition(".")[0] not in _AUXILIARY
    }


# timm


def _make_timm(order: _Order) -> LoadedModel:
    import timm

    overlay: dict[str, Any] = {}
    if order.fetch:
        config = timm.get_pretrained_cfg(order.name)
        overlay = downloads.timm_overlay(order.full, config, order.kwargs.get("cache_dir"))
    extra = {"pretrained_cfg_overlay": overlay} if overlay else {}
    with _making(order):
        model = timm.create_model(order.name, pretrained=order.fetch, **extra, **order.kwargs)
    spec = _timm_input(model, model.pretrained_cfg, order.recorded)
    return _finish(order, model, spec, _timm_converter(order.name))


def _timm_input(
    model: nn.Module, config: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> InputSpec:
    """What timm's `pretrained_cfg` says of images, for the size and channels of this model."""
    size = kwargs.get("img_size") or config.get("input_size", (3, 224, 224))[-2:]
    height, width = (size, size) if isinstance(size, int) else size
    default = InputSpec()
    mean, std = (tuple(config.get(key) or getattr(default, key)) for key in ("mean", "std"))
    source = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    channels = getattr(model, "in_chans", None) or kwargs.get("in_chans", len(mean))
    if channels != len(mean):
        mean, std = ((sum(figures) / len(figures),) * channels for figures in (mean, std))
        source += " (figures averaged over its channels)"
    return InputSpec(
        size=(height, width),
        mean=mean,
        std=std,
        interpolation=_interpolation(config.get("interpolation")),
        crop_pct=config.get("crop_pct") or default.crop_pct,
        source=f"timm {source}",
    )


def _timm_converter(name: str) -> Converter | None:
    """Conversion of published files by timm itself, if it has one for this model.

    It renames the entries of an original release and resizes position embeddings.
    """
    import timm

    home: ModuleType | None = sys.modules.get(timm.model_entrypoint(name).__module__)
    convert: Converter | None = getattr(home, "checkpoint_filter_fn", None)
    return convert


def _interpolation(name: object) -> str:
    return str(name) if name in _INTERPOLATIONS else "bicubic"
