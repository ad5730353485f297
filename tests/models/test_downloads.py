"""Downloads: caches are used, and a missing network is told at once."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from layergroups.errors import WeightsError
from layergroups.models import _downloads as downloads
from layergroups.models._catalog import load_model

SMALL = "timm:test_resnet.r160_in1k"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Empty caches, and a proxy at which nobody listens; gives torch's folder of weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    urllib.request.install_opener(None)
    yield tmp_path / "hub" / "checkpoints"
    urllib.request.install_opener(None)


@pytest.mark.usefixtures("no_network")
def test_without_network_torchvision_weights_are_refused_at_once() -> None:
    with pytest.raises(
        WeightsError, match=r"resnet18-f37072fd\.pth could not be reached"
    ) as caught:
        load_model("torchvision:resnet18")
    assert 'weights="resnet18-f37072fd.pth"' in str(caught.value)
    assert "pretrained=False" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.usefixtures("no_network")
def test_without_network_timm_weights_are_refused_at_once(tmp_path: Path) -> None:
    for name in (SMALL, "timm:repvit_m0_9", "timm:dla34"):
        with pytest.raises(WeightsError, match=r"could not be reached(.|\n)*pretrained=False"):
            load_model(name, cache_dir=str(tmp_path))


def test_an_architecture_without_weights_is_told() -> None:
    with pytest.raises(WeightsError, match="timm:resnet10 have never been published"):
        downloads.timm_overlay("timm:resnet10", None)
    bare = next(n for n in timm.list_models() if not timm.is_model_pretrained(n))
    with pytest.raises(WeightsError, match=rf"timm:{bare} have never been published"):
        load_model(f"timm:{bare}")


def test_a_host_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net-12345678.pth"
        with pytest.raises(WeightsError, match="timed out"):
            downloads.check_torchvision("torchvision:net", url)


def test_torchvision_cache_is_used_and_gives_the_function_of_torchvision(
    no_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    source = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    no_network.mkdir(parents=True)
    torch.save(source.state_dict(), no_network / "googlenet-1378be20.pth")
    loaded = load_model("torchvision:googlenet")
    reference = torchvision.models.googlenet(weights="DEFAULT").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.model.eval()(x), reference(x))
        assert isinstance(loaded.model.train()(x), torch.Tensor)
    assert loaded.weights == "torchvision GoogLeNet_Weights.IMAGENET1K_V1"
    assert loaded.pretrained
    assert capsys.readouterr().out == ""
    file = load_model("torchvision:googlenet", weights=no_network / "googlenet-1378be20.pth")
    with torch.inference_mode():
        assert torch.equal(file.model.eval()(x), reference(x))


def test_a_damaged_file_in_the_cache_is_told(no_network: Path) -> None:
    no_network.mkdir(parents=True)
    (no_network / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"PK cut off")
    with pytest.raises(WeightsError, match=r"cannot be loaded(.|\n)*delete it"):
        load_model("torchvision:squeezenet1_1")


@pytest.mark.usefixtures("no_network")
def test_hub_cache_is_used_without_asking_the_hub(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet")
    repo = tmp_path / f"models--timm--{SMALL.partition(':')[2]}"
    commit = "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    save_file(source.state_dict(), repo / "snapshots" / commit / "model.safetensors")
    loaded = load_model(SMALL, cache_dir=str(tmp_path))
    ours = loaded.model.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in source.state_dict().items())
    assert loaded.weights == "timm test_resnet.r160_in1k"
    assert loaded.kwargs == {}
