"""Weights from files: what is read, what fits, what is refused and how it is explained."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from layergroups.errors import WeightsError
from layergroups.models import classifier_layers
from layergroups.models._weights import load_weights_file, read_weights


def _net(classes: int = 3, width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def _save(tensors: dict[str, Any], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


def _equal(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    ours = model.state_dict()
    return all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".bin", ".PTH"])
def test_a_file_that_fits_is_loaded_whole(tmp_path: Path, ending: str) -> None:
    source, model = _net(), _net()
    file = _save(source.state_dict(), tmp_path / f"net{ending}")
    assert load_weights_file(model, file) == f"file net{ending}"
    assert _equal(model, source.state_dict())


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda d: {"state_dict": d, "epoch": 3}, "entry 'state_dict'"),
        (lambda d: {"model": d, "opt": {"lr": 0.1}}, "entry 'model'"),
        (lambda d: {"state_dict": {}, "state_dict_ema": d}, "entry 'state_dict_ema'"),
        (lambda d: {f"module.{k}": v for k, v in d.items()}, "file net.pth"),
        (lambda d: {"state_dict": {f"model._orig_mod.{k}": v for k, v in d.items()}}, "state_dict"),
    ],
)
def test_common_wrappers_are_opened(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]], words: str
) -> None:
    source, model = _net(), _net()
    file = _save(wrap(source.state_dict()), tmp_path / "net.pth")
    assert words in load_weights_file(model, file)
    assert _equal(model, source.state_dict())


def test_a_prefix_of_the_model_itself_is_kept(tmp_path: Path) -> None:
    source, model = (nn.ModuleDict({"model": _net()}) for _ in range(2))
    load_weights_file(model, _save(source.state_dict(), tmp_path / "net.pth"))
    assert _equal(model, source.state_dict())


def test_old_files_without_batch_counters_fit(tmp_path: Path) -> None:
    source, model = _net(), _net()
    old = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    load_weights_file(model, _save(old, tmp_path / "net.safetensors"))
    assert _equal(model, old)


@pytest.mark.parametrize("kept", [True, False])
def test_only_the_classifier_may_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    source, model = _net(classes=7), _net(classes=3)
    mine = model[4].weight.clone()
    tensors = {k: v for k, v in source.state_dict().items() if kept or not k.startswith("4.")}
    with caplog.at_level(logging.WARNING, "layergroups"):
        load_weights_file(model, _save(tensors, tmp_path / "net.pth"))
    assert _equal(model, {k: v for k, v in tensors.items() if not k.startswith("4.")})
    assert torch.equal(model[4].weight, mine)
    (line,) = caplog.messages
    assert line.startswith("file net.pth: ")
    assert "the classifier (4)" in line


def test_other_differences_are_counted_and_named_and_change_nothing(tmp_path: Path) -> None:
    model = _net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = dict(_net().state_dict())
    del tensors["0.bias"], tensors["1.weight"]
    tensors |= {"0.weight": torch.zeros(9, 3, 3, 3), "extra": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        load_weights_file(model, _save(tensors, tmp_path / "net.safetensors"))
    message = str(caught.value)
    assert "8 of the model's 11 entries fit" in message
    assert "2 missing in the file: 0.bias, 1.weight" in message
    assert "1 unknown to the model: extra" in message
    assert "1 of a different shape: 0.weight (file [9, 3, 3, 3], model [4, 3, 3, 3])" in message
    assert "variant of this network" in message
    assert _equal(model, before)


def test_weights_of_another_architecture_are_told(tmp_path: Path) -> None:
    tensors = {f"layer{n}.weight": torch.zeros(2) for n in range(9)}
    with pytest.raises(WeightsError, match=r"and 6 more\n(.|\n)*different architecture"):
        load_weights_file(_net(), _save(tensors, tmp_path / "net.pth"))


def test_a_classifier_alone_is_not_enough(tmp_path: Path) -> None:
    file = _save(nn.Sequential(nn.Linear(4, 2)).state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="0 of the model's 2 entries fit"):
        load_weights_file(nn.Sequential(nn.Linear(4, 3)), file)


def test_incomplete_file_is_told(tmp_path: Path) -> None:
    tensors = {k: v for k, v in _net().state_dict().items() if not k.startswith("2.")}
    with pytest.raises(WeightsError, match="incomplete"):
        load_weights_file(_net(), _save(tensors, tmp_path / "net.pth"))


def test_converter_is_asked_only_where_names_differ(tmp_path: Path) -> None:
    source, calls = _net(), []

    def convert(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        calls.append(model)
        return {name.removeprefix("old."): tensor for name, tensor in tensors.items()}

    plain = _save(source.state_dict(), tmp_path / "new.pth")
    load_weights_file(_net(), plain, convert=convert)
    assert not calls
    old = {f"old.{k}": v for k, v in source.state_dict().items()}
    model = _net()
    load_weights_file(model, _save(old, tmp_path / "old.pth"), convert=convert)
    assert calls == [model]
    assert _equal(model, source.state_dict())


def test_failing_converter_is_the_cause_of_the_misfit(tmp_path: Path) -> None:
    def convert(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        raise KeyError("pos_embed")

    file = _save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="do not fit") as caught:
        load_weights_file(_net(), file, convert=convert)
    assert isinstance(caught.value.__cause__, KeyError)


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (_sprung.append, ("code ran",))


_sprung: list[str] = []


def test_pickled_code_is_refused_and_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": _net().state_dict(), "args": _Trap()}, tmp_path / "net.pth")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Trap()))
    for name in ("net.pth", "bare.pt"):
        with pytest.raises(WeightsError, match=r"pickled objects(.|\n)*plain\.pth") as caught:
            read_weights(tmp_path / name)
        assert isinstance(caught.value.__cause__, pickle.UnpicklingError)
    assert not _sprung


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(_net(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="pickled objects"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 cut off", "cannot be read|damaged"),
    ],
)
def test_unreadable_files_are_explained(
    tmp_path: Path, ending: str, content: bytes, words: str
) -> None:
    file = tmp_path / f"net{ending}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_weights(file)
    assert caught.value.__cause__ is not None


def test_truncated_files_are_explained(tmp_path: Path) -> None:
    for name in ("net.pth", "net.safetensors"):
        file = _save(_net().state_dict(), tmp_path / name)
        file.write_bytes(file.read_bytes()[:-200])
        with pytest.raises(WeightsError, match="cannot be read"):
            read_weights(file)


def test_absent_files_folders_and_endings_are_explained(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for name, words in (("no.pth", "does not exist"), (".", "a folder"), ("net.onnx", "extension")):
        with pytest.raises(WeightsError, match=rf"{words}(.|\n)*\.safetensors, \.pth"):
            read_weights(tmp_path / name)


def test_a_file_without_tensors_is_explained(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    for name, words in (("a.pth", "a dict with epoch"), ("b.pth", "a list")):
        with pytest.raises(WeightsError, match=f"holds no state dict; it holds {words}"):
            read_weights(tmp_path / name)


def test_where_the_classifier_is() -> None:
    import timm
    from torchvision import models

    with torch.device("meta"):
        found = {
            name: tuple(classifier_layers(models.get_model(name)))
            for name in ("resnet18", "vgg11", "squeezenet1_1", "vit_b_16", "mobilenet_v2", "swin_t")
        }
    assert found == {
        "resnet18": ("fc",),
        "vgg11": ("classifier.6",),
        "squeezenet1_1": ("classifier.1",),
        "vit_b_16": ("heads.head",),
        "mobilenet_v2": ("classifier.1",),
        "swin_t": ("head",),
    }
    deit = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    assert tuple(classifier_layers(deit)) == ("head", "head_dist")
    assert tuple(classifier_layers(nn.ReLU())) == ()
