"""Use an exported model without layergroups: `python run_exported.py model.onnx photo.jpg`.

`learn.export("model.onnx")`, or `layergroups export demo-run --format onnx`, writes the model and
`model.onnx.json`. A `.onnx` needs onnxruntime, a `.pt2` needs torch; both need Pillow and NumPy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def main(arguments: Sequence[str] | None = None) -> None:
    model, *photos = sys.argv[1:] if arguments is None else arguments
    said = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
    pixels = np.stack([read_pixels(photo, said["before_the_graph"]) for photo in photos])
    run = with_onnxruntime if model.endswith(".onnx") else with_torch
    for photo, chances in zip(photos, run(model, pixels), strict=True):
        if said["task"] == "segmentation":  # (classes, height, width)
            print(f"{photo}: mask in {save_mask(photo, chances)}")
            continue
        best = int(np.argmax(chances))
        print(f"{photo}: {said['classes'][best]} {chances[best]:.4f}")


def with_onnxruntime(model: str, pixels: np.ndarray[Any, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"pixels": pixels})[0]


def with_torch(model: str, pixels: np.ndarray[Any, Any]) -> Any:
    import torch

    return torch.export.load(model).module()(torch.from_numpy(pixels)).numpy()


def read_pixels(photo: str, before: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A photo as uint8 (height, width, 3), resized whole, or so that it just covers, then cut."""
    image = Image.open(photo)
    image.draft(None, (before["jpeg_draft"], before["jpeg_draft"]))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    method = Image.Resampling[before["interpolation"].upper()]
    if "resize_to" in before:
        height, width = before["resize_to"]
        return np.array(upright.resize((width, height), method))
    (height, width), (h, w) = before["resize_to_cover"], upright.size[::-1]
    if height * w >= width * h:
        width = max(width, height * w // h)
    else:
        height = max(height, width * h // w)
    resized = upright.resize((width, height), method)
    (rows, columns) = before["center_crop"]
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return np.array(resized)[top : top + rows, left : left + columns]


def save_mask(photo: str, chances: np.ndarray[Any, Any]) -> Path:
    """Write the likeliest class of every pixel, at the size of the photo, as a grey PNG."""
    target = Path(photo).with_suffix(".mask.png")
    mask = Image.fromarray(chances.argmax(0).astype(np.uint8))
    mask.resize(ImageOps.exif_transpose(Image.open(photo)).size).save(target)
    return target


if __name__ == "__main__":
    main()
