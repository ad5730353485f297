"""Check that pretrained weights are in a cache, or that their hub answers, within seconds.

The libraries' own loaders take long to fail without a network (huggingface_hub retries twelve
times, in 46 seconds). One short request comes first, for weights that are not in the cache.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch

from layergroups.errors import WeightsError

PATIENCE = 5.0  # seconds until a hub must answer
_NETWORK_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "requests"}


def check_torchvision(name: str, url: str) -> None:
    """Check that the weights at `url` are in torch's cache, or that their host answers."""
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name).is_file():
        return
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "layergroups"})
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()  # the host answered; the loader will report what is wrong
    except OSError as error:
        raise _unreachable(name, url, error) from error


def timm_overlay(name: str, config: Any, cache_dir: str | None = None) -> dict[str, Any]:
    """Overrides of timm's source of pretrained weights; empty for its default."""
    if config is None or not (config.hf_hub_id or config.url):
        raise unavailable(name, "have never been published by timm")
    if not config.hf_hub_id:
        if isinstance(config.url, str) and cache_dir is None:
            check_torchvision(name, config.url)
        return {}
    cached = _hub_cache_file(config, cache_dir)
    if cached is not None and config.custom_load != "hf":
        return {"file": str(cached), "custom_load": False}
    if cached is None:
        _check_hub(name, config)
    return {}


HUB_PREFIXES = ("hf-hub:", "hf://")


def hub_folder(address: str) -> Path:
    """Config and safetensors of `local-dir:FOLDER`, or of `hf://user/model@revision`, fetched."""
    if address.startswith("local-dir:"):
        return Path(address.removeprefix("local-dir:")).expanduser()
    from huggingface_hub import snapshot_download

    name = address.removeprefix("hf://").removeprefix("hf-hub:")
    repo, _, revision = name.partition("@")
    wanted = ["config.json", "model.safetensors"]
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # of httpx, requests or huggingface_hub, depending on its version
        raise WeightsError(
            f"{address} could not be fetched ({type(error).__name__}). Check the name, user/model; "
            'the network, HF_ENDPOINT and HF_HUB_OFFLINE; or give a folder, "local-dir:FOLDER".'
        ) from error


def unavailable(name: str, story: str, url: str = "") -> WeightsError:
    """The error for unavailable pretrained weights, with the calls that work."""
    file = PurePosixPath(urlparse(url).path).name or f"{name.partition(':')[2]}.safetensors"
    source = "that file, from a machine that reaches its address" if url else "a local file"
    return WeightsError(
        f"The pretrained weights of {name} {story}.\nThe same call works with\n"
        f'  weights="{file}"  {source} (.safetensors, .pth, .pt, .bin)\n'
        "  pretrained=False  random initial weights, which need far more images and epochs\n"
        "docs/how-to/install.md, Weights without a model hub, lists other sources."
    )


def is_download_error(error: BaseException) -> bool:
    """Whether an error of a library's loader means that a download failed."""
    if isinstance(error, RuntimeError):
        return "invalid hash value" in str(error)
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in _NETWORK_PACKAGES


def _unreachable(name: str, url: str, cause: BaseException) -> WeightsError:
    reason = str(cause).strip().split("\n")[0].rstrip(".") or type(cause).__name__
    return unavailable(
        name, f"are not in the local cache, and {url} could not be reached ({reason})", url
    )


def _hub_cache_file(config: Any, cache_dir: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = config.hf_hub_id.partition("@")
    for filename in _hub_filenames(config):
        found = try_to_load_from_cache(
            repo, filename, cache_dir=cache_dir, revision=revision or None
        )
        if isinstance(found, str):
            return Path(found)
    return None


def _hub_filenames(config: Any) -> tuple[str, ...]:
    name = config.hf_hub_filename or "pytorch_model.bin"
    safe = {
        "pytorch_model.bin": "model.safetensors",
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    }
    return (safe[name], name) if name in safe else (name,)


def _check_hub(name: str, config: Any) -> None:
    """Check that the Hugging Face hub answers; its session knows proxies and offline mode."""
    from huggingface_hub import get_session, hf_hub_url

    repo, _, revision = config.hf_hub_id.partition("@")
    url = hf_hub_url(repo, _hub_filenames(config)[0], revision=revision or None)
    session = get_session()
    try:
        session.head(url, timeout=PATIENCE)
    except Exception as error:  # of httpx, requests or huggingface_hub, depending on its version
        raise _unreachable(name, url, error) from error
