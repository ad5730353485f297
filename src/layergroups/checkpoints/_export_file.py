"""Write a model as one file that runs without this library: `.pt2` of torch.export, or `.onnx`.

The graph maps the pixels of an image file, or the tokens of a text, to probabilities or numbers: it
includes normalisation and the last activation. Resizing is described in a JSON beside the file and
in the file; the tokenizer of texts is beside it. The file is written under a temporary name, run,
and compared with the model before it is renamed.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from layergroups._forward import call_model
from layergroups.anatomy import unwrap
from layergroups.checkpoints import _file as file
from layergroups.data import EvalTransform, TextTransform
from layergroups.errors import CheckpointError
from layergroups.groups import remove_hooks
from layergroups.input_spec import InputSpec
from layergroups.tasks import Task

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def _write_onnx(
    program: ExportedProgram,
    path: Path,
    description: str,
    inputs: Mapping[str, Tensor],
    output: str,
) -> None:
    names: dict[int, Any] = dict(enumerate(_varying([*inputs.values()])))
    try:
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[*inputs],
            output_names=[output],
            # the default names are like s81
            dynamic_shapes=_shapes(inputs, names),
        )
        made.model.metadata_props["layergroups"] = description
        made.save(str(path), external_data=False)
    except OSError:
        raise
    except Exception as cause:  # the converter's errors have no common base class
        raise CheckpointError(
            f"The model cannot be written as ONNX: {_line(_first_cause(cause))}. Use the format of "
            f'torch.export: learn.export("model.pt2"). {_ANY_MODEL}'
        ) from cause


def _run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    except Exception as cause:  # onnxruntime's errors have no common base class
        raise CheckpointError(f"onnxruntime cannot run the file: {_line(cause, -1)}.") from cause
    return torch.from_numpy(answer)


def check_packages() -> None:
    """Check that the packages for writing and running ONNX files are installed."""
    try:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            import_module(name)
    except ImportError as cause:
        raise CheckpointError(
            f'ONNX files need the package {cause.name}: pip install "layergroups[onnx]". Without '
            'it, torch.export\'s own format works: learn.export("model.pt2").'
        ) from cause


def _first_cause(error: BaseException) -> BaseException:
    """The error that was translated into others on the way."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(cause: BaseException, which: int = 0) -> str:
    """The first line of an error; the last is where onnxruntime puts the cause."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[which].rstrip('.:')}" if lines else type(cause).__name__


INPUT: Final = "pixels"
_EIGHT_BITS: Final = {1: "grey", 3: "RGB"}  # other images come as fractions
DESCRIPTION: Final = "description.json"
_ANY_MODEL: Final = "Any model can be exported to a folder: learn.export(folder)."
# the dimensions of tokens, without and with windows
_AXES: Final = {False: ("batch", "tokens"), True: ("batch", "windows", "tokens")}
VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Portable:
    """The specification of a portable file.

    `activation` makes probabilities or numbers of outputs; the transform's resizing is not in the
    graph.
    """

    classes: tuple[str, ...]
    transform: EvalTransform | TextTransform
    activation: Callable[[Tensor], Tensor]
    loss: str
    task: Task
    thresh: float = 0.5
    keyword: str = ""  # the argument of a model that takes the images by name

    def to_dict(self, ending: str) -> dict[str, Any]:
        """The description for users of the file, JSON-ready."""
        texts = isinstance(self.transform, TextTransform)
        transform: Any = self.transform
        masks = self.task.per_pixel
        return {
            "version": VERSION,
            "format": ending.removeprefix("."),
            "task": self.task.name,
            "classes": list(self.classes),
            **({"threshold": self.thresh} if self.task.has_threshold else {}),
            **(_of_texts(transform) if texts else _of_images(transform)),
            "output": {
                "name": self.task.output_name,
                "type": "float32",
                "shape": ["batch", len(self.classes), *(transform.size if masks else ())],
                "meaning": f"{self.task.output_is}; the model was trained with {self.loss}",
            },
            "made_with": {
                "layergroups": sys.modules["layergroups"].__version__,  # a higher level
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def _of_images(transform: EvalTransform) -> dict[str, Any]:
    height, width = transform.size
    spec = transform.input
    return {
        "input": {
            "name": INPUT,
            "type": "uint8" if spec.channels in _EIGHT_BITS else "float32",
            "shape": ["batch", height, width, spec.channels],
            "meaning": _pixels_in_words(spec.channels),
        },
        "before_the_graph": _before(transform),
        "inside_the_graph": {
            "scale": 1 / _largest(spec),
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }


def _of_texts(transform: TextTransform) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "type": "int64", "shape": list(_AXES[transform.long == "windows"])}
            for name in (*transform.inputs, "attention_mask")
        ],
        "before_the_graph": {
            "tokenizer": "the file of this name with .tokenizer.json, for the package tokenizers",
            "columns": transform.columns or None,  # not known
            "separator": transform.separator,
            "max_length": transform.max_length,
            "long": transform.long,
            **_of_windows(transform),
            "padding": transform.padding,
            "in_words": " ".join(_steps_for_texts(transform)),
        },
    }


def _of_windows(transform: TextTransform) -> dict[str, Any]:
    if transform.long != "windows":
        return {}
    return {"overlap": transform.overlap, "most_windows": transform.most_windows}


def _steps_for_texts(transform: TextTransform) -> Iterator[str]:
    """What a program does with a text before it runs the graph."""
    if transform.columns != 1:
        yield "Join the columns of a text by separator, and leave out empty ones."
    if transform.long == "windows":
        yield (
            "Encode the text in windows of at most max_length tokens, special tokens included; "
            "each begins with the last overlap tokens of the one before it: "
            "enable_truncation(max_length, stride=overlap), then encode(text) and its overflowing. "
            "Keep the first most_windows. Fill up shorter texts with windows of padding alone: the "
            "graph leaves them out, and averages the vectors of a text's windows before the head."
        )
    else:
        yield "Encode the text, and cut it to max_length tokens, special tokens included."
    yield (
        "Pad input_ids on the right with padding, and other inputs with 0; attention_mask is 1 for "
        "tokens and 0 for padding."
    )


class FromTokens(nn.Module):
    """A model of texts with its activation after it.

    Shapes: int64 (N, L) in, for each of `names`, or (N, K, L) for K windows; float32 (N, C) out.
    """

    def __init__(self, model: nn.Module, wanted: Portable, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.activation, self.names = wanted.activation, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        return self.activation(call_model(self.model, named)).to(torch.float32)


class FromPixels(nn.Module):
    """A model with normalisation before it and its activation after it.

    Shapes: uint8 (N, H, W, channels) in, or fractions if images are neither grey nor RGB;
    float32 (N, C) out, or (N, C, H, W) for masks.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, wanted: Portable, transform: EvalTransform) -> None:
        super().__init__()
        spec = transform.input
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        self.model = model
        self.activation, self.keyword = wanted.activation, wanted.keyword
        self.fitted = wanted.task.fitted
        self.register_buffer("scale", 1 / (_largest(spec) * std))
        self.register_buffer("shift", mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)
        images = images * self.scale - self.shift
        outputs = call_model(self.model, {self.keyword: images} if self.keyword else images)
        return self.activation(self.fitted(outputs, images)).to(torch.float32)


