"""Learners from an architecture and from an export: `vision_learner` and `load_learner`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn

from layergroups._paths import path_of
from layergroups._random import mixed
from layergroups._suggestions import unknown_option
from layergroups.checkpoints import Blueprint, Exported, load_export
from layergroups.data import (
    DataSource,
    ImageDataLoaders,
    SegmentationDataLoaders,
    Size,
    TextDataLoaders,
    bound_to,
    data_source,
    inference_data,
)
from layergroups.errors import CheckpointError, ModelError, TrainingError
from layergroups.groups import Split
from layergroups.input_spec import InputSpec
from layergroups.models import (
    Assembled,
    LoadedModel,
    all_or_nothing,
    assemble,
    assemble_segmenter,
    load_model,
    with_channels,
)
from layergroups.tasks import LossFunc, Task, loss_from, stand_in, task_meant_by
from layergroups.training._learner import Learner, LearnerOptions
from layergroups.training.optim import OptFunc
from layergroups.training.persistence import groups_of_export

_log = logging.getLogger("layergroups")
_LEARNER_OPTIONS = frozenset(LearnerOptions.__annotations__)
_FROZEN_CHANNELS = (
    " They are frozen with the group of the first layers; fine_tune or unfreeze trains them."
)
Arch = str | Callable[..., nn.Module] | nn.Module


class VisionOptions(LearnerOptions, total=False):
    """The further options of `vision_learner`: those of `Learner`, and of timm's factories.

    The factory of an architecture may take others, of which a type checker does not know; it
    accepts `vision_learner(dls, load_model(arch, name=value).model)`.
    """

    img_size: int | tuple[int, int]
    dynamic_img_size: bool
    drop_rate: float
    drop_path_rate: float
    attn_drop_rate: float


def vision_learner(
    dls: ImageDataLoaders,
    arch: Arch,
    *,
    pretrained: bool = True,
    weights: str | Path | Enum | None = None,
    cut: int | str | Callable[[nn.Module], nn.Module] | None = None,
    split: Split = "auto",
    metrics: Any = (),
    lin_ftrs: Sequence[int] | None = (),
    ps: float | Sequence[float] = 0.5,
    depths: bool = True,
    concat_pool: bool = False,
    custom_head: nn.Module | None = None,
    bn_final: bool = False,
    first_bn: bool = True,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    loss_func: LossFunc | str | None = None,
    opt_func: OptFunc = "adamw",
    seed: int | None = None,
    **options: Unpack[VisionOptions],
) -> Learner:
    """A learner whose model is the body of a pretrained network and a new head for the data.

    With pretrained weights the body starts frozen, as in fastai: `fit` trains the head,
    `fine_tune` or `unfreeze` the rest. Images are normalised with the statistics of the weights. If
    they do not have three channels, `change_input_channels` adapts the first convolution.

    The task of the data decides whether the head predicts a class, several labels or numbers.
    Numbers have the units of the targets: the head ends with `TargetUnits`, fitted to the training
    targets, or with a `SigmoidRange` if `y_range` is given.

    Args:
        dls: the images and their classes, labels or numbers.
        arch: "resnet18", "torchvision:resnet18", "timm:...", a function of these libraries that
            makes a model, or any module. A module keeps its classifier and shares its other layers
            with the learner's model; an error leaves it unchanged.
        pretrained: start with the library's pretrained weights.
        weights: instead, a local file of pretrained weights, `.safetensors` or `.pth`, or an entry
            of torchvision, such as `ResNet50_Weights.IMAGENET1K_V1` or "IMAGENET1K_V1".
        cut: where the body ends, instead of where a dry run finds it: an index into the children, a
            name of a child, or a function from network to body.
        split: the rule that divides the model into layer groups.
        metrics: names, torchmetrics objects or functions.
        lin_ftrs: sizes of the hidden layers of the head; None is one of 512, as in fastai. The
            default is no hidden layer, which learns as much from few items, and sooner.
        ps: dropout of the head.
        depths: the head reads features of several depths: the body's output, and the mean and
            standard deviation of the channels of earlier feature maps (`DepthFeatures`). False: the
            output alone, as with `concat_pool` or a `custom_head`.
        concat_pool: concatenate average and maximum pooling, as in fastai; False: average only.
        custom_head: used instead of the default head; it takes the body's output.
        bn_final: a batch norm at the end.
        first_bn: a batch norm before the first linear layer.
        lin_first: linear layers before batch norm and dropout.
        y_range: for regression: limits of the numbers, a little beyond the targets.
        loss_func: a name or a function, as for `Learner`; None for the default of the task.
        opt_func: as for `Learner`.
        seed: as for `Learner`; also of the initial weights.
        **options: those of `Learner`; any other goes to the architecture's factory, such as
            `img_size=160` for a vision transformer of timm.

    Raises:
        UnknownArchitectureError: no library has an architecture of this name.
        WeightsError: the weights cannot be loaded, or do not fit.
        CutError: the body cannot be cut there.
        TrainingError: the data do not describe their images.
        InputSizeError: the network cannot take images of this size.
        ModelError: the network cannot take this number of channels, or y_range does not fit.
        ArgumentError: neither the learner nor the architecture has an argument of this name.
    """
    _check_arch(arch)
    data = data_source(dls)
    size, _ = _checked_images(data)
    task = data.task or task_meant_by(loss_func)
    if not isinstance(custom_head, nn.Module | None):
        raise ModelError(
            f"custom_head={custom_head!r} must be a module that takes the body's output, such as "
            "custom_head=create_head(512, 10)."
        )
    _check_range(y_range, data, task, custom_head)
    _check_task(data, per_pixel=False)
    if "num_classes" in options:  # the old classifier's, which is removed: it would do nothing
        raise unknown_option(vision_learner, "num_classes", sorted(_LEARNER_OPTIONS))
    own, of_factory = _divided(options)

    def with_head(loaded: LoadedModel) -> Assembled:
        return assemble(
            loaded,
            data.n_outputs,
            size=size,
            cut=cut,
            custom_head=custom_head,
            depths=depths and not concat_pool and custom_head is None,
            lin_ftrs=lin_ftrs,
            ps=ps,
            concat_pool=concat_pool,
            bn_final=bn_final,
            first_bn=first_bn,
            lin_first=lin_first,
            y_range=y_range,
            units=None if y_range else task.target_units(data.targets()),
        )

    own |= {"metrics": metrics, "loss_func": loss_func, "opt_func": opt_func, "seed": seed}
    with (
        _refused_by_name(vision_learner, of_factory),
        all_or_nothing(arch, custom_head, values=weights is not None),
    ):
        network = _Network(arch, pretrained, weights, of_factory)
        return _learner(data, network, with_head, split, own)


def _divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of `Learner`, and those of the architecture's factory."""
    own = {name: value for name, value in options.items() if name in _LEARNER_OPTIONS}
    return own, {name: value for name, value in options.items() if name not in own}


