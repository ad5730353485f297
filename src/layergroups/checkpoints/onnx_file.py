"""An exported program as an ONNX file, written by torch.onnx and run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layergroups.errors import CheckpointError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write_onnx(
    program: ExportedProgram, path: Path, description: str, names: tuple[str, str]
) -> None:
    """Write an ONNX file with its weights inside, and the description in its metadata.

    Args:
        program: a graph of one input and one output.
        path: the file.
        description: JSON, kept under the key "layergroups".
        names: of input and output.

    Raises:
        CheckpointError: an operation has no counterpart in ONNX, or the file would be too large.
    """
    try:
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes={names[0]: {0: "batch"}},  # else it has a name like s81
        )
        made.model.metadata_props["layergroups"] = description
        made.save(str(path), external_data=False)
    except OSError:
        raise
    except Exception as cause:  # the converter's own errors have no common root
        raise CheckpointError(
            f"The model cannot be written as ONNX: {_last_line(cause)}. torch.export's own format "
            'takes it: learn.export("model.pt2").'
        ) from cause


def run_onnx(path: Path, pixels: Tensor) -> Tensor:
    """What an ONNX file of one input and one output says, on the CPU.

    Raises:
        CheckpointError: onnxruntime cannot run the file.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    except Exception as cause:  # onnxruntime's errors have no common root
        raise CheckpointError(f"onnxruntime cannot run the file: {_last_line(cause)}.") from cause
    return torch.from_numpy(answer)


def check_packages() -> None:
    """Whether ONNX files can be written and tried here.

    Raises:
        CheckpointError: a package is missing; says how to install it.
    """
    try:
        import onnx  # noqa: F401 - only whether it is there
        import onnxruntime  # noqa: F401 - only whether it is there
        import onnxscript  # noqa: F401 - only whether it is there
    except ImportError as cause:
        raise CheckpointError(
            f'ONNX files need the package {cause.name}: pip install "layergroups[onnx]". Without '
            'it, torch.export\'s own format works: learn.export("model.pt2").'
        ) from cause


def _last_line(cause: BaseException) -> str:
    """The last line of an error that says something; the converter puts its advice before it."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].rstrip('.')}" if lines else type(cause).__name__
