"""The entry point of the command line: arguments in, exit code out.

0: success. 2: a mistake of the user, explained in one message on stderr. 130: Ctrl-C. Any other
error is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from layergroups.cli._app import app
from layergroups.errors import LayerGroupsError

INTERRUPTED = 130
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


# Errors of the library show what to type in Python; these are the same on the command line.
_AS_OPTIONS = (
    (r"\bon_error=([\"'])skip\1", "--on-error skip"),
    (r"\bpretrained=False", "--no-pretrained"),
    (r"\bvalid_pct=([\d.]+)", r"--valid-pct \1"),
    (r"\bbatch_size=(\d+)", r"--batch-size \1"),
    (r"""\bweights=(["'])(.+?)\1""", r"--weights \2"),
    (r"\baugment='(\w+)'", r"--augment \1"),
    (r" Or give True, False, .*", ""),
    (r"\blayergroups\.list_models\(('[^']*')\)", r"`layergroups models \1`"),
    (r" Write one: learn\.export\(folder\)\..*", " `layergroups train` makes one."),
    (r"; cache=False turns this off", ""),
    (r'; batch_norm="update" updates them from the batches', ""),
    (r", see ImageDataLoaders\.from_table", ""),
    (r"\bsize=(\d+)", r"--size \1"),
    (r'\blong="windows"', "--long windows"),
    (r"\bmonitor='(\w+)'", r"--keep-best \1"),
    (r" Give metrics to the learner: metrics=.*", " Name others with --metrics."),
    (
        r" Nothing was fine-tuned: learn\.fine_tune\(.*",
        " A smaller --search ends sooner.",
    ),
    (r" An optuna study asks for as many as you like: .*", ""),
    (r"three layer groups or more, and the outputs .*", "three layer groups or more: --split 3."),
    (r"\bmixed_precision='(\w+)'", r"--mixed-precision \1"),
    (r"; None for the setting of `accelerate launch`", ""),
    (r"\bresume=True \(--resume\)", "--resume"),
    (r"\bbalance= by class needs (.*?); for several labels.*", r"--balance needs \1."),
    (r"\ba different checkpoint_dir\b", "a different --checkpoint-dir"),
    (
        r" Call the fits of this run as before, or (give a different --checkpoint-dir).*",
        r" To train a finished run for more epochs: `layergroups train --from DIR`. Or \1.",
    ),
    (r'\blearn\.export\("model\.(\w+)"\)', r"--format \1"),
    (r"\bThe same call works", "The same command works"),
    (
        r"\bfine_tune starts with the head alone(.*) learn\.fit_one_cycle\((\d+), .*?\) (.*), if.*",
        r"Training starts with the head alone\1 --train-all-layers --epochs \2 \3.",
    ),
)


_SYNONYMS = {  # what other programs call them
    "--learning-rate": "--lr", "--model": "--arch", "--bs": "--batch-size", "--output": "--out",
    "--num-workers": "--workers", "--image-size": "--size", "--img-size": "--size",
    "--checkpoint": "--checkpoint-dir", "--val-split": "--valid-pct", "--data": "FOLDER",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: the words after `layergroups`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - closed (2>&-)
    if sys.stdout is None:
        return _report_mistake("standard output is closed; give one, such as > /dev/null.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are not UTF-8
    try:
        os.getcwd()
    except FileNotFoundError:
        return _report_mistake("the working folder has been deleted; change to another.")
    command = typer.main.get_command(app)
    log = logging.getLogger("layergroups")
    log.addFilter(_filter_in_options)
    try:
        code = command.main(words, prog_name="layergroups", standalone_mode=False, obj=words)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        usage: Any = error  # click's, whose types typer does not export
        where = usage.ctx.command_path if usage.ctx else "layergroups"
        message = usage.format_message().replace("Value error, ", "")
        meant = _SYNONYMS.get(getattr(usage, "option_name", ""), "")
        message = f"{message.rstrip('.')}." + (f" Did you mean {meant}?" if meant else "")
        return _report_mistake(f"{message.replace('?.', '?')} See {where} --help.")
    except LayerGroupsError as error:
        return _report_mistake(_in_options(str(error)))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        # Nobody reads our output any more (`| head`), or it is full: no flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if error.errno == errno.EPIPE else _report_mistake(f"cannot write: {error}.")
    finally:
        log.removeFilter(_filter_in_options)
    return code if isinstance(code, int) else 0


def _report_mistake(message: str) -> int:
    """Print what was wrong to stderr; the exit code for it."""
    print(f"layergroups: {message}", file=sys.stderr)
    return 2


def _filter_in_options(record: logging.LogRecord) -> bool:
    record.msg, record.args = _in_options(record.getMessage()), None
    return True


def _in_options(message: str) -> str:
    """A message of the library, which gives arguments of Python, with options of the program."""
    for python, option in _AS_OPTIONS:
        message = re.sub(python, option, message)
    return message