class _Network(NamedTuple):
    """The arguments of `load_model`."""

    arch: Arch
    pretrained: bool
    weights: str | Path | Enum | None
    options: Mapping[str, Any]


def _learner(
    data: DataSource,
    network: _Network,
    with_head: Callable[[LoadedModel], Assembled],
    split: Split,
    own: dict[str, Any],
) -> Learner:
    """A learner of a network's body and a new head; `own` are the options of `Learner`."""
    (size, spec), seed = _checked_images(data), own["seed"]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(mixed(seed, "first weights"))
        arch, pretrained, weights, options = network
        loaded = load_model(arch, pretrained=pretrained, weights=weights, **options)
        loaded, change = with_channels(loaded, spec.channels, size=size)
        assembled = with_head(loaded)
    learner = Learner(
        bound_to(data, assembled.input).given,
        assembled.model,
        groups=assembled.layer_groups(split),
        split=split,
        **own,
    )
    learner.blueprint = Blueprint(
        arch=loaded.name,
        kwargs=loaded.kwargs,
        cut=assembled.cut,
        network=assembled.network,
        size=size,
        input=assembled.input,
    )
    learner.pretrained = loaded.pretrained
    if loaded.pretrained and len(learner.layer_groups) > 1:
        learner.freeze()
    if change is not None:
        frozen = loaded.pretrained and learner.layer_groups.frozen[0]
        _log.warning("%s.%s", change, _FROZEN_CHANNELS if frozen else "")
    return learner


