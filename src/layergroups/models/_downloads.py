"""Pretrained weights from the model hubs: taken from a cache, or refused within seconds.

The libraries' own loaders do the downloading. Left alone they wait long before they tell that there
is no network (huggingface_hub tries twelve times, in 46 seconds). Here one short question is asked
first, and only where the weights are not in the cache yet.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from layergroups.errors import WeightsError

PATIENCE = 5.0


"""Seconds that a hub has to answer."""


_NETWORK_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "requests"}


def check_torchvision(name: str, url: str) -> None:
    """See that the weights at `url` are in torch's cache, or that their host answers."""
    if torch_cache_file(url).is_file():
        return
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "layergroups"})
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()  # the host answered; its loader will say what is wrong
    except OSError as error:
        raise _unreachable(name, url, error) from error


def timm_overlay(name: str, config: Any, cache_dir: str | None = None) -> dict[str, Any]:
    """Where timm shall take pretrained weights from, if not as it would by itself."""
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


def unavailable(name: str, story: str) -> WeightsError:
    """The error that says why pretrained weights are not to be had, and which calls work."""
    file = name.partition(":")[2]
    return WeightsError(
        f"The pretrained weights of {name} {story}.\nThe same call works with\n"
        f'  weights="{file}.safetensors"  for a file of yours (.safetensors, .pth, .pt, .bin)\n'
        "  pretrained=False  to start from noise, which needs far more photos and epochs"
    )


def is_download_error(error: BaseException) -> bool:
    """Whether an error of a library's loader tells that a download failed."""
    if isinstance(error, RuntimeError):
        return "invalid hash value" in str(error)
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in _NETWORK_PACKAGES


def torch_cache_file(url: str) -> Path:
    """Where torch.hub keeps the file of this address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _unreachable(name: str, url: str, cause: BaseException) -> WeightsError:
    reason = str(cause).strip().split("\n")[0].rstrip(".") or type(cause).__name__
    return unavailable(
        name, f"are not in the cache of this machine, and {url} could not be reached ({reason})"
    )


def _hub_cache_file(config: Any, cache_dir: str | None) -> Path | None:
    """The weights file in the cache of the Hugging Face hub, if it is there."""
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
    """The names under which timm looks for weights, the first choice first."""
    name = config.hf_hub_filename or "pytorch_model.bin"
    safe = {
        "pytorch_model.bin": "model.safetensors",
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    }
    return (safe[name], name) if name in safe else (name,)


def _check_hub(name: str, config: Any) -> None:
    """See that the Hugging Face hub answers; its own session knows proxies and offline mode."""
    from huggingface_hub import get_session, hf_hub_url

    repo, _, revision = config.hf_hub_id.partition("@")
    url = hf_hub_url(repo, _hub_filenames(config)[0], revision=revision or None)
    session = get_session()
    try:
        session.head(url, timeout=PATIENCE)
    except Exception as error:  # of httpx, requests or huggingface_hub, by its version
        raise _unreachable(name, url, error) from error
