"""The commands and their options, as they stand in `--help`. Nothing heavy is imported here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from layergroups import __version__

app = typer.Typer(
    name="layergroups",
    help="Fine-tune pretrained networks on folders of photos, by layer groups.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OnError(StrEnum):
    """What happens with images that cannot be read."""

    stop = "raise"
    skip = "skip"


class Rows(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Task(StrEnum):
    """What is learned of each photo of a table."""

    multiclass = "multiclass"
    multilabel = "multilabel"
    regression = "regression"


class Graph(StrEnum):
    """Which kind of file runs without this library."""

    onnx = "onnx"
    pt2 = "pt2"


def _unset(metavar: str, help: str, **more: Any) -> Any:
    """An option that is left out unless it is given."""
    return typer.Option(metavar=metavar, show_default=False, help=help, **more)


def _needed(metavar: str, help: str) -> Any:
    """An argument that must be given."""
    return typer.Argument(metavar=metavar, show_default=False, help=help)


Model = Annotated[Path, _needed("DIR", "What `layergroups train` wrote.")]


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]


Epochs = Annotated[int, typer.Option(min=0, metavar="N", help="Epochs after those of the head.")]


BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Photos in a batch.")]


Workers = Annotated[
    int | None,
    _unset("N", "Processes that prepare batches; chosen if not given.", min=0),
]


Broken = Annotated[
    OnError, typer.Option(help="Stop at images that cannot be read, or leave them out.")
]


LabelCol = Annotated[
    str | None,
    _unset(
        "NAME", "Of a table: the column of labels, or several with commas; the second if not given."
    ),
]


LabelDelim = Annotated[
    str | None,
    _unset("TEXT", "Of a table: what stands between several labels of one photo."),
]


ValidCol = Annotated[
    str | None,
    _unset("NAME", "Of a table: the column that says which photos are for validation."),
]


PhotosDir = Annotated[
    Path | None,
    _unset(
        "DIR", "Of a table: the folder in which the photos lie; that of the table if not given."
    ),
]


Split = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="auto, layerwise, classic, a number of groups, or the modules where groups begin: "
        "layer2,layer4.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"layergroups {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Fine-tune pretrained networks on folders of photos, by layer groups."""


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the model and the pictures.")
    ] = Path("demo-run"),
    epochs: Epochs = 3,
) -> None:
    """Fine-tune a real network on real photos, here and now, without a download.

    210 photos of clothes, EfficientNet-Lite0 with ImageNet weights, and two minutes on 2 cores.
    """
    from layergroups.demo import run

    run(out, epochs=epochs)


