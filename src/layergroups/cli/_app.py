"""The commands and their options, as `--help` shows them. Nothing heavy is imported here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from layergroups import __version__
from layergroups.cli._run_config import RunConfig, read_settings

app = typer.Typer(
    name="layergroups",
    help="Fine-tune pretrained networks on your own images or texts, by layer groups.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OnError(StrEnum):
    """What to do with images that cannot be read."""

    stop = "raise"
    skip = "skip"


class Rows(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Graph(StrEnum):
    """File formats that run without this library."""

    onnx = "onnx"
    pt2 = "pt2"


def _unset(metavar: str, help: str, *names: str, **more: Any) -> Any:
    """An option without a default."""
    return typer.Option(*names, metavar=metavar, show_default=False, help=help, **more)


def _of_csv(metavar: str, help: str, *names: str) -> Any:
    """An option that only a table of labels has."""
    return _unset(metavar, help, *names, rich_help_panel="Options for tables")


def _needed(metavar: str, help: str) -> Any:
    """A required argument."""
    return typer.Argument(metavar=metavar, show_default=False, help=help)


Model = Annotated[Path, _needed("DIR", "Model folder written by `layergroups train`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Epochs = Annotated[int, typer.Option(min=0, metavar="N", help="Epochs after the head-only phase.")]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Batch size.")]
Workers = Annotated[int | None, _unset("N", "Data-loading workers (default: automatic).", min=0)]
Broken = Annotated[
    OnError, typer.Option(help="raise: stop at images that cannot be read; skip: leave them out.")
]
TextCol = Annotated[
    str | None,
    _of_csv("NAME", "The column of texts, or several separated by commas; without it, images."),
]
LabelCol = Annotated[
    str | None,
    _of_csv(
        "NAME",
        "The label column, or several separated by commas (default: the second; with --text, the "
        "one named label).",
        *("--label-col", "--label"),
    ),
]
LabelDelim = Annotated[
    str | None, _of_csv("TEXT", "The separator between several labels of one image.")
]
ValidCol = Annotated[str | None, _of_csv("NAME", "The column that marks the validation images.")]
ImagesDir = Annotated[
    Path | None,
    _of_csv(
        "DIR",
        "The folder of the images (default: the folder of the table).",
        *("--images", "--photos"),  # the second is its earlier name
    ),
]
_MASKS = {"rich_help_panel": "Options for masks"}
Masks = Annotated[
    Path | None,
    _unset(
        "DIR", "A mask for each image of FOLDER, of the same name: a class per pixel.", **_MASKS
    ),
]
MaskSuffix = Annotated[
    str, _unset("TEXT", "What names of masks have more than those of images: _mask.", **_MASKS)
]
Classes = Annotated[
    str | None,
    _unset(
        "NAMES",
        "Names of the values 0, 1, … of masks, separated by commas, or a file with a name per line "
        "(default: background and foreground).",
        **_MASKS,
    ),
]
Ignore = Annotated[
    str | None,
    _unset("NAMES", "Classes or values of masks that do not count (default: 255).", **_MASKS),
]
Split = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        rich_help_panel="Options for the network",
        help="How to split the network into layer groups: auto, layerwise, classic, a number of "
        "groups, or the modules at which groups begin, such as layer2,layer4.",
    ),
]


def _configured(context: typer.Context, file: Path | None) -> Path | None:
    """Take the settings in the file as defaults of the options."""
    if file is not None:
        context.default_map = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in read_settings(file).items()
        }
    return file


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"layergroups {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fine-tune pretrained networks on your own images or texts, by layer groups."""


class Kind(StrEnum):
    """What the demo shows."""

    photos = "photos"
    text = "text"


@app.command()
def demo(
    kind: Annotated[Kind, typer.Argument(help="photos or text.")] = Kind.photos,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the model and the figures.")
    ] = Path("demo-run"),
    epochs: Epochs = 3,
) -> None:
    """Fine-tune a real network on real photos or texts, without a download.

    EfficientNet-Lite0 with ImageNet weights on 210 photos of clothes; two minutes on 2 cores.
    MiniLM on 240 questions to a bank; one minute.
    """
    from layergroups.demo import run, run_text

    (run_text if kind is Kind.text else run)(out, epochs=epochs)


