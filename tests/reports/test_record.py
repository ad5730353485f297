"""The record of a run as JSON: there and back, old versions, damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.reports.runs import made_up, numbers, several_labels, tiny_run

from layergroups.errors import CheckpointError
from layergroups.reports import RunRecord
from layergroups.reports.page import run_page


def test_there_and_back_again(tmp_path: Path) -> None:
    for record in (tiny_run(), made_up()):
        record.save(tmp_path / "run.json")
        assert RunRecord.load(tmp_path) == record


def test_json_holds_no_number_that_json_does_not_know() -> None:
    odd = replace(made_up(), epochs=(replace(made_up().epochs[0], train_loss=float("nan")),))
    text = json.dumps(odd.to_dict(), allow_nan=False)
    assert RunRecord.from_dict(json.loads(text)).epochs[0].train_loss is None


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="layergroups train --out"):
        RunRecord.load(tmp_path)
    (tmp_path / "run.json").write_text("[1", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"run\.json"):
        RunRecord.load(tmp_path)
    for depth in (900, 100_000):
        fields = json.dumps(made_up().to_dict() | {"title": "deep"})
        deep = fields.replace('"deep"', "[" * depth + "]" * depth)
        (tmp_path / "run.json").write_text(deep, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"run\.json"):
            RunRecord.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"version 7.*Upgrade"):
        RunRecord.from_dict({"version": 7})
    fields = made_up().to_dict()
    fields["outcome"]["cells"] = [{"actual": "x"}]
    with pytest.raises(CheckpointError, match=r"outcome\.cells\[0\]\.predicted: is missing"):
        RunRecord.from_dict(fields)


def test_records_of_version_1_are_read() -> None:
    file = Path(__file__).parent / "runs_of_version_1.json"
    old = json.loads(file.read_text(encoding="utf-8"))
    classes, labels, values = (
        RunRecord.from_dict(old[name]) for name in ("classes", "labels", "numbers")
    )
    assert [r.outcome.task for r in (classes, labels, values)] == [
        "multiclass", "multilabel", "regression",
    ]  # fmt: skip
    assert classes == made_up(("ants", "bees", "owls")).without_pictures()
    assert labels.outcome.class_report == several_labels().outcome.class_report
    assert values.outcome == numbers().outcome
    assert run_page(classes)
    del old["classes"]["outcome"]["cells"][0]["count"]
    with pytest.raises(CheckpointError, match="damaged"):
        RunRecord.from_dict(old["classes"])
