import pytest
from tests.training.test_history import row

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