def cnn_learner(
    dls: ImageDataLoaders, arch: Arch, *, split_on: Split | None = None, **options: Any
) -> Learner:
    """The older name of `vision_learner`; `split_on` is the older name of `split`."""
    if split_on is not None:
        if "split" in options:
            raise TrainingError("split_on is the older name of split: give one of them.")
        options["split"] = split_on
    return vision_learner(dls, arch, **options)


def segmentation_learner(
    dls: SegmentationDataLoaders,
    arch: Arch,
    *,
    decoder: str | None = None,
    widths: Sequence[int] = (),
    pretrained: bool = True,
    weights: str | Path | Enum | None = None,
    cut: int | str | Callable[[nn.Module], nn.Module] | None = None,
    split: Split = "auto",
    metrics: Any = ("iou", "dice"),
    loss_func: LossFunc | str | None = None,
    opt_func: OptFunc = "adamw",
    seed: int | None = None,
    **options: Unpack[VisionOptions],
) -> Learner:
    """A learner that gives a class to every pixel; `unet_learner` of fastai.

    The body of a pretrained network gives a feature map of each resolution, which a dry run finds;
    a new decoder makes scores of them at the size of the image. With pretrained weights the body
    starts frozen, as in `vision_learner`. Sides that are no multiple of the body's largest stride
    are padded by the edges of the image, and the scores are cropped back.

    Args:
        dls: the images and their masks.
        arch: as for `vision_learner`: any network of torchvision or timm that has feature maps.
        decoder: "unet", "fpn" or "deeplabv3+", of segmentation_models_pytorch; for networks whose
            maps have one resolution, such as vision transformers, "dpt" of the same package; or
            "plain", convolutions and upsampling of the last map. None: "unet", or "plain" for one
            resolution.
        widths: channels inside the decoder, from the smallest map on; the default of a U-Net is
            256, 128, 64 and so on.
        pretrained: start with the library's pretrained weights.
        weights: as for `vision_learner`.
        cut: as for `vision_learner`.
        split: as for `vision_learner`.
        metrics: names ("iou", "dice", "accuracy"), torchmetrics objects or functions.
        loss_func: as for `Learner`; None is "dice+cross_entropy".
        opt_func: as for `Learner`.
        seed: as for `vision_learner`.
        **options: as for `vision_learner`.

    Raises:
        ModelError: the network has no feature maps, or not those that the decoder needs.
        LayerGroupsError: as for `vision_learner`.
    """
    data = data_source(dls)
    size, _ = _checked_images(data)
    _check_task(data, per_pixel=True)
    own, of_factory = _divided(options)
    own |= {"metrics": metrics, "loss_func": loss_func, "opt_func": opt_func, "seed": seed}

    def with_decoder(loaded: LoadedModel) -> Assembled:
        return assemble_segmenter(
            loaded, data.n_outputs, size=size, cut=cut, decoder=decoder, widths=widths
        )

    with (
        _refused_by_name(segmentation_learner, of_factory),
        all_or_nothing(arch, values=weights is not None),
    ):
        network = _Network(arch, pretrained, weights, of_factory)
        return _learner(data, network, with_decoder, split, own)


unet_learner = segmentation_learner