@app.command()
def train(
    context: typer.Context,
    folder: Annotated[
        Path,
        _needed(
            "FOLDER",
            "Images: one sub-folder per class, or train/ and valid/ with such sub-folders; or a "
            ".csv or .tsv file with image names, or texts (--text), and their labels or numbers; "
            "or images that have --masks.",
        ),
    ],
    config: Annotated[
        Path | None,
        _unset(
            "FILE",
            "A YAML file of settings, such as the run.yaml in a model folder. Options given here "
            "override it.",
            is_eager=True,
            callback=_configured,
        ),
    ] = None,
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Options for the network",
            help="Network: resnet18, torchvision:…, timm:… (`layergroups models` lists them); with "
            "--text, a text encoder on a hub, or a folder.",
        ),
    ] = RunConfig.arch,
    epochs: Epochs = RunConfig.epochs,
    freeze_epochs: Annotated[
        int, typer.Option(min=0, metavar="N", help="Epochs of the head-only phase.")
    ] = RunConfig.freeze_epochs,
    lr: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="RATE",
            help="Learning rate of the head-only phase; the later phase uses up to 0.03 of it.",
        ),
    ] = RunConfig.lr,
    search: Annotated[
        int | None,
        _unset("N", "First try N variants of the recipe on held-out training images.", min=4),
    ] = None,
    size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Image size in pixels.")
    ] = RunConfig.size,
    batch_size: BatchSize = RunConfig.batch_size,
    augment: Annotated[
        str | None,
        _unset(
            "WORD",
            "How training images vary: none; document for letters, signs and spectrograms (neither "
            "mirrored nor cut); rand, trivial, auto, augmix or erase (default: as photos).",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for the model: new, empty, or with an earlier model, which is replaced "
            "when training ends.",
        ),
    ] = RunConfig.out,
    weights: Annotated[
        Path | None,
        _unset(
            "FILE",
            "Pretrained weights (.safetensors or .pth) to use instead of a download.",
            rich_help_panel="Options for the network",
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            rich_help_panel="Options for the network",
            help="Start from pretrained or from random weights.",
        ),
    ] = RunConfig.pretrained,
    valid_pct: Annotated[
        float,
        typer.Option(
            metavar="PART",
            help="Fraction (0 to 1) of the images held out for validation, of each class where "
            "there are classes; not used if the data have a validation part.",
        ),
    ] = RunConfig.valid_pct,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Random seed: split, shuffling, augmentation, initialization."
        ),
    ] = RunConfig.seed,
    split: Split = RunConfig.split,
    text: TextCol = None,
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    images: ImagesDir = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            show_default=False,
            rich_help_panel="Options for tables",
            help="multiclass (one class for each image), multilabel or regression (default: "
            "inferred from the labels).",
        ),
    ] = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = RunConfig.mask_suffix,
    classes: Classes = None,
    ignore: Ignore = None,
    channels: Annotated[
        int | None, _unset("N", "Image channels, such as 1 for grayscale (default: 3).", min=1)
    ] = None,
    checkpoint_dir: Annotated[
        Path | None, _unset("DIR", "Save a checkpoint of the training here after each epoch.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the checkpoint in --checkpoint-dir.")
    ] = False,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: AsJson = False,
) -> None:
    """Fine-tune a network on a folder of images, a table of labels (.csv, .tsv), or masks.

    The new head trains first, then all layer groups.
    Ctrl-C after the first step saves the model and stops.
    """  # fmt: skip
    from layergroups.cli import _train_command as command
    from layergroups.cli._parsing import names_in

    settings = RunConfig(
        folder=folder, text=text, masks=masks, mask_suffix=mask_suffix,
        classes=",".join(names_in(classes) or ()) or None, ignore=ignore, arch=arch,
        epochs=epochs, freeze_epochs=freeze_epochs, lr=lr,
        search=search, size=size, batch_size=batch_size, augment=augment, out=out,
        weights=weights, pretrained=pretrained,
        valid_pct=valid_pct, seed=seed, split=split, label_col=label_col, label_delim=label_delim,
        valid_col=valid_col, images=images, task=task, channels=channels,
        checkpoint_dir=checkpoint_dir, workers=workers, on_error=on_error.value,
    )  # fmt: skip
    words = (app.info.name or "", *(context.obj or ()))
    command.run(settings, resume=resume, json=json, command=words)


@app.command()
def reproduce(
    run: Annotated[Path, _needed("DIR", "Model folder written by `layergroups train`.")],
    folder: Annotated[
        Path | None,
        _unset("FOLDER", "The images or the table, if they are no longer where they were."),
    ] = None,
    out: Annotated[
        Path | None, _unset("DIR", "Keep the repeated run in this folder (default: discard it).")
    ] = None,
    json: AsJson = False,
) -> None:
    """Repeat a run from its settings, and compare weights and history with it.

    Exit code 0: the same to the bit; 1: different, with the first difference and what else is
    not the same: versions, data, settings, machine.
    """
    from layergroups.cli import _reproduce_command as command

    command.run(run, images=folder, out=out, json=json)


