"""Tables and pictures of a results file of run.py: for each network and budget.

python benchmarks/suite/summary.py results.csv --pictures FOLDER > results.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from run import CONTENDERS, WITHOUT_EPOCHS

OURS, HAND = "layergroups", "by hand"
SHIFTED = ["grey", "blurred", "noisy"]
NUMBERS = ("cell_count",)  # the score is R2: left out of means, not of ranks


def cell(value: float, digits: int = 3) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def means(rows: pd.DataFrame, column: str = "score") -> pd.DataFrame:
    """Contenders x sets: the mean over seeds, or the median of times and memory."""
    how = "median" if column in ("seconds", "cpu_seconds", "peak_mb") else "mean"
    table = rows.pivot_table(column, "contender", "set", aggfunc=how)
    return table.reindex([name for name in CONTENDERS if name in table.index])


def overall(rows: pd.DataFrame) -> pd.DataFrame:
    """Contenders x figures, over the sets that all contenders have a score for."""
    scores = means(rows).dropna(axis="columns")
    images = [name for name in scores if name not in NUMBERS]
    rows = rows[rows["set"].isin(scores.columns)]
    seconds = means(rows, "cpu_seconds")  # other work on the machine changes it little
    shifted = rows.assign(shifted=rows[SHIFTED].mean(axis=1), gained=rows.score - rows.head_score)
    return pd.DataFrame(
        {
            "mean": scores[images].mean(axis=1),
            "mean rank": scores.rank(ascending=False).mean(axis=1),
            "shifted": means(shifted, "shifted")[images].mean(axis=1),
            "worst beside its head": means(shifted, "gained").min(axis=1)
            if rows.head_score.notna().any()
            else np.nan,
            **{
                f"processor time of {name}'s": (seconds / seconds.loc[name]).median(axis=1)
                for name in (HAND, "fastai")
                if name in seconds.index
            },
            "peak memory, MB": means(rows, "peak_mb").median(axis=1),
        }
    ).reindex(scores.index)


def markdown(rows: pd.DataFrame) -> str:
    """The table of one network and budget: a row for each contender."""
    scores, figures = means(rows), overall(rows)
    lines = ["| | " + " | ".join([*scores, *figures]) + " |"]
    lines.append("| --- " * (1 + scores.shape[1] + figures.shape[1]) + "|")
    for name in scores.index:
        cells = [cell(value) for value in scores.loc[name]]
        cells += [cell(figures.loc[name, c], 0 if "MB" in c else 3) for c in figures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seeds = rows.groupby(["contender", "set"]).size()
    counts = seeds[~seeds.index.get_level_values(0).isin(WITHOUT_EPOCHS)]
    shared = int(means(rows).notna().all().sum())
    lines.append(
        f"\n{counts.min()} to {counts.max()} seeds; means are over the {shared} sets that all have."
    )
    return "\n".join(lines)


def with_fixed(rows: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """Runs of a budget, with those that know no epochs."""
    return rows[rows.epochs.isin([0, epochs])]


def draw(rows: pd.DataFrame, file: Path) -> None:
    """Score against time, a panel for each set; the last one has the mean rank."""
    budgets = sorted(set(rows.epochs) - {0})
    names = [name for name in CONTENDERS if name in set(rows.contender)]
    colours = dict(zip(names, plt.get_cmap("tab10").colors, strict=False))
    shared = means(with_fixed(rows, budgets[0])).columns
    columns = min(4, len(shared) + 1)
    shape = (-(-(len(shared) + 1) // columns), columns)
    figure, grid = plt.subplots(*shape, figsize=(3.6 * columns, 3 * shape[0]), squeeze=False)
    panels = list(grid.flat)

    def curve(panel: Axes, name: str, points: list[tuple[float, float]]) -> None:
        width = 2.2 if name == OURS else 1.2
        x, y = zip(*points, strict=True)
        marker = "D" if name in WITHOUT_EPOCHS else "o"
        panel.plot(x, y, marker + "-", color=colours[name], label=name, lw=width, ms=4 + width)

    for name in names:
        fixed = name in WITHOUT_EPOCHS
        own = rows[rows.contender == name]
        for panel, dataset in zip(panels, shared, strict=False):
            some = own[own["set"] == dataset].groupby("epochs")[["seconds", "score"]]
            points = list(some.agg({"seconds": "median", "score": "mean"}).itertuples(index=False))
            if points:
                curve(panel, name, [(p.seconds, p.score) for p in points])
        tables = {e: with_fixed(rows, e) for e in (budgets[:1] if fixed else budgets)}
        figures = {e: (overall(t), means(t, "seconds")) for e, t in tables.items()}
        curve(
            panels[len(shared)], name,
            [(s.loc[name].median(), f.loc[name, "mean rank"]) for f, s in figures.values()
             if name in f.index],
        )  # fmt: skip
    for panel, title in zip(panels, [*shared, "mean rank (1 is best)"], strict=False):
        panel.set(title=title, xlabel="seconds", xscale="log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    for panel, dataset in zip(panels, shared, strict=False):
        panel.set_ylabel("R2" if dataset in NUMBERS else "score")
    panels[len(shared)].invert_yaxis()
    for panel in panels[len(shared) + 1 :]:
        panel.set_axis_off()
    handles, labels = panels[len(shared)].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    """Print the tables, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder; without it none is drawn")
    args = parser.parse_args()
    every = pd.read_csv(args.results)
    for (network, size), rows in every.groupby(["network", "size"], sort=False):
        for epochs in sorted(set(rows.epochs) - {0}):
            print(f"## {network}, {size} px, 1 + {epochs} epochs\n")
            print(markdown(with_fixed(rows, epochs)) + "\n")
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            draw(rows, args.pictures / f"{network}-{size}.png")


if __name__ == "__main__":
    main()
