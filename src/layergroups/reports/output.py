"""Where words go: data to stdout, all that is said around it to stderr."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

_PIPED_WIDTH = 200  # columns of a table that no terminal limits


def say(words: RenderableType = "") -> None:
    """Say something to whoever watches, on stderr."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=isinstance(words, str))
    console.print(words, markup=False)


def show(data: RenderableType) -> None:
    """Write data to stdout; plain and not cut to a terminal's width when it is piped."""
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(data, markup=False)
        return
    plain = Console(file=io.StringIO(), width=_PIPED_WIDTH, color_system=None, highlight=False)
    with plain.capture() as captured:
        plain.print(data, markup=False, soft_wrap=isinstance(data, str))
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()


def show_json(data: object) -> None:
    """Write JSON to stdout, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def show_figures(figures: Mapping[str, Any]) -> None:
    """Write names and values to stdout, one on each line."""
    width = max(map(len, figures))
    for name, value in figures.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        sys.stdout.write(f"{name:<{width}}  {text}\n")
    sys.stdout.flush()
