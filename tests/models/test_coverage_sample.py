"""A sample of the coverage run: networks of different design, each through all of its checks."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v3_small",
    pytest.param("torchvision:shufflenet_v2_x0_5", marks=pytest.mark.slow),
    "torchvision:vgg11",
    "timm:vit_tiny_patch16_224",
    pytest.param("timm:levit_128s", marks=pytest.mark.slow),
    pytest.param("timm:efficientvim_m1", marks=pytest.mark.slow),
    "timm:convnext_atto",
    "segmentation:lraspp_mobilenet_v3_large",
)


def coverage(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the benchmark, which stands beside the package."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module(f"benchmarks.coverage.{name}")


def reason(worker: ModuleType, family: str, name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        return str(worker.answer(family, name)["reason"])


@pytest.mark.parametrize("full", SMALL)
def test_a_small_network_passes_every_check(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, _, name = full.partition(":")
    assert reason(coverage("worker", monkeypatch), family, name) == ""


@pytest.mark.slow
def test_two_of_each_family_pass_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    families = coverage("families", monkeypatch)
    worker = coverage("worker", monkeypatch)
    timm = families.sample(families.names("timm"), 2)[::6]
    chosen = [("timm", name) for name, _ in timm]
    for family in ("torchvision", "segmentation", "video", "detection"):
        chosen += [(family, name) for name, _ in families.sample(families.names(family), 2)[::3]]
    if importlib.util.find_spec("transformers"):
        chosen += [("transformers-image", name) for name in ("vit", "resnet", "swin")]
        chosen += [("transformers-text", name) for name in ("bert", "albert", "llama")]
    problems = {f"{f}:{n}": why for f, n in chosen if (why := reason(worker, f, n))}
    assert problems == {}
