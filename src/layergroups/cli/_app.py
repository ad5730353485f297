"""The commands and their options, as `--help` shows them. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from layergroups import __version__
from layergroups._suggestions import nearest_folder
from layergroups.cli._parsing import PREDICTED_MASKS
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


def _option(metavar: str | None, help: str, *names: str, panel: str = "", **more: Any) -> Any:
    """An option, in a panel of the help."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel or None, **more)


_network = partial(_option, panel="Network")
_training = partial(_option, panel="Training")
_images = partial(_option, panel="Images")
_tables = partial(_option, panel="Tables")
_masks = partial(_option, panel="Masks")
_saving = partial(_option, panel="Results and checkpoints")


def _needed(metavar: str, help: str) -> Any:
    """A required argument."""
    return typer.Argument(metavar=metavar, show_default=False, help=help)


Model = Annotated[Path, _needed("DIR", "Model folder written by `layergroups train`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Epochs = Annotated[int, _training("N", "Epochs of all layer groups.", min=0)]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Batch size.")]
Workers = Annotated[int | None, _option("N", "Data-loading workers (default: automatic).", min=0)]
_BROKEN = "Images that cannot be read, and items without label or mask: raise an error, or skip."
Broken = Annotated[OnError, typer.Option(help=_BROKEN)]
TextCol = Annotated[
    str | None,
    _tables("NAME", "Column of texts, or several separated by commas (default: images)."),
]
MaxLength = Annotated[
    int | None,
    _tables("N", "Tokens of a text (default: what the encoder takes, at most 512).", min=2),
]
LongTexts = Annotated[
    str | None,
    _tables("HOW", "Longer texts: truncate them (default), or read all of them in windows."),
]
LabelCol = Annotated[
    str | None,
    _tables(
        "NAME",
        "Label column, or several separated by commas (default: the second; with --text, that "
        "named label).",
        *("--label-col", "--label"),
    ),
]
LabelDelim = Annotated[
    str | None, _tables("TEXT", "The separator between several labels of one image.")
]
ValidCol = Annotated[str | None, _tables("NAME", "Column that marks the validation images.")]
ImagesDir = Annotated[
    Path | None,
    _tables(
        "DIR",
        "Folder of the images (default: that of the table).",
        *("--images", "--photos"),  # the second is its earlier name
    ),
]
ImageCol = Annotated[str | None, _tables("NAME", "Column of image names (default: the first).")]
Suffix = Annotated[
    str | None, _tables("TEXT", "Ending that the image names of the table lack, such as .jpg.")
]
Masks = Annotated[
    Path | None,
    _masks("DIR", "A mask for each image of FOLDER, of the same name: a class per pixel."),
]
MaskSuffix = Annotated[
    str,
    _masks(
        "TEXT",
        "Ending that mask names have and image names lack, such as _mask.",
        show_default=False,
    ),
]
Classes = Annotated[
    str | None,
    _masks(
        "NAMES",
        "Names of the values 0, 1, … of masks, separated by commas, or a file with a name per line "
        "(default: background and foreground). RGB masks: each name with its colour, as in "
        "'road #804080' or '128 64 128 road'.",
    ),
]
Ignore = Annotated[
    str | None,
    _masks("NAMES", "Classes, values or colours of masks that do not count (default: 255)."),
]
Overlapping = Annotated[
    bool,
    _masks(
        None,
        "Labels may overlap: a folder of masks below --masks for each, or files with a layer for "
        "each of --classes.",
        "--overlapping",
    ),
]
Split = Annotated[
    str,
    _network(
        "RULE",
        "How to split the network into layer groups: auto, layerwise, classic, a number of groups, "
        "or the modules at which groups begin, such as layer2,layer4.",
    ),
]
Pooling = Annotated[
    str | None,
    _network(
        "HOW",
        "Vector of a text: mean of its tokens, cls (the first) or last (default: what the encoder "
        "was trained with).",
    ),
]
DecoderName = Annotated[
    str | None,
    _network(
        "NAME",
        "Decoder of masks: unet, fpn, deeplabv3+, plain; for vision transformers dpt (default: "
        "unet; plain for networks with maps of one resolution).",
    ),
]
_MADE_OTHERWISE = {"out", "checkpoint_dir", "from_run", "weights", "search", "freeze_epochs"}
_OF_THE_RUN = ("arch", "weights", "pretrained", "decoder", "pooling", "split")  # by --from
_EXAMPLES = """Examples:
 layergroups train photos --out pets
 layergroups train labels.csv --images photos --size 160 --metrics f1
 layergroups train --from pets --epochs 5 --out pets2
"""


