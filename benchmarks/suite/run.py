"""Run {sets} x {networks} x {contenders} x {budgets} x {seeds}, each run a process of its own.

    python benchmarks/suite/run.py DATA --peers PEERS/bin/python
    python benchmarks/suite/run.py DATA --peers PEERS/bin/python --subset

DATA holds `images/SET` and `weights`. PEERS is an environment made from
benchmarks/requirements-peers.txt. A row is added to the CSV file after each run; runs whose row
exists are left out, so the same command goes on after an interruption. summary.py reads the file.

`--subset` is a choice of the grid, estimated at 25 minutes on two idle cores. For times,
leave `--jobs` at 1 and the machine to the suite; for scores, `--jobs 2 --threads 1` is faster.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from networks import NETWORKS

HERE = Path(__file__).parent
CONTENDERS = {  # name: script
    "layergroups": "ours.py",
    "layergroups search": "ours_search.py",
    "by hand": "by_hand.py",
    "fastai": "fastai_peer.py",
    "timm recipe": "timm_peer.py",
    "transformers": "transformers_peer.py",
    "AutoGluon recipe": "autogluon_peer.py",
    "linear probe": "linear_probe.py",
    "k-NN": "nearest.py",
}
ON_REQUEST = ("layergroups search",)  # runs only where --contenders names it
WITHOUT_EPOCHS = ("linear probe", "k-NN")  # one run: no epochs, no seed
IN_OWN_ENVIRONMENT = ("layergroups", "layergroups search", "by hand")
SUBSET = {
    "lite0": ["bloodcells4", "cell_count", "birds50", "esc10_spec"],
    "mobilenet_v2": ["bloodcells4"],
    "dinov2_s": ["bloodcells4"],
}
RESULTS = (
    "score", "loss", "seconds", "cpu_seconds", "peak_mb", "grey", "blurred", "noisy", "head_score",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One row of the grid."""

    set: str
    network: str
    size: int
    contender: str
    epochs: int
    seed: int


def grid(args: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """All runs that were asked for, seed by seed, small sets first."""
    count = {s.name: sum(1 for _ in s.rglob("*.*")) for s in folder.iterdir() if s.is_dir()}
    every = {network: sorted(count, key=count.__getitem__) for network in NETWORKS}
    chosen = SUBSET if args.subset else every
    for seed in range(1 if args.subset else args.seeds):
        for network, sets in chosen.items():
            if network not in args.networks:
                continue
            size = args.size or NETWORKS[network].size
            for name in (s for s in sets if not args.sets or s in args.sets):
                for epochs in [3] if args.subset else args.epochs:
                    for contender in args.contenders:
                        fixed = contender in WITHOUT_EPOCHS
                        key = (0, 0) if fixed else (epochs, seed)
                        yield Run(name, network, size, contender, *key)


def measure(run: Run, args: argparse.Namespace) -> dict[str, float | None]:
    """Run a contender and read the JSON line that it ends with."""
    own = run.contender in IN_OWN_ENVIRONMENT
    command = [
        sys.executable if own else args.peers, str(HERE / CONTENDERS[run.contender]),
        "--data", str(args.data / "images" / run.set), "--network", run.network,
        "--size", str(run.size), "--epochs", str(run.epochs), "--seed", str(run.seed),
        "--weights", str(args.data / "weights"),
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **threads}
    )
    if done.returncode:
        raise RuntimeError(f"{run} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Run what is missing in the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers", required=True, help="python of the peers' environment")
    parser.add_argument("--out", type=Path, default=Path("results.csv"))
    parser.add_argument("--sets", nargs="*", help="default: all")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=[*SUBSET])
    usual = [name for name in CONTENDERS if name not in ON_REQUEST]
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=usual)
    parser.add_argument("--epochs", nargs="*", type=int, default=[3, 1, 10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, help="default: of the network")
    parser.add_argument("--subset", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, help="of each run; default: PyTorch's")
    args = parser.parse_args()

    header = [field.name for field in fields(Run)]
    known = set()
    if args.out.is_file():
        with args.out.open() as file:
            known = {tuple(row[name] for name in header) for row in csv.DictReader(file)}
    else:
        args.out.write_text(",".join([*header, *RESULTS]) + "\n")
    missing = [
        run for run in dict.fromkeys(grid(args, args.data / "images"))
        if tuple(map(str, astuple(run))) not in known
    ]  # fmt: skip
    lock = threading.Lock()

    def work(number: int, run: Run) -> None:
        try:
            found = measure(run, args)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            return
        values = ["" if found[name] is None else f"{found[name]:.5g}" for name in RESULTS]
        with lock, args.out.open("a") as file:
            csv.writer(file, lineterminator="\n").writerow([*astuple(run), *values])
        print(f"{number}/{len(missing)}", run, values, file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, range(1, len(missing) + 1), missing))


if __name__ == "__main__":
    main()
