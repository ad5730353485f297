"""`learn.report`: a page in a file, tables in a terminal, a frame in a notebook."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from tests.reports.runs import NASTY, made_up, numbers, several_labels, tiny_run
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups.errors import LayerGroupsError
from layergroups.reports import RunReport
from layergroups.tasks import ClassReport
from layergroups.training import Learner


@pytest.fixture
def learn() -> Learner:
    return Learner(TinyLoaders(n=16), tiny_model(), split=["0", "1"], progress=False)


def test_a_learner_writes_its_page(learn: Learner, tmp_path: Path) -> None:
    learn.fit(1)
    report = learn.report(tmp_path / "new" / "run.html", title="Mine", images=False)
    assert report.path == tmp_path / "new" / "run.html"
    page = report.path.read_text(encoding="utf-8")
    assert page == report.html()
    assert "<title>Mine</title>" in page
    assert "data:image/jpeg" not in page
    assert repr(report) == f"RunReport of Mine, written to {report.path}"


def test_without_a_path_nothing_is_written(
    learn: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Nothing has been trained yet" in str(learn.report())
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused_before_anything_is_computed(learn: Learner) -> None:
    learn.get_preds = None
    for arguments, says in (
        (("run.pdf",), r"must end with \.html, for example run\.html"),
        ((3,), "3 is not a path"),
        ((None, {"title": 3}), "title=3 must be text"),
        ((None, {"images": "no"}), "images='no' must be True or False"),
    ):
        path, options = (*arguments, {})[:2]
        with pytest.raises(LayerGroupsError, match=says):
            learn.report(path, **options)


def test_tables_show_names_as_they_are() -> None:
    text = str(RunReport((made_up(),)))
    assert NASTY[0] in text.replace("\n", "")
    assert "[bold]e" in text


def test_tables_of_many_classes_show_some_of_them() -> None:
    record = tiny_run()
    assert record.outcome is not None
    names = [f"class {i}" for i in range(200)]
    found = ClassReport.from_counts(names, range(200), [200] * 200, [200] * 200)
    outcome = replace(record.outcome, class_report=found)
    counts = tuple((name, 200 - i, 1) for i, name in enumerate(names))
    many = replace(record, outcome=outcome, data=replace(record.data, counts=counts))
    lines = str(RunReport((many,))).splitlines()
    shown = [line.split()[1] for line in lines if line.strip().startswith("class ")]
    shown = [number for number in shown if number.isdecimal()]
    assert shown == [*map(str, range(50)), *map(str, range(199, 149, -1))]
    assert sum("50 of 200 classes" in line for line in lines) == 2


@pytest.mark.parametrize("record", [tiny_run, several_labels, numbers])
def test_tables_fit_every_kind_of_result(record) -> None:
    text = str(RunReport((record(),)))
    assert "Reproduce" in text
    assert "Results" in text
    assert str(RunReport((record(), tiny_run())))


def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    report = RunReport((made_up(),))
    frame = report._repr_html_()
    assert frame.count("<") == 2
    assert unescape(frame.split('srcdoc="')[1].split('" sandbox')[0]) == report.html()


def test_a_report_is_of_one_run_or_two() -> None:
    with pytest.raises(LayerGroupsError, match="not 0"):
        RunReport(())
    assert len(RunReport((made_up(), made_up())).to_dict()["runs"]) == 2


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("run80", "run120"):
        (tmp_path / name).mkdir()
        numbers().save(tmp_path / name / "run.json")
    report = RunReport.read(tmp_path / "run80", tmp_path / "run120")
    one, other = (record.title for record in report.records)
    assert "run80" in one
    assert "run120" in other
    assert RunReport.read(tmp_path / "run80").records[0].title == numbers().title
