"""Load torchvision and timm models by one naming scheme, with the input that their weights expect.

A name is "torchvision:resnet18" or "timm:resnet18.a1_in1k". A plain "resnet18" is searched in
torchvision first, then in timm.
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
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layergroups.errors import ModelError, UnknownArchitectureError, WeightsError
from layergroups.input_spec import InputSpec
from layergroups.models import _downloads as downloads
from layergroups.models._weights import Converter, find_weights, load_weights_file

_LIBRARIES = ("torchvision", "timm")
_EXAMPLE = 'load_model("torchvision:resnet18")'
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_AUXILIARY = ("AuxLogits", "aux1", "aux2")
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_RUNTIME_ONLY = ("cache_dir",)
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_log = logging.getLogger("layergroups")


def list_models(pattern: str = "*") -> list[str]:
    """Names of the image classification models of torchvision and timm.

    Args:
        pattern: a shell pattern ("*resnet*"), matched against the full and the plain name.

    Returns:
        Names as `load_model` takes them, torchvision's first, such as "torchvision:resnet18".
        timm's names come without the tags of their weights.

    Raises:
        UnknownArchitectureError: the pattern is not a string.
    """
    if not isinstance(pattern, str):
        raise UnknownArchitectureError(
            f'pattern={pattern!r} must be a shell pattern such as list_models("*resnet*").'
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


def check_network(arch: str, weights: str | Path | None = None) -> None:
    """Refuse a name that no library knows, or a missing file, before the network is made."""
    if not arch.startswith(("local-dir:", *downloads.HUB_PREFIXES)):
        resolve(arch)
    if weights is not None:
        find_weights(weights)


def resolve(arch: object) -> tuple[str, str]:
    """Library and plain name of an architecture, which is a name or a model function."""
    if callable(arch):
        return _resolve_function(arch)
    if not isinstance(arch, str):
        raise UnknownArchitectureError(
            f"An architecture is a name, a model function of torchvision or timm, or an nn.Module, "
            f"not {type(arch).__name__}: {_EXAMPLE}."
        )
    prefix, plain = arch.split(":", 1) if ":" in arch else ("", arch)
    if prefix == "module":
        raise UnknownArchitectureError(
            f"{arch!r} names a custom module, which cannot be created by name. Pass the module."
        )
    if prefix not in ("", *_LIBRARIES):
        raise UnknownArchitectureError(
            f'{arch!r}: unknown library {prefix!r}. Use "torchvision:" or "timm:", as in '
            f"{_EXAMPLE}.{_near(plain)}"
        )
    for library, known in (("torchvision", _in_torchvision), ("timm", _in_timm)):
        if prefix in ("", library) and (found := known(plain)):
            return library, found
    raise UnknownArchitectureError(f"No architecture is named {arch!r}.{_near(plain)}")


def _resolve_function(function: Callable[..., object]) -> tuple[str, str]:
    import timm
    from torchvision.models import get_model_builder, list_models

    name = getattr(function, "__name__", "")
    home = getattr(function, "__module__", "") or ""
    in_torchvision = home.startswith("torchvision.") and name in list_models()
    if in_torchvision and get_model_builder(name) is function and (found := _in_torchvision(name)):
        return "torchvision", found
    in_timm = home.startswith("timm.") and timm.is_model(name)
    if in_timm and timm.model_entrypoint(name) is function:
        return "timm", name
    raise UnknownArchitectureError(
        f"{name or function!r} is not a registered model function of torchvision or timm for image "
        f"classification. Call it yourself and pass the module: {name or 'function'}(...). "
        f"Or give a name: {_EXAMPLE}."
    )


def _in_torchvision(name: str) -> str | None:
    from torchvision.models import list_models

    if name in _names("torchvision"):
        return name
    if name in list_models():
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
            _log.warning("timm has renamed %s to %s", name, current)
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
    known: dict[str, list[str]] = {}
    for library in _LIBRARIES:
        for plain in _names(library):
            known.setdefault(plain, []).append(f'"{library}:{plain}"')
    close = difflib.get_close_matches(name.lower().partition(".")[0], known, n=4)
    near = [full for plain in close for full in known[plain]]
    stem = re.match(r"[a-z]*", name.lower())
    part = stem.group() if stem else ""
    pattern = f"*{part}*" if part and any(part in plain for plain in known) else "*"
    sentence = f" Did you mean {', '.join(near)}?" if near else ""
    return f"{sentence} layergroups.list_models({pattern!r}) lists names."


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model, and what is needed to use it and to create it again.

    `load_model(name, pretrained=False, **kwargs)` creates the same network.
    """

    model: nn.Module
    name: str  # with its library, "torchvision:resnet18"; "module:ClassName" for a module
    input: InputSpec  # the images that the weights expect
    pretrained: bool  # whether the weights are trained; for a module, what the caller passed
    weights: str  # where they come from
    kwargs: dict[str, Any] = field(default_factory=dict)  # of its factory, JSON-ready


