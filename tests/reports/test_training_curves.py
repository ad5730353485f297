"""The curves of a fit as a picture."""

from __future__ import annotations

from layergroups.reports import EpochRow
from layergroups.reports.figures._training_curves import draw_curves


def test_a_frozen_group_has_no_learning_rate() -> None:
    rows = [
        EpochRow(epoch=i, phase="all", train_loss=1.0, valid_loss=1.0, seconds=1.0,
                 lrs=(1e-3, 1e-2), frozen=(i == 0, False))
        for i in range(3)
    ]  # fmt: skip
    rates = draw_curves(rows, [], [], ["body", "head"]).axes[-1]
    drawn = {line.get_label(): list(line.get_xdata()) for line in rates.lines}
    assert drawn == {"body": [2, 3], "head": [1, 2, 3]}
