import re

import pytest
from tests.training.notebook_cells import outputs_of
from tests.training.test_history import row

from layergroups.training.state._history import headings
from layergroups.training.state._progress import Silent, Terminal, reporter


def test_rows_go_to_stderr_below_headings_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Terminal()
    for epoch in range(3):
        shown.row(row(epoch))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:2] == ["epoch", "phase"]
    assert len({len(line) for line in lines}) == 1


def test_new_columns_get_new_headings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Terminal()
    shown.row(row(0))
    shown.row(row(1, metrics={}))
    shown.row(row(2, metrics={"f1": 0.5}))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "0", "1", "epoch", "2"]


def test_outside_a_terminal_a_bar_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().bar("epoch 0", 2) as bar:
        bar.advance(0.5)
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_in_a_terminal_a_bar_shows_title_and_loss(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Terminal().bar("epoch 0", 3) as bar:
        for _ in range(3):
            bar.advance(0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 0" in err
    assert "loss 0.5000" in err


@pytest.mark.parametrize(("columns", "without"), [(120, ()), (80, ()), (70, ("frozen",))])
def test_a_terminal_shows_the_columns_that_it_has_room_for(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    without: tuple[str, ...],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    Terminal().row(row(0, phase="late", lrs=(1.3e-5, 1.3e-4)))
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 2
    assert max(map(len, lines)) <= columns
    assert set(headings(["accuracy"])) - set(lines[0].split()) == set(without)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    silent = reporter(False)
    silent.row(row(0))
    with silent.bar("x", 1) as bar:
        bar.advance(0.1)
    assert isinstance(silent, Silent)
    assert capsys.readouterr() == ("", "")


def test_one_may_bring_ones_own() -> None:
    own = Silent()
    assert reporter(own) is own
    assert isinstance(reporter(True), Terminal)


@pytest.mark.slow
def test_in_a_notebook_a_fit_is_one_table_that_is_not_shown_twice() -> None:
    prepare = (
        "import os; os.environ['OMP_NUM_THREADS'] = '1'\n"
        "from tests.training.tiny import TinyLoaders, tiny_model\n"
        "from layergroups import Learner\n"
        "learn = Learner(TinyLoaders(), tiny_model(), split='layerwise')\n"
        "learn.unfreeze()"
    )
    _, fit, history, twice, validate, groups = outputs_of(
        prepare, "learn.fit(2)", "learn.history", "learn.fit(1); learn.fit(1)", "learn.validate()",
        "learn.layer_groups",
    )  # fmt: skip
    for outputs, rows in ((fit, 2), (history, 2), (twice, 2)):
        (output,) = outputs
        html = output["data"]["text/html"]
        assert html.count("train_loss") == 1
        assert len(html.splitlines()) == 1 + rows
        assert "<progress" not in html
    shown, value = validate
    assert shown["data"]["text/html"] == ""
    assert "valid_loss" in value["data"]["text/plain"]
    assert "<pre" in groups[0]["data"]["text/html"]