def load_learner(folder: str | Path, *, model: nn.Module | None = None) -> Learner:
    """Load the learner that `learn.export(folder)` wrote; it can predict immediately.

    To train it further, assign data with the same classes: `learn.dls = dls`.

    Args:
        folder: the export; or a model on a hub, "hf://user/model" or "hf://user/model@revision".
        model: the module itself, if the folder cannot describe it.

    Raises:
        CheckpointError: the folder is not an export, is damaged, or needs `model`.
    """
    if isinstance(folder, str) and folder.startswith("hf://"):
        from layergroups.training._hub import fetched

        folder = fetched(folder)
    path = path_of(folder, CheckpointError, 'load_learner("model")')
    made, exported = load_export(path, model)
    task = exported.task
    data = inference_data(exported.transform, exported.classes, task, exported.keyword, path)
    options: dict[str, Any] = {"example_input": data.example()}
    if exported.blueprint is not None:
        options |= {"head": "1", "network": exported.blueprint.network}
    learner = Learner(
        data,
        made,
        groups=groups_of_export(made, exported, options),
        metrics=exported.metrics,
        loss_func=_loss(exported, task),
        thresh=exported.thresh,
    )
    learner.blueprint, learner.pretrained = exported.blueprint, exported.pretrained
    made.eval()
    return learner


@contextmanager
def _refused_by_name(way: Callable[..., Learner], options: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        if isinstance(error.__cause__, TypeError):
            for name in options:
                if repr(name) in str(error.__cause__):
                    raise unknown_option(way, name, sorted(_LEARNER_OPTIONS)) from error
        raise


def _check_arch(arch: object) -> None:
    if any(kind.__name__ == "PreTrainedModel" for kind in type(arch).__mro__):
        raise ModelError(
            f"A {type(arch).__name__} of transformers keeps its own head: "
            "replace_head(model, dls.c), then Learner(dls, model) and learn.fine_tune(3). "
            "vision_learner takes networks of torchvision and timm, and modules that give tensors."
        )


def _checked_images(data: DataSource) -> tuple[Size, InputSpec]:
    if isinstance(data.given, TextDataLoaders):
        raise TrainingError("The data are texts, not images: text_learner(dls).")
    lacks = {"input": data.input is None, "size": data.size is None, "c": not data.n_outputs}
    if data.size is None or data.input is None or not data.n_outputs:
        missing = ", ".join(name for name, absent in lacks.items() if absent)
        raise TrainingError(
            f"The data ({type(data.given).__name__}) have no {missing}, so no network can be made "
            "for them. Use vision_learner(ImageDataLoaders.from_folder(folder), "
            '"resnet18"); for other batches: Learner(dls, model).'
        )
    return data.size, data.input


def _check_task(data: DataSource, *, per_pixel: bool) -> None:
    if data.task is not None and data.task.per_pixel != per_pixel:
        right = (
            "masks. Use vision_learner(dls, arch), or SegmentationDataLoaders for the data"
            if per_pixel else "one prediction for each image. Use segmentation_learner(dls, arch)"
        )  # fmt: skip
        raise TrainingError(f"The task of the data is {data.task.name}, not {right}.")


def _check_range(
    y_range: object, data: DataSource, task: Task, custom_head: nn.Module | None
) -> None:
    if y_range is None:
        return
    task.check_range(y_range, data.targets())
    if custom_head is not None:
        raise ModelError(
            f"y_range={y_range!r} only works with the default head. End your own head with "
            "layergroups.models.SigmoidRange(low, high)."
        )


def _loss(exported: Exported, task: Task) -> LossFunc:
    made = loss_from(exported.loss, exported.loss_settings)
    if made is None:
        made = stand_in(exported.outputs) or task.default_loss()
        _log.warning(
            "The learner was exported with the loss %s, which cannot be loaded; assign it to "
            "learn.loss_func. Until then the loss is %s.",
            exported.loss,
            type(made).__name__,
        )
    return made