@app.command()
def train(
    context: typer.Context,
    folder: Annotated[
        Path,
        _needed(
            "FOLDER",
            "Photos: a sub-folder for each class, or train/ and valid/ with those in them; or "
            "a .csv file with names of photos and their labels or numbers.",
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(metavar="NAME", help="A network: resnet18, torchvision:…, timm:…"),
    ] = "resnet18",
    epochs: Epochs = 3,
    freeze_epochs: Annotated[
        int, typer.Option(min=0, metavar="N", help="Epochs before, in which only the head trains.")
    ] = 1,
    lr: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="RATE",
            help="Learning rate of the head alone; what trains afterwards has a fifth of it.",
        ),
    ] = 1e-3,
    size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Side of the images, pixels.")
    ] = 224,
    batch_size: BatchSize = 64,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="A new or empty folder for the model, or an earlier model's, which is replaced "
            "when the training is done.",
        ),
    ] = Path("model"),
    weights: Annotated[
        Path | None,
        _unset("FILE", "Pretrained weights, .safetensors or .pth, instead of a download."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--no-pretrained", help="Begin with pretrained weights.")
    ] = True,
    valid_pct: Annotated[
        float, typer.Option(metavar="PART", help="Part of each class kept for validation.")
    ] = 0.2,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Decides split, order, variations and first weights.")
    ] = 42,
    split: Split = "auto",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    photos: PhotosDir = None,
    task: Annotated[
        Task | None,
        typer.Option(
            show_default=False,
            help="Of a table: one class each, several labels, or numbers; seen from the labels if "
            "not given.",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        _unset("N", "Channels of the images, such as 1 for grey; 3 if not given.", min=1),
    ] = None,
    checkpoint_dir: Annotated[
        Path | None,
        _unset("DIR", "Save the whole state of the training here after each epoch."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what is in --checkpoint-dir.")
    ] = False,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: AsJson = False,
) -> None:
    """Fine-tune a network on a folder of photos, or on a table of them.

    First the new head trains, then all but the first layer group. Ctrl-C ends it and saves what
    was learned.
    """  # fmt: skip
    from layergroups.cli import _train_command as command
    from layergroups.cli._predict_command import Labels

    labels = Labels(
        column=label_col,
        delimiter=label_delim,
        valid=valid_col,
        task=None if task is None else task.value,
        photos=photos,
    )
    command.run(
        command.TrainOptions(
            folder=folder, labels=labels, channels=channels, arch=arch, epochs=epochs,
            freeze_epochs=freeze_epochs, lr=lr, size=size, batch_size=batch_size, out=out,
            weights=weights, pretrained=pretrained,
            valid_pct=valid_pct, seed=seed, split=split, checkpoint_dir=checkpoint_dir,
            resume=resume, workers=workers, on_error=on_error.value, json=json,
            command=(app.info.name or "", *(context.obj or ())),
        )
    )  # fmt: skip


@app.command()
def predict(
    model: Model,
    images: Annotated[
        list[Path],
        _needed("IMAGE…", "Photos, or folders of them."),
    ],
    format: Annotated[
        Rows | None,
        typer.Option(help="How rows are written, as they come.", show_default="table"),
    ] = None,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Say what is on photos.

    All photos are checked first; then each batch is written as soon as it is predicted.
    """
    from layergroups.cli import _predict_command as command

    if json and format not in (None, Rows.json):
        raise typer.BadParameter(f"--json and --format {format} are two formats; give one.")
    command.run(
        model, images, batch_size=batch_size, workers=workers, on_error=on_error.value,
        format="json" if json else (format or Rows.table).value,
    )  # fmt: skip


@app.command()
def export(
    model: Model,
    format: Annotated[
        Graph | None,
        typer.Option(help="onnx, or pt2 of torch.export; that of --out's ending if not given."),
    ] = None,
    out: Annotated[
        Path | None,
        _unset("FILE", "The file to write: .onnx or .pt2; DIR/model.onnx or .pt2 if not given."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a model as one file that runs without this library, checked against the model.

    It takes pixels as they are and gives probabilities; FILE.json says the rest.
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
            "Photos: a sub-folder for each class (of train/ and valid/, valid/ is taken), or "
            "a .csv file as `layergroups train` takes it.",
        ),
    ],
    out: Annotated[
        Path | None,
        _unset("FILE", "Write a picture of the confusion matrix: .png, .svg or .pdf."),
    ] = None,
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    photos: PhotosDir = None,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: AsJson = False,
) -> None:
    """Measure a model on photos whose classes, labels or numbers are known."""  # fmt: skip
    from layergroups.cli import _validate_command as command
    from layergroups.cli._predict_command import Labels

    labels = Labels(column=label_col, delimiter=label_delim, valid=valid_col, photos=photos)
    command.run(
        model, folder, labels=labels, out=out, batch_size=batch_size, workers=workers,
        on_error=on_error.value, json=json,
    )  # fmt: skip


@app.command()
def inspect(
    what: Annotated[
        str,
        _needed(
            "ARCH_OR_DIR",
            "A network such as resnet18 or timm:…, or what `layergroups train` wrote.",
        ),
    ],
    split: Annotated[
        str | None,
        _unset(
            "RULE",
            "auto (default of a network), layerwise, classic, a number of groups, or the "
            "modules where groups begin: layer2,layer4.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        _unset("N", "Side of the images, pixels; that of the weights if not given.", min=1),
    ] = None,
    out: Annotated[
        Path | None,
        _unset("FILE", "Draw the network in its groups: .png, .svg or .pdf."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the layer groups of a network and why each split is where it is.

    Weights are not needed, and nothing is downloaded.
    """  # fmt: skip
    from layergroups.cli import _inspect_command as command

    command.run(what, split=split, size=size, out=out, json=json)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        _needed("DIR…", "What `layergroups train` wrote."),
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Put two runs side by side.")] = False,
    out: Annotated[
        Path | None,
        _unset(
            "FILE",
            "The page to write, .html; DIR/run.html if not given, for two runs compare.html.",
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Write the same facts as tables to stdout.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Make the page of a run: one HTML file with charts, photos and all figures.

    Neither the model nor the photos are needed. It asks for nothing on the network.
    """  # fmt: skip
    from layergroups.cli import _report_command as command

    command.run(runs, compare=compare, out=out, text=text, json=json)
