"""The entry point of the command line: arguments in, exit code out.

0: success. 2: a mistake of the user, explained in one message on stderr. 130: Ctrl-C. Any other
error is a bug of ours and keeps its traceback.

Ctrl-C takes effect between two optimizer steps, never within one, so that the model is complete.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Self

import typer

from layergroups.cli._app import app
from layergroups.errors import LayerGroupsError

if TYPE_CHECKING:
    from layergroups.training import FitContext


INTERRUPTED = 130


_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


# Errors of the library show what to type in Python; these are the same on the command line.
_AS_OPTIONS = (
    (r'\bon_error="skip"', "--on-error skip"),
    (r"\bpretrained=False", "--no-pretrained"),
    (r"\bvalid_pct=([\d.]+)", r"--valid-pct \1"),
    (r"\bbatch_size=(\d+)", r"--batch-size \1"),
    (r'\bweights="([^"]+)"', r"--weights \1"),
    (r"\bsize=(\d+)", r"--size \1"),
    (r'\blearn\.export\("model\.(\w+)"\)', r"--format \1"),
    (r"\bThe same call works", "The same command works"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `layergroups`; those of the process if None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    try:
        code = command.main(words, prog_name="layergroups", standalone_mode=False, obj=words)
    except _USAGE_ERROR as error:
        return _report_mistake(error.format_message(), usage=True)  # type: ignore[attr-defined] # click
    except LayerGroupsError as error:
        return _report_mistake(_in_options(str(error)))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it (`| head`): Python must not flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _report_mistake(message: str, *, usage: bool = False) -> int:
    """Print what was wrong to stderr; the exit code for it."""
    if usage:
        message = f"{message.rstrip('.')}. See layergroups --help."
    print(f"layergroups: {message}", file=sys.stderr)
    return 2


def _in_options(message: str) -> str:
    for python, option in _AS_OPTIONS:
        message = re.sub(python, option, message)
    return message


class Interrupts:
    """Delays Ctrl-C until the optimizer step in progress is done: a context manager and a callback.

    A second Ctrl-C is not delayed.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._stepping = False
        self._waiting = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def before_step(self, run: FitContext) -> None:
        """Delay Ctrl-C from here on."""
        self._stepping = True

    def after_step(self, run: FitContext) -> None:
        """The weights have moved: raise a delayed Ctrl-C."""
        self._stepping = False
        self.steps += 1
        if self._waiting:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._stepping or self._waiting:
            raise KeyboardInterrupt
        self._waiting = True


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from now on, while the model is being saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
