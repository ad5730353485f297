"""Records of runs for tests: of a tiny learner, and made up ones with nasty names."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import replace
from functools import cache

from PIL import Image
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups.data import DataFacts
from layergroups.reports import RunRecord, record_run
from layergroups.reports.figures import BlockRow, GroupStack
from layergroups.reports.run import (
    Cell,
    EpochRow,
    NetworkFacts,
    Outcome,
    SetupFacts,
    ShownItem,
)
from layergroups.tasks import Calibration, ClassReport
from layergroups.training import FineTuneDefaults, Learner

NASTY = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a\"b'c&d [bold]e")


@cache
def tiny_run() -> RunRecord:
    """Of a learner that has trained for a moment: the head, all groups, the head again."""
    learn = Learner(
        TinyLoaders(n=48), tiny_model(), split=["0.0", "0.7", "1"], metrics=["accuracy"],
        progress=False,
    )  # fmt: skip
    learn.fine_tune(2, defaults=FineTuneDefaults(lowest=0))
    learn.freeze()
    learn.fit(3)
    return record_run(learn, title="A tiny run", command=["layergroups", "train", "my photos"])


def picture(colour: tuple[int, int, int] = (200, 40, 30), side: int = 40) -> str:
    """A photo as a data URI."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(written, "JPEG")
    return f"data:image/jpeg;base64,{b64encode(written.getvalue()).decode()}"


def made_up(names: tuple[str, ...] = NASTY, groups: int = 3, epochs: int = 4) -> RunRecord:
    """A record in which every text comes from elsewhere."""
    nasty = names[0]
    stacks = tuple(
        GroupStack(
            f"{nasty}{i}", (BlockRow(f"{nasty}.{i}", 100 * (i + 1), (8, 4, 4)),), "#5aaedb", 100,
            1, i == 0, 1e-4, names[1],
        )
        for i in range(groups)
    )  # fmt: skip
    rows = tuple(
        EpochRow(
            epoch=i, phase=names[i % 2], train_loss=1 / (i + 1), valid_loss=1.2 / (i + 1),
            metrics={nasty: 0.5, "accuracy": 0.5 + i / 20}, seconds=60.5, lrs=(1e-3,) * groups,
            frozen=tuple(g < groups - 1 and i == 0 for g in range(groups)), note=names[1],
            lr_profile=(0.1, 1.0, 0.01),
            resources={"memory": 2e9, "passes": 9.0, "body_passes": 2.0,
                                          "store_seconds": 4.0},
        )
        for i in range(epochs)
    )  # fmt: skip
    photos = tuple(
        ShownItem(f"{n}/{n}.jpg", n, nasty, 0.75, 1.5, picture(), picture()) for n in names
    )
    n = len(names)
    cells = [Cell(i, i, 3, (i % len(photos),)) for i in range(n)] + [Cell(0, 1, 2, (0, 1))]
    return RunRecord(
        title=names[1],
        network=NetworkFacts(name=nasty, rule=nasty, groups=stacks),
        epochs=rows,
        outcome=Outcome(
            task="multiclass", items=3 * n + 2, loss=0.5, figures={"accuracy": 3 * n / (3 * n + 2)},
            classes=names, cells=tuple(cells), shown=photos, worst=photos,
            class_report=ClassReport.from_counts(
                names, [3] * n, [3 + 2 * (i == 1) for i in range(n)],
                [3 + 2 * (i == 0) for i in range(n)],
            ),
            calibration=Calibration.from_means([(0.5, 0.4, 5), (0.9, 1.0, 6)]),
        ),
        data=DataFacts(name=nasty, train=30, valid=11, counts=tuple((c, 10, 3) for c in names),
                       facts={nasty: names[1]}, broken=((names[0], names[1]),)),
        setup=SetupFacts(command=names[1], created="2026-11-22T01:02:03+00:00",
                         settings={nasty: names[1]}, versions={"layergroups": names[1]},
                         machine={"device": nasty}),
    )  # fmt: skip


def several_labels() -> RunRecord:
    """A result of several labels for each item."""
    report = ClassReport.from_counts(("sky", "sea"), [7, 0], [8, 0], [10, 4])
    outcome = Outcome(task="multilabel", items=12, loss=0.3, figures={"F1 (micro)": 0.7},
                      classes=("sky", "sea"), class_report=report)  # fmt: skip
    return replace(made_up(("sky", "sea")), outcome=outcome)


def numbers() -> RunRecord:
    """A result of numbers."""
    outcome = Outcome(
        task="regression", items=3, loss=0.3, figures={"mean absolute error": 0.25, "R²": 0.9},
        classes=("age",), points=((1.0, 1.5), (2.0, 2.0), (30.0, 29.0)),
    )  # fmt: skip
    return replace(made_up(("a", "b")), outcome=outcome)