def write_portable(
    path: Path,
    model: nn.Module,
    wanted: Portable,
    *,
    inputs: Mapping[str, Tensor],
    expected: Tensor,
    exact: bool = True,
) -> Path:
    """Write a `.pt2` or `.onnx` file and its description `path`.json; the model does not change.

    `inputs`, by name, such as `trial_pixels`, test the file: `expected` are the model's predictions
    for them, (N, C), on the CPU; not `exact` if computed in half precision or on an accelerator.
    """
    ending = path.suffix.lower()
    if ending == ".onnx":
        check_packages()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters warn about their own code
        copied, transform = clean_copy(model), wanted.transform
        graph: FromPixels | FromTokens = (
            FromTokens(copied, wanted, [*inputs])
            if isinstance(transform, TextTransform)
            else FromPixels(copied, wanted, transform)
        )
        program = captured(graph, [value[:2] for value in inputs.values()])
        description = wanted.to_dict(ending)

        def write_and_compare(part: str) -> None:
            text = json.dumps(description, ensure_ascii=False)
            write, run = _FORMATS[ending]
            write(program, Path(part), text, inputs, wanted.task.output_name)
            first = {name: _first(value) for name, value in inputs.items()}
            answers = [run(Path(part), batch) for batch in (inputs, first)]
            found = torch.cat(answers)
            again = torch.cat([expected, expected[:1]])
            description["checked"] = compared(found, again, wanted, path, exact=exact)

        file.atomic_write(path, write_and_compare)
    text = json.dumps(description, indent=2, ensure_ascii=False)
    file.write_text(path.with_name(f"{path.name}.json"), text + "\n")
    return path