def _configured(context: typer.Context, file: Path | None) -> Path | None:
    """Take the settings in the file as defaults of the options."""
    if file is not None:
        context.default_map = {**(context.default_map or {}), **_defaults(file)}
    return file


def _continued(context: typer.Context, run: Path | None) -> Path | None:
    """Take the settings of the run as defaults, but those that say where it was written."""
    if run is not None and not run.is_dir():
        raise typer.BadParameter(f"there is no folder {run}.{nearest_folder(run, 'run.yaml')}")
    if run is not None and not (run / "learner.json").is_file():
        raise typer.BadParameter(f"{run} has no learner.json, so it holds no model to train on.")
    if run is not None and (run / "run.yaml").is_file():
        own = _defaults(run / "run.yaml")
        known = {name: value for name, value in own.items() if name not in _MADE_OTHERWISE}
        context.default_map = {**known, **(context.default_map or {})}
    return run


def _is_typed(context: typer.Context, name: str) -> bool:
    source: Any = context.get_parameter_source(name)  # click's, whose types typer does not export
    return source is not None and source.name == "COMMANDLINE"


def _defaults(file: Path) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in read_settings(file).items()
    }


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
    from layergroups import demo

    if kind is Kind.text:
        settings = RunConfig(
            folder=demo.TEXTS, text="text", valid_col="split", arch=str(demo.minilm_folder()),
            metrics="accuracy", batch_size=32, epochs=epochs, out=out,
        )  # fmt: skip
        demo.run_text(out, epochs=epochs, config=settings.to_yaml())
        return
    settings = RunConfig(
        folder=demo.PHOTOS, arch=demo.ARCHITECTURE, weights=demo.efficientnet_lite0_weights(),
        epochs=epochs, size=demo.SIZE, out=out,
    )  # fmt: skip
    demo.run(out, epochs=epochs, config=settings.to_yaml())