def load_model(
    arch: str | Callable[..., nn.Module] | nn.Module,
    *,
    pretrained: bool = True,
    weights: str | Path | Enum | None = None,
    **kwargs: Any,
) -> LoadedModel:
    """Create a network of torchvision or timm, with pretrained weights, or wrap a module.

    Args:
        arch: a name such as "torchvision:resnet18", "timm:resnet18" or "timm:resnet18.a1_in1k"; a
            plain name is searched in torchvision first, then in timm. Or a model function of
            either library (`torchvision.models.resnet18`), or any `nn.Module`. Or what timm has
            saved elsewhere: "hf://user/model", also written "hf-hub:user/model", with "@revision";
            or "local-dir:FOLDER".
        pretrained: load the library's default weights, from its cache or its hub. Does not change
            a module.
        weights: a file with the weights, instead of a download: `.safetensors`, `.pth`, `.pt` or
            `.bin`. All but the classifier must fit. Or an entry of torchvision, such as
            `ResNet50_Weights.IMAGENET1K_V1` or its name "IMAGENET1K_V1". `pretrained` is then
            ignored.
        **kwargs: further JSON-ready arguments of the library's factory, such as img_size=160 for a
            vision transformer of timm.

    Returns:
        The model with its name, input and source of weights. torchvision's googlenet and
        inception_v3 have no auxiliary classifiers, and always `transform_input`, which their
        pretrained weights need.

    Raises:
        UnknownArchitectureError: no library knows the name; the message lists similar ones.
        WeightsError: the weights are not available, or do not fit.
        ModelError: the factory rejects the arguments.
    """
    if isinstance(arch, nn.Module):
        return _take_module(arch, pretrained, weights, kwargs)
    if isinstance(arch, str) and arch.startswith(("local-dir:", *downloads.HUB_PREFIXES)):
        return _of_a_repository(arch, pretrained, weights, kwargs)
    library, name = resolve(arch)
    if library == "torchvision" and isinstance(weights, str):
        from torchvision.models import get_model_weights

        weights = get_model_weights(name).__members__.get(weights, weights)
    entry = weights if isinstance(weights, Enum) else None
    file = None if weights is None or isinstance(weights, Enum) else find_weights(weights)
    request = _Request(
        full=f"{library}:{name}",
        name=name,
        fetch=file is None and (pretrained or entry is not None),
        weights=file,
        entry=entry,
        kwargs=kwargs,
        recorded=_json_ready(f"{library}:{name}", kwargs),
    )
    return _make_torchvision(request) if library == "torchvision" else _make_timm(request)


@dataclass(frozen=True, kw_only=True)
class _Request:
    full: str  # name with its library
    name: str
    fetch: bool  # the library's weights
    weights: Path | None  # of a file
    entry: Any  # one of torchvision's weight enums
    kwargs: dict[str, Any]
    recorded: dict[str, Any]  # kwargs as they come back from JSON


