"""The settings of `layergroups train`: their defaults, and the YAML file that holds them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from layergroups._from_dict import from_dict
from layergroups._suggestions import nearest
from layergroups.cli._parsing import TableOptions
from layergroups.errors import ConfigError

_HEADER = """\
# The settings of this run. Repeat it:      layergroups reproduce DIR
# Change a line, or give an option, and train again:
#     layergroups train --config run.yaml --out another-model
# Relative paths start at the folder in which the command runs.
"""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Each setting has the name of its option, with _ for -."""

    folder: Path
    text: str | None = None
    max_length: int | None = None
    long: str | None = None
    pooling: str | None = None
    masks: Path | None = None
    mask_suffix: str = ""
    classes: str | None = None
    ignore: str | None = None
    overlapping: bool = False
    decoder: str | None = None
    arch: str | None = None
    from_run: Path | None = None
    epochs: int = 3
    freeze_epochs: int | None = None
    train_all_layers: bool = False
    lr: float = 2e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    loss: str | None = None
    metrics: str | None = None
    mixed_precision: str | None = None
    device: str | None = None
    search: int | None = None
    size: int = 224
    batch_size: int = 64
    augment: str | None = None
    balance: bool = False
    out: Path = Path("model")
    weights: Path | None = None
    pretrained: bool = True
    valid_pct: float = 0.2
    seed: int = 42
    split: str = "auto"
    label_col: str | None = None
    label_delim: str | None = None
    valid_col: str | None = None
    images: Path | None = None
    image_col: str | None = None
    suffix: str | None = None
    task: str | None = None
    channels: int | None = None
    keep_best: str | None = None
    patience: int | None = None
    checkpoint_dir: Path | None = None
    workers: int | None = None
    on_error: str = "raise"

    @property
    def network(self) -> str:
        """The architecture, or the encoder of texts."""
        from layergroups.data import DEFAULT_MODEL  # not for --help

        return self.arch or (DEFAULT_MODEL if self.text else "resnet18")

    @property
    def labels(self) -> TableOptions:
        return TableOptions(
            text=self.text,
            column=self.label_col,
            delimiter=self.label_delim,
            valid=self.valid_col,
            task=self.task,
            images=self.images,
            image_col=self.image_col,
            suffix=self.suffix,
        )

    def to_yaml(self) -> str:
        """The file of these settings: paths are absolute, and what is not set is left out.

        Where checkpoints were written does not matter to the run that the file describes.
        """
        unused = {"checkpoint_dir", *(() if self.masks else ("mask_suffix", "overlapping"))}
        values = {
            name: os.path.abspath(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if value is not None and name not in unused
        }
        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        return _HEADER + text

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read a complete file.

        Raises:
            ConfigError: see `read_settings`; or the folder of the images is missing.
        """
        return _built(read_settings(path), path)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file, by name, with the types of `RunConfig`.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(
            f"--config {path} cannot be read: {cause}. A run of `layergroups train` writes one, "
            "run.yaml in its folder."
        ) from cause
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(cause).split())}.") from cause
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} needs a setting on each line, such as `epochs: 3`.")
    names = [field.name for field in fields(RunConfig)]
    for name in found:
        if name not in names:
            raise ConfigError(
                f"{path} has an unknown setting {name}.{nearest(str(name), names)} The settings "
                f"are {', '.join(names)}."
            )
    given = {name: _as_text(name, value) for name, value in found.items() if value is not None}
    complete = _built({"folder": "."} | given, path)
    return {name: getattr(complete, name) for name in given}


def _built(values: Mapping[str, Any], path: Path) -> RunConfig:
    try:
        return from_dict(RunConfig, values)
    except ValueError as cause:
        raise ConfigError(f"{path}: {cause}.") from cause


def _as_text(name: str, value: object) -> object:
    """`split: 4` and `split: [layer2, layer4]` mean what they mean as options."""
    kind = get_type_hints(RunConfig)[name]
    if not {str, Path} & {kind, *get_args(kind)}:
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return str(value) if type(value) is int else value


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # it has no types
    """YAML that reads 1e-3 as a number, as YAML 1.2 does, and refuses a name given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"{twice} is given twice")
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
