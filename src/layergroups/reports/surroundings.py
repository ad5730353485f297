"""Where and by what a run was done: command, versions, machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

_PACKAGES: Final = (
    *("layergroups", "torch", "torchvision", "timm"),
    *("accelerate", "torchmetrics", "safetensors"),
)
_SECRET: Final = re.compile(r"(token|secret|password|passwd|api[-_]?key|credential)", re.IGNORECASE)
_HIDDEN: Final = "***"
_NOTEBOOKS: Final = ("ipykernel_launcher.py", "colab_kernel_launcher.py")


def command_line(words: Sequence[str] | None = None) -> str:
    """The command of this process as one would type it; values of secret options are left out.

    Args:
        words: of the command; None takes those of the process.
    """
    if words is not None:
        return shlex.join(_without_secrets(words))
    program, *rest = sys.argv or [""]
    name = Path(program).name
    if name in _NOTEBOOKS:
        return "a notebook"
    if program in ("", "-c"):
        return f"python {program}".strip()
    if name == "__main__.py":
        return shlex.join(["python", "-m", Path(program).parent.name, *_without_secrets(rest)])
    before = ["python"] if name.endswith(".py") else []
    return shlex.join([*before, program if before else name, *_without_secrets(rest)])


def versions() -> dict[str, str]:
    """Of Python, this library and those that it stands on."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["CUDA of torch"] = str(torch.version.cuda)
    return found


def machine(accelerator: Any) -> dict[str, str]:
    """System, processor, device, threads.

    Args:
        accelerator: of accelerate, which knows device and processes.
    """
    device: torch.device = accelerator.device
    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
        "memory": _memory(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads of PyTorch": str(torch.get_num_threads()),
        "processes": str(accelerator.num_processes),
    }
    return {name: value for name, value in found.items() if value}


def _without_secrets(words: Sequence[str]) -> list[str]:
    """Words of a command without the values of options such as --api-key."""
    shown: list[str] = []
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = bool(_SECRET.search(option))
        shown.append(_HIDDEN if hide else f"{option}={_HIDDEN}" if secret and equals else word)
        hide = secret and not equals and word.startswith("-")
    return shown


def _processor() -> str:
    """Its name, where the system tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not on Linux
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def _memory() -> str:
    """Of the machine; empty where the system does not tell it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{total / 1e9:.0f} GB"