@app.command(epilog=_EXAMPLES)
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
    arch: Annotated[
        str | None,
        _network(
            "NAME",
            "resnet18, torchvision:…, timm:… (`layergroups models` lists them); with --text, a "
            "text encoder on a hub, or a folder (default: resnet18; all-MiniLM-L6-v2).",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        _network("FILE", "Pretrained weights (.safetensors or .pth) instead of a download."),
    ] = None,
    pretrained: Annotated[
        bool,
        _network(None, "Pretrained or random weights.", "--pretrained/--no-pretrained"),
    ] = RunConfig.pretrained,
    decoder: DecoderName = None,
    pooling: Pooling = None,
    split: Split = RunConfig.split,
    from_run: Annotated[
        Path | None,
        _network(
            "DIR",
            "Train on from this model folder, with the settings of its run where none are given. "
            "The data may have other classes: outputs are kept by name.",
            "--from",
            is_eager=True,
            callback=_continued,
        ),
    ] = None,
    epochs: Epochs = RunConfig.epochs,
    freeze_epochs: Annotated[
        int | None,
        _training(
            "N",
            "Epochs of the head alone, before those of all groups (default: 1; 0 with --from and "
            "the same classes).",
            min=0,
        ),
    ] = None,
    train_all_layers: Annotated[
        bool,
        _training(
            None,
            "Train all layers at --lr from the start, in one cycle: for networks without "
            "pretrained weights.",
            "--train-all-layers",
        ),
    ] = RunConfig.train_all_layers,
    lr: Annotated[
        float,
        _training(
            "RATE",
            "Learning rate of the head; the epochs of all groups use 0.05 of it.",
            min=0,
        ),
    ] = RunConfig.lr,
    optimizer: Annotated[
        str, _training("NAME", "Optimizer of torch or timm: adamw, sgd, lamb and others.")
    ] = RunConfig.optimizer,
    weight_decay: Annotated[
        float, _training("PART", "Not applied to norms and biases.", min=0)
    ] = RunConfig.weight_decay,
    loss: Annotated[
        str | None,
        _training(
            "NAME",
            "cross_entropy, focal, dice, bce, mse, huber and others, or a sum such as dice+focal "
            "(default: that of the task).",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        _training(
            "NAMES", "Separated by commas, such as accuracy,f1 (default: those of the task)."
        ),
    ] = None,
    mixed_precision: Annotated[
        str | None, _training("WORD", "no, bf16 or fp16 (default: no).")
    ] = None,
    device: Annotated[
        str | None,
        _training("NAME", "cpu, cuda, cuda:1, mps (default: an accelerator if there is one)."),
    ] = None,
    seed: Annotated[
        int, _training("N", "Random seed of split, shuffling, augmentation and first weights.")
    ] = RunConfig.seed,
    search: Annotated[
        int | None,
        _training("N", "First try N variants of the recipe on held-out training items.", min=4),
    ] = None,
    size: Annotated[int, _images("N", "Image size in pixels.", min=1)] = RunConfig.size,
    batch_size: Annotated[int, _images("N", "Batch size.", min=1)] = RunConfig.batch_size,
    augment: Annotated[
        str | None,
        _images(
            "WORD",
            "How training images vary: none; document for letters, signs and spectrograms (neither "
            "mirrored nor cut); rand, trivial, auto, augmix or erase (default: as photos).",
        ),
    ] = None,
    balance: Annotated[
        bool,
        _images(
            None,
            "Train on all classes equally often, however many images each has.",
            "--balance",
        ),
    ] = RunConfig.balance,
    valid_pct: Annotated[
        float,
        _images(
            "PART",
            "Fraction (0 to 1) held out for validation, of each class; not used if the data have a "
            "validation part.",
        ),
    ] = RunConfig.valid_pct,
    channels: Annotated[
        int | None, _images("N", "Channels, such as 1 for grayscale (default: 3).", min=1)
    ] = None,
    workers: Annotated[
        int | None, _images("N", "Data-loading workers (default: automatic).", min=0)
    ] = None,
    on_error: Annotated[OnError, _images(None, _BROKEN)] = OnError.stop,
    text: TextCol = None,
    max_length: MaxLength = None,
    long: LongTexts = None,
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    images: ImagesDir = None,
    image_col: ImageCol = None,
    suffix: Suffix = None,
    task: Annotated[
        str | None,
        _tables("TASK", "multiclass, multilabel or regression (default: the labels decide)."),
    ] = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = RunConfig.mask_suffix,
    classes: Classes = None,
    ignore: Ignore = None,
    overlapping: Overlapping = RunConfig.overlapping,
    out: Annotated[
        Path,
        _saving(
            "DIR",
            "Folder for the model: new, empty, or with an earlier model, which is replaced when "
            "training ends.",
        ),
    ] = RunConfig.out,
    keep_best: Annotated[
        str | None,
        _saving(
            "NAME",
            "Keep the weights of the epoch with the best valid_loss, accuracy or other metric "
            "(default: those of the last epoch).",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _saving(
            "N", "Stop after N epochs without a better valid_loss, or value of --keep-best.", min=1
        ),
    ] = None,
    checkpoint_dir: Annotated[
        Path | None, _saving("DIR", "Save the whole state here after each epoch.")
    ] = None,
    resume: Annotated[
        bool,
        _saving(None, "Resume from --checkpoint-dir.", "--resume"),
    ] = False,
    config: Annotated[
        Path | None,
        _saving(
            "FILE",
            "Settings in YAML, such as run.yaml of a model folder; options override them.",
            is_eager=True,
            callback=_configured,
        ),
    ] = None,
    json: Annotated[bool, _saving(None, "Write JSON to stdout.", "--json")] = False,
) -> None:
    """Fine-tune a network on a folder of images, a table of labels (.csv, .tsv), or masks.

    The new head trains first, then all layer groups.
    Ctrl-C after the first step saves the model and stops.
    """  # fmt: skip
    from layergroups.cli import _train_command as command
    from layergroups.cli._parsing import joined, names_in

    values = locals() | {"on_error": on_error.value, "classes": joined(names_in(classes))}
    given = ", ".join(f"--{name}" for name in _OF_THE_RUN if _is_typed(context, name))
    if from_run is not None and given:
        raise typer.BadParameter(f"{given}: --from trains the network of {from_run} on.")
    settings = RunConfig(**{field.name: values[field.name] for field in fields(RunConfig)})
    words = (app.info.name or "", *(context.obj or ()))
    command.run(settings, resume=resume, json=json, command=words)


@app.command()
def reproduce(
    run: Annotated[Path, _needed("DIR", "Model folder written by `layergroups train`.")],
    folder: Annotated[
        Path | None,
        _option("FOLDER", "The images or the table, if they are no longer where they were."),
    ] = None,
    out: Annotated[
        Path | None, _option("DIR", "Keep the repeated run in this folder (default: discard it).")
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
            "Images, or folders of images. For a model of texts: the texts; without any, each line "
            "of standard input is one.",
        ),
    ] = None,
    format: Annotated[
        Rows | None, typer.Option(help="Output format.", show_default="table")
    ] = None,
    out: Annotated[
        Path,
        _masks("DIR", "Folder for the masks, PNG files, or TIFF files if labels overlap."),
    ] = Path(PREDICTED_MASKS),
    force: Annotated[
        bool, _masks(None, "Replace files in --out; never an image that is predicted.", "--force")
    ] = False,
    tile: Annotated[
        int | None,
        _masks("N", "Predict large images by overlapping tiles of N pixels.", min=1),
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
        model, items or [], out=out, force=force, tile=tile, batch_size=batch_size, workers=workers,
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
        _option(
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
            ".csv or .tsv file, as for `layergroups train`; or images that have --masks.",
        ),
    ],
    out: Annotated[
        Path | None, _option("FILE", "Draw the confusion matrix to this file: .png, .svg or .pdf.")
    ] = None,
    text: TextCol = None,
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    valid_col: ValidCol = None,
    images: ImagesDir = None,
    image_col: ImageCol = None,
    suffix: Suffix = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = RunConfig.mask_suffix,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: Broken = OnError.stop,
    json: AsJson = False,
) -> None:
    """Evaluate a trained model on labelled images or texts."""  # fmt: skip
    from layergroups.cli import _validate_command as command
    from layergroups.cli._parsing import TableOptions

    labels = TableOptions(
        text=text, column=label_col, delimiter=label_delim, valid=valid_col, images=images,
        image_col=image_col, suffix=suffix,
    )  # fmt: skip
    command.run(
        model, folder, labels=labels, masks=masks, suffix=mask_suffix, out=out,
        batch_size=batch_size, workers=workers, on_error=on_error.value, json=json,
    )  # fmt: skip


@app.command()
def inspect(
    what: Annotated[
        str, _needed("ARCH_OR_DIR", "A network such as resnet18 or timm:…, or a model folder.")
    ],
    split: Annotated[
        str | None,
        _option(
            "RULE",
            "auto, layerwise, classic, a number of groups, or the modules at which groups begin, "
            "such as layer2,layer4 (default: auto, or the groups of the model folder).",
        ),
    ] = None,
    size: Annotated[
        int | None,
        _option(
            "N",
            "Image size in pixels (default: that of the weights, or of the model folder).",
            min=1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        _option("FILE", "Draw the network and its groups to this file: .png, .svg or .pdf."),
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
        _option(
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
