"""A run in words and figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.reports.runs import made_up, tiny_run

from layergroups.reports.run._narrative import phases_of, savings_of, summary


def test_phases_and_savings_are_added_up() -> None:
    record = tiny_run()
    phases = phases_of(record.epochs)
    assert [(phase.name, phase.start, len(phase.rows)) for phase in phases] == [
        ("head", 0, 1), ("all", 1, 2), ("fit", 3, 3),
    ]  # fmt: skip
    assert sum(phase.seconds for phase in phases) == pytest.approx(record.seconds)
    savings = savings_of(record.epochs)
    assert savings.saved == savings.passes - savings.body_passes > 5
    assert savings_of(record.epochs[1:3]) is None


def test_the_summary_says_where_validation_was_best_if_that_was_not_the_end() -> None:
    record = made_up()
    assert "lowest" not in summary(record)  # it fell to the end
    rising = [replace(row, valid_loss=0.1 * (i + 1)) for i, row in enumerate(record.epochs)]
    text = summary(replace(record, epochs=tuple(rising)))
    assert "epoch 0 (0.1000)" in text
    assert "0.4000" in text
