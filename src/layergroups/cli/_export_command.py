"""`layergroups export`: a model as one file that runs without this library."""

from __future__ import annotations

import json as json_lines
from pathlib import Path
from typing import Any

from layergroups._formatting import say, show, show_json
from layergroups.data import InferenceTexts
from layergroups.errors import CheckpointError
from layergroups.training import load_learner


def run(model: Path, *, format: str | None, out: Path | None, json: bool) -> None:
    """Export a model, and print which files were written.

    Raises:
        LayerGroupsError: the folder is not an export, or the model does not fit the format.
    """
    target = _target(model, format, out)
    learn = load_learner(model)
    say(f"Writing {target} and comparing its outputs with the model's; this can take a minute.")
    learn.export(target)
    description = target.with_name(f"{target.name}.json")
    written: dict[str, Any] = json_lines.loads(description.read_text(encoding="utf-8"))
    if json:
        show_json({"file": str(target), "description": str(description), **written["checked"]})
        return
    tokenizer = target.with_name(f"{target.name}.tokenizer.json")
    files = [target, description, *([tokenizer] if isinstance(learn.dls, InferenceTexts) else [])]
    show("\n".join(map(str, files)))
    say(
        f"Compared with the model on {written['checked']['inputs']} inputs: probabilities or "
        f"numbers differ by {written['checked']['largest_difference']:.1g} at most."
    )


def _target(model: Path, format: str | None, out: Path | None) -> Path:
    """The file to write, whose ending says the format."""
    if out is None:
        if format is None:
            raise CheckpointError("Which format? Give --format onnx, --format pt2, or --out FILE.")
        return model / f"model.{format}"
    if format is not None and out.suffix.lower() != f".{format}":
        raise CheckpointError(
            f"--out {out} does not end in .{format}, as --format {format} asks; give --out "
            f"{out.with_suffix('.' + format)}."
        )
    if out.suffix.lower() not in (".onnx", ".pt2"):
        raise CheckpointError(f"--out {out} must end in .onnx or .pt2.")
    return out