@app.command()
def predict(
    model: Model,
    items: Annotated[
        list[str] | None,
        _needed(
            "IMAGE…",
            "Images, or folders of images; for a model of texts the texts, or none: each line of "
            "standard input.",
        ),
    ] = None,
    format: Annotated[
        Rows | None, typer.Option(help="Output format.", show_default="table")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder for the masks, as PNG files, of a model of masks.", **_MASKS
        ),
    ] = Path("predicted-masks"),
    tile: Annotated[
        int | None,
        _unset("N", "Predict large images by overlapping tiles of N pixels.", min=1, **_MASKS),
    ] = None,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Predict the labels, numbers or masks of images, or of texts, with a trained model.

    All images are checked first. The rows of a batch are written as soon as it is predicted.
    """
    from layergroups.cli import _predict_command as command

    if json and format not in (None, Rows.json):
        raise typer.BadParameter(f"--json and --format {format} are two formats; give one.")
    command.run(
        model, items or [], out=out, tile=tile, batch_size=batch_size, workers=workers,
        on_error=on_error.value, format="json" if json else (format or Rows.table).value,
    )  # fmt: skip


@app.command()
def export(
    model: Model,
    format: Annotated[
        Graph | None,
        typer.Option(help="onnx, or pt2 (torch.export); default: by the ending of --out."),
    ] = None,
    out: Annotated[
        Path | None,
        _unset(
            "FILE", "The file to write, .onnx or .pt2 (default: DIR/model.onnx or DIR/model.pt2)."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Export a model as one file that runs without this library.

    The file takes pixels and returns probabilities or numbers, which are first compared with the
    model's. FILE.json describes it.
    """  # fmt: skip
    from layergroups.cli import _export_command as command

    command.run(model, format=format and format.value, out=out, json=json)


@app.command()
def validate(
    model: Model,
    folder: Annotated[
        Path,
        _needed(
            "FOLDER",
            "Images: one sub-folder per class (of train/ and valid/, only valid/ is used), or a "
            ".csv or .tsv file, as for `layergroups train`.",
        ),
    ],
    out: Annotated[
        Path | None, _unset("FILE", "Draw the confusion matrix to this file: .png, .svg or .pdf.")
    ] = None,
    text: TextCol = None,
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    images: ImagesDir = None,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: AsJson = False,
) -> None:
    """Evaluate a trained model on labelled images or texts."""  # fmt: skip
    from layergroups.cli import _validate_command as command
    from layergroups.cli._parsing import TableOptions

    labels = TableOptions(
        text=text, column=label_col, delimiter=label_delim, valid=valid_col, images=images
    )
    command.run(
        model, folder, labels=labels, out=out, batch_size=batch_size, workers=workers,
        on_error=on_error.value, json=json,
    )  # fmt: skip


@app.command()
def inspect(
    what: Annotated[
        str, _needed("ARCH_OR_DIR", "A network such as resnet18 or timm:…, or a model folder.")
    ],
    split: Annotated[
        str | None,
        _unset(
            "RULE",
            "auto, layerwise, classic, a number of groups, or the modules at which groups begin, "
            "such as layer2,layer4 (default: auto, or the groups of the model folder).",
        ),
    ] = None,
    size: Annotated[
        int | None,
        _unset(
            "N",
            "Image size in pixels (default: that of the weights, or of the model folder).",
            min=1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        _unset("FILE", "Draw the network and its groups to this file: .png, .svg or .pdf."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the layer groups of a network and the reason for each split.

    It needs no weights and downloads nothing.
    """  # fmt: skip
    from layergroups.cli import _inspect_command as command

    command.run(what, split=split, size=size, out=out, json=json)


@app.command()
def models(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name, with * for any letters.", metavar="PATTERN")
    ] = "*",
    json: AsJson = False,
) -> None:
    """List the networks that `layergroups train --arch` takes, such as '*efficientnet*'."""
    from layergroups._formatting import show, show_json
    from layergroups.models import list_models

    names = list_models(pattern if "*" in pattern else f"*{pattern}*")
    if json:
        show_json(names)
    else:
        show("\n".join(names) or f"No name fits {pattern}.")


@app.command()
def report(
    runs: Annotated[list[Path], _needed("DIR…", "Model folders written by `layergroups train`.")],
    compare: Annotated[bool, typer.Option("--compare", help="Show two runs side by side.")] = False,
    out: Annotated[
        Path | None,
        _unset(
            "FILE", "The .html file to write (default: DIR/run.html; compare.html for two runs)."
        ),
    ] = None,
    text: Annotated[
        bool,
        typer.Option(
            "--text", help="Write tables to stdout instead of the page (with --out, both)."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Write the report of a run: one HTML file with charts, images and all figures.

    It needs neither the model nor the images, and works offline.
    """  # fmt: skip
    from layergroups.cli import _report_command as command

    command.run(runs, compare=compare, out=out, text=text, json=json)