def clean_copy(model: nn.Module) -> nn.Module:
    """A copy for capturing: on the CPU, float32, in eval mode, without freezing hooks."""
    try:
        copied = copy.deepcopy(unwrap(model))
    except Exception as cause:  # a custom module's __deepcopy__ may raise anything
        raise CheckpointError(
            f"{type(model).__name__} cannot be copied, which the export needs: {_line(cause)}"
        ) from cause
    remove_hooks(copied)
    return copied.cpu().float().eval().requires_grad_(False)


def captured(model: FromPixels | FromTokens, example: Sequence[Tensor]) -> ExportedProgram:
    """Capture the model as a graph for any number of images, or of texts of any length."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if isinstance(model, FromTokens):  # names of dimensions fail in the masks of transformers
        axes = dict.fromkeys(range(len(_varying(example))), torch.export.Dim.DYNAMIC)
    items = "texts" if isinstance(model, FromTokens) else "images"
    try:
        program = torch.export.export(
            model,
            tuple(example),
            dynamic_shapes=_shapes(example, axes),
            strict=False,
        )
    except Exception as cause:  # torch.export passes on the errors of the model's code
        raise CheckpointError(
            f"torch.export cannot capture {type(model.model).__name__} as one graph for any number "
            f"of {items}: {_line(cause)}. Its forward must not branch on tensor values or on the "
            f"number of {items}: use torch.where, and x.flatten(1) or x.shape[0]. {_ANY_MODEL}"
        ) from cause
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _varying(inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """The names of the first dimensions of all inputs, those of any length."""
    return {2: _AXES[False], 3: _AXES[True]}.get(inputs[0].ndim, ("batch",))


def _first(value: Tensor) -> Tensor:
    """The first image, or the first text, which has one window."""
    return value[:1, :1] if value.ndim == len(_AXES[True]) else value[:1]


def _shapes(inputs: Collection[object], axes: dict[int, Any]) -> dict[str, Any]:
    """The dimensions that vary, by arguments of `FromPixels` or `FromTokens`."""
    return {"inputs": tuple(axes for _ in inputs)} if len(inputs) > 1 else {INPUT: axes}


def compared(
    found: Tensor, expected: Tensor, wanted: Portable, path: Path, *, exact: bool
) -> dict[str, Any]:
    """Compare the outputs of the file with the model's; the tolerance scales with the task."""
    if found.shape != expected.shape:
        raise CheckpointError(
            f"{path.name} returns {wanted.task.output_name} of shape {tuple(found.shape)}, the "
            f"model {tuple(expected.shape)}. Nothing was written."
        )
    rtol, atol = (1e-2, 1e-4) if exact else (0.2, 2e-2)
    atol *= wanted.task.scale(expected)
    apart = (found - expected).abs().nan_to_num(nan=torch.inf)
    image, output = divmod(int(apart.flatten().argmax()), apart[0].numel())
    if not torch.allclose(found, expected, rtol=rtol, atol=atol):
        name = wanted.classes[output] if output < len(wanted.classes) else f"output {output}"
        theirs, ours = found[image].flatten()[output], expected[image].flatten()[output]
        raise CheckpointError(
            f"{path.name} and the model differ: on trial input {image}, {name} is {theirs:.6f} in "
            f"the file and {ours:.6f} in the model. Nothing was written. A forward that is random "
            "or keeps state between calls cannot be exported."
        )
    return {"inputs": len(found), "largest_difference": float(apart.max())}


