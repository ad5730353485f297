"""Starts the processes of a distributed test: `-m tests.training.forks N SCRIPT SCENARIOS FOLDER`.

It does what torchrun does for N processes of one machine, but loads torch once and then forks.
Nothing is computed before the fork, so forking is safe. If one process fails, all are ended.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
from importlib import import_module

for name in ("accelerate", "layergroups.training"):  # loaded before the fork
    import_module(name)


def start(rank: int, n: int, port: int) -> int:
    """Fork one process of the n, which runs the script; returns its number."""
    child = os.fork()
    if child:
        return child
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    os.environ |= dict(zip(names, map(str, (rank, rank, n, n, port)), strict=True))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def main() -> None:
    n = int(sys.argv[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {start(rank, n, port) for rank in range(n)}
    while running:
        child, status = os.wait()
        running.remove(child)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


if __name__ == "__main__":
    main()