def _of_a_repository(
    address: str, pretrained: bool, weights: Any, kwargs: Mapping[str, Any]
) -> LoadedModel:
    """A network that timm has saved on a hub or in a folder; its record needs neither."""
    folder = downloads.hub_folder(address)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        library, name = resolve(f"timm:{config['architecture']}")
        shape = dict(config.get("pretrained_cfg") or {})
        given = {"num_classes": config.get("num_classes"), **(config.get("model_args") or {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownArchitectureError(
            f"{address} has no config.json as timm writes it ({type(error).__name__}: {error}). Of "
            "transformers, load the model and pass it to Learner, or give "
            "TextDataLoaders its name, model=."
        ) from error
    arguments = {n: v for n, v in given.items() if v is not None} | dict(kwargs)
    names = ("model.safetensors", "pytorch_model.bin")
    own = next((folder / n for n in names if (folder / n).is_file()), folder / names[0])
    file: Any = own if pretrained and weights is None else weights
    recorded = _json_ready(f"{library}:{name}", arguments)
    return _make_timm(
        _Request(
            full=f"{library}:{name}",
            name=name,
            fetch=False,
            weights=None if file is None else find_weights(file),
            entry=None,
            kwargs={"pretrained_cfg": shape, **arguments} if shape else arguments,
            recorded=recorded,
        )
    )


def _take_module(
    module: nn.Module, pretrained: bool, weights: Any, kwargs: Mapping[str, object]
) -> LoadedModel:
    if kwargs:
        raise ModelError(
            f"A module takes no factory arguments ({', '.join(kwargs)}). Create the module with "
            "them, or pass a name instead."
        )
    words = load_weights_file(module, weights) if weights is not None else "those of the module"
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config:
        spec = _timm_input(module, config, {})
    else:
        spec = InputSpec(source="ImageNet defaults (unknown for a custom module)")
    return LoadedModel(
        model=module,
        name=f"module:{type(module).__name__}",
        input=spec,
        pretrained=pretrained or weights is not None,
        weights=words,
    )


def _json_ready(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    lasting = {key: value for key, value in kwargs.items() if key not in _RUNTIME_ONLY}
    try:
        recorded: dict[str, Any] = json.loads(json.dumps(lasting))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{name}: the arguments {lasting} cannot be written as JSON ({error}), which an export "
            "needs. Pass plain numbers, strings and lists; or create the module and pass that."
        ) from error
    return recorded


@contextlib.contextmanager
def _making(request: _Request) -> Iterator[None]:
    """Translate the errors of a library's factory; keep its output off stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub announces downloads on stdout
            yield
    except Exception as error:
        if request.fetch and downloads.is_download_error(error):
            raise downloads.unavailable(request.full, f"could not be fetched ({error})") from error
        if request.recorded:
            given = ", ".join(f"{key}={value!r}" for key, value in request.recorded.items())
            raise ModelError(f"{request.full} cannot be created with {given}: {error}") from error
        if request.fetch:
            raise WeightsError(
                f"The pretrained weights of {request.full} cannot be loaded: {error}. If a file in "
                "the cache is damaged, delete it and try again."
            ) from error
        raise


def _finish(
    request: _Request, model: nn.Module, spec: InputSpec, convert: Converter | None
) -> LoadedModel:
    words = spec.source if request.fetch else "none (random initialisation)"
    if request.weights is not None:
        words = load_weights_file(model, request.weights, convert=convert)
        spec = replace(spec, source=f"{spec.source} (assumed for {words})")
    return LoadedModel(
        model=model,
        name=request.full,
        input=spec,
        pretrained=request.fetch or request.weights is not None,
        weights=words,
        kwargs=request.recorded,
    )


def _make_torchvision(request: _Request) -> LoadedModel:
    from torchvision import models

    known = models.get_model_weights(request.name)
    default = known.DEFAULT if request.entry is None else request.entry
    if not isinstance(default, known):
        raise WeightsError(f"{default} does not fit {request.full}; {known.DEFAULT} does.")
    with_auxiliary = request.name in _WITH_AUXILIARY
    kwargs = _auxiliary_arguments(request) if with_auxiliary else request.kwargs
    if request.fetch:
        downloads.check_torchvision(request.full, default.url)
    with _making(request):
        model = models.get_model(request.name, weights=default if request.fetch else None, **kwargs)
        side = default.transforms().crop_size[0]
        if "image_size" not in kwargs and getattr(model, "image_size", side) != side:
            # the default weights were trained on other sizes than the builder's default
            model = models.get_model(request.name, weights=None, image_size=side, **kwargs)
    if with_auxiliary:  # without these classifiers it returns one tensor, also in training
        setattr(model, "aux_logits", False)  # noqa: B010 - of no declared type
        for name in _AUXILIARY:
            if isinstance(getattr(model, name, None), nn.Module):
                setattr(model, name, None)
    spec = _torchvision_input(default, request.recorded)
    return _finish(request, model, spec, _torchvision_names)


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


def _auxiliary_arguments(request: _Request) -> dict[str, Any]:
    """Arguments with which googlenet and inception_v3 compute the same, pretrained or not."""
    if request.kwargs.get("aux_logits"):
        raise ModelError(
            f"{request.full} with aux_logits=True has several outputs in training, which is not "
            "supported. Leave aux_logits out to drop the auxiliary classifiers."
        )
    rest = {key: value for key, value in request.kwargs.items() if key != "aux_logits"}
    init = {"aux_logits": False, "init_weights": request.weights is None}
    return {"transform_input": True, **({} if request.fetch else init), **rest}


def _torchvision_names(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return {
        _OLD_DENSENET.sub(r"\1", name): tensor
        for name, tensor in tensors.items()
        if name.partition(".")[0] not in _AUXILIARY
    }


def _make_timm(request: _Request) -> LoadedModel:
    import timm

    if request.entry is not None:
        raise WeightsError(
            f"{request.entry} belongs to torchvision, not to {request.full}. timm selects weights "
            'by a tag of the architecture: "timm:resnet18.a1_in1k".'
        )
    overlay: dict[str, Any] = {}
    if request.fetch:
        config = timm.get_pretrained_cfg(request.name)
        overlay = downloads.timm_overlay(request.full, config, request.kwargs.get("cache_dir"))
    extra = {"pretrained_cfg_overlay": overlay} if overlay else {}
    with _making(request):
        model = timm.create_model(request.name, pretrained=request.fetch, **extra, **request.kwargs)
    spec = _timm_input(model, model.pretrained_cfg, request.recorded)
    home = sys.modules.get(timm.model_entrypoint(request.name).__module__)
    return _finish(request, model, spec, getattr(home, "checkpoint_filter_fn", None))


def _timm_input(
    model: nn.Module, config: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> InputSpec:
    size = kwargs.get("img_size") or config.get("input_size", (3, 224, 224))[-2:]
    height, width = (size, size) if isinstance(size, int) else size
    default = InputSpec()
    mean, std = (tuple(config.get(key) or getattr(default, key)) for key in ("mean", "std"))
    source = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    channels = getattr(model, "in_chans", None) or kwargs.get("in_chans", len(mean))
    if channels != len(mean):
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
        source += " (statistics averaged over its channels)"
    return InputSpec(
        size=(height, width),
        mean=mean,
        std=std,
        interpolation=_interpolation(config.get("interpolation")),
        crop_pct=config.get("crop_pct") or default.crop_pct,
        source=f"timm {source}",
    )


def _interpolation(name: object) -> str:
    return str(name) if name in _INTERPOLATIONS else "bicubic"
