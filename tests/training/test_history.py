import csv
import io
import json

from rich.console import Console

from layergroups.training import EpochRow, History


def row(epoch: int, **fields) -> EpochRow:
    values = {
        "epoch": epoch,
        "phase": "one cycle",
        "train_loss": 0.5,
        "valid_loss": 0.25,
        "metrics": {"accuracy": 0.75},
        "seconds": 61.4,
        "lrs": (1e-5, 1e-3),
        "frozen": (True, False),
    }
    return EpochRow(**(values | fields))


HISTORY = History((row(0), row(1, valid_loss=None, metrics={}, note="interrupted")))


def test_a_history_prints_as_a_table() -> None:
    lines = str(HISTORY).splitlines()
    assert lines[0].split() == [
        "epoch", "phase", "train_loss", "valid_loss", "accuracy", "rates", "frozen", "time",
    ]  # fmt: skip
    assert "0.7500" in lines[1]
    assert "1.0e-05..1.0e-03" in lines[1]
    assert "1 of 2" in lines[1]
    assert "1 min 01 s" in lines[1]
    assert "0.7500" not in lines[2]


def test_rich_shows_it_too() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(HISTORY)
    assert "valid_loss" in console.file.getvalue()


def test_json_and_back(tmp_path) -> None:
    text = HISTORY.to_json(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text()) == json.loads(text)
    assert History.from_dict(json.loads(text)) == HISTORY


def test_csv_has_a_column_for_each_metric(tmp_path) -> None:
    text = HISTORY.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == text
    first, second = csv.DictReader(io.StringIO(text))
    assert first["accuracy"] == "0.75"
    assert first["lrs"] == "1e-05 0.001"
    assert first["frozen"] == "1 0"
    assert second["accuracy"] == ""


def test_it_is_a_sequence_that_adds_up() -> None:
    assert len(HISTORY) == 2
    assert HISTORY[0].epoch == 0
    assert HISTORY[1:] == History((HISTORY[1],))
    assert History() + HISTORY == HISTORY
    assert not History()
    assert str(History()).split()[0] == "epoch"


def test_rows_cannot_be_changed() -> None:
    assert row(1) == row(1) != row(2)
    assert EpochRow.__dataclass_params__.frozen