def trial_pixels(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Smooth colours, noise, black: uint8 (4, H, W, C), or float32 if neither grey nor RGB."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, channels, 5, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = torch.rand(1, channels, *size, generator=generator)
    images = torch.cat([smooth, noise, torch.zeros(1, channels, *size)])
    if channels in _EIGHT_BITS:
        images = (images * 255).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous()


def _before(transform: EvalTransform) -> dict[str, Any]:
    height, width = transform.covering
    shared = {
        "jpeg_draft": transform.decode_size,
        "turn": _turned(transform.input.channels),
        "interpolation": transform.input.interpolation,
        "antialias": True,
    }
    if transform.squash:
        return shared | {
            "resize_to": [height, width],
            "in_words": (
                "A JPEG may be decoded smaller while both sides keep jpeg_draft pixels (Pillow's "
                "draft). Resize the whole image to resize_to (height, width), whatever its aspect; "
                "cut nothing off."
            ),
        }
    return shared | {
        "resize_to_cover": [height, width],
        "center_crop": list(transform.size),
        "in_words": (
            "A JPEG may be decoded smaller while both sides keep jpeg_draft pixels (Pillow's "
            "draft). Resize, keeping the proportions and rounding down, so that the image just "
            "covers resize_to_cover (height, width); cut out the middle."
        ),
    }


def _turned(channels: int) -> str:
    kind = _EIGHT_BITS.get(channels)
    if kind is None:
        return "as the file has it; whole numbers divided by the largest of their type"
    return f"upright by EXIF orientation; transparent parts on white; {kind}, 8 bits"


def _pixels_in_words(channels: int) -> str:
    kind = _EIGHT_BITS.get(channels)
    if kind is None:
        return f"images of {channels} channels, fractions from 0 to 1, height and width first"
    how = "like numpy.asarray(PIL image)" if channels == 3 else "height and width first"
    return f"{kind} images, 0 to 255, {how}"


def _largest(spec: InputSpec) -> int:
    return 255 if spec.channels in _EIGHT_BITS else 1


def _write_pt2(
    program: ExportedProgram,
    path: Path,
    description: str,
    inputs: Mapping[str, Tensor],
    output: str,
) -> None:
    with path.open("wb") as opened:
        torch.export.save(program, opened, extra_files={DESCRIPTION: description})


def _run_pt2(path: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    with path.open("rb") as opened:
        module = torch.export.load(opened).module()
    try:
        with torch.no_grad():
            answer: Tensor = module(*inputs.values())
    except Exception as cause:  # a graph raises AssertionError, RuntimeError and others
        raise CheckpointError(
            f"The graph that torch.export made does not run with {_sizes(inputs)}: {_line(cause)}. "
            f"Nothing was written. The model may need a fixed number of items. {_ANY_MODEL}"
        ) from cause
    return answer


def _sizes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in inputs.items())


_Write = Callable[["ExportedProgram", Path, str, Mapping[str, Tensor], str], None]
_Run = Callable[[Path, Mapping[str, Tensor]], Tensor]
_FORMATS: Final[Mapping[str, tuple[_Write, _Run]]] = {
    ".onnx": (_write_onnx, _run_onnx),
    ".pt2": (_write_pt2, _run_pt2),
}
ENDINGS: Final = tuple(_FORMATS)
