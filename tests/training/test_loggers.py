"""Files, trackers and plots of a fit, resumed and interrupted too."""

import csv
import json
import logging
import sys
import types

import pytest
from accelerate.tracking import GeneralTracker
from tensorboardX.proto import event_pb2
from tests.training.failing import crash

from layergroups.training import (
    CSVLog,
    LivePlot,
    Trackers,
)


def read(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_file_grows_with_the_history(make, tmp_path) -> None:
    path = tmp_path / "logs" / "run.csv"
    lengths = []

    class Looks:
        def before_epoch(self, run) -> None:
            lengths.append(len(read(path)) if path.exists() else 0)

    learn = make(metrics=["accuracy"], callbacks=[Looks(), CSVLog(path)])
    learn.fit(2)
    learn.fit_one_cycle(1)
    rows = read(path)
    assert lengths == [0, 1, 2]
    assert [row["phase"] for row in rows] == ["fit", "fit", "one cycle"]
    assert float(rows[2]["accuracy"]) == learn.history[2].metrics["accuracy"]


def test_a_resumed_run_has_each_epoch_once_and_an_interrupted_one_its_last(make, tmp_path) -> None:
    path, saved = tmp_path / "run.csv", {"checkpoint_dir": tmp_path / "saved", "resume": True}
    crash(make(callbacks=[CSVLog(path)]), 8, 3, error=KeyboardInterrupt, **saved)
    assert [row["valid_loss"] != "" for row in read(path)] == [True, False]
    make(callbacks=[CSVLog(path)]).fit(3, **saved)
    assert [row["epoch"] for row in read(path)] == ["0", "1", "2"]
    assert all(row["valid_loss"] for row in read(path))


class Lines(GeneralTracker):
    """A tracker of one's own, as accelerate's documents say: a line for each message."""

    name = "lines"
    requires_logging_directory = False

    def __init__(self, path) -> None:
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> None:
        return None

    def _write(self, what) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def store_init_configuration(self, values) -> None:
        self._write(values)

    def log(self, values, step=None, **kwargs) -> None:
        self._write({"step": step, **values})

    def finish(self) -> None:
        self._write({"finished": True})


def test_trackers_are_told_of_losses_metrics_and_rates(make, tmp_path) -> None:
    path = tmp_path / "lines.json"
    trackers = Trackers(Lines(path), every=3, config={"note": "first"})
    learn = make(metrics=["accuracy"], callbacks=[trackers], lr=[1e-3, 2e-3, 1e-2])
    learn.fit(2)
    learn.fit_one_cycle(1)
    trackers.close()
    config, *told, end = [json.loads(line) for line in path.read_text().splitlines()]
    assert config["note"] == "first"
    assert config["rate/1"] == 1e-2
    assert end == {"finished": True}
    assert [line["step"] for line in told] == [3, 6, 6, 9, 12, 12, 15, 18, 18]
    assert told[0]["lr/0.7"] == 2e-3
    assert told[2]["valid_loss"] == learn.history[0].valid_loss
    assert told[8]["accuracy"] == learn.history[2].metrics["accuracy"]
    assert told[7]["lr/1"] < 2e-3  # the end of the one cycle


def scalars(file) -> list[tuple[int, str, float]]:
    """Step, name and value of all scalars in a file of TensorBoard: length, check, event, check."""
    content, found = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        content = content[16 + size :]
    return found


def test_tensorboard_gets_files_that_it_can_read(make, tmp_path) -> None:
    trackers = Trackers("tensorboard", folder=tmp_path / "logs", every=3)
    learn = make(callbacks=[trackers], lr=[1e-3, 2e-3, 1e-2])
    learn.fit(1)
    trackers.close()
    (file,) = (tmp_path / "logs" / "layergroups").glob("events.out.tfevents*")
    told = {(step, name): value for step, name, value in scalars(file)}
    assert told[3, "lr/0.7"] == pytest.approx(2e-3)
    assert told[6, "valid_loss"] == pytest.approx(learn.history[0].valid_loss)


def test_trackers_count_on_after_a_crash(make, tmp_path) -> None:
    path, saved = tmp_path / "lines.json", {"checkpoint_dir": tmp_path / "saved", "resume": True}
    crash(make(callbacks=[Trackers(Lines(path), every=2)]), 7, 2, **saved)
    path.unlink()
    make(callbacks=[Trackers(Lines(path), every=2)]).fit(2, **saved)
    steps = [json.loads(line).get("step") for line in path.read_text().splitlines()]
    assert steps == [None, 8, 10, 12, 12]


def test_in_a_terminal_a_live_plot_only_says_so(make, caplog) -> None:
    plot = LivePlot()
    make(callbacks=[plot], metrics=["accuracy"]).fit(2)
    assert caplog.text.count("draws in notebooks only") == 1
    assert plot.png().startswith(b"\x89PNG")


def test_in_a_notebook_one_picture_is_drawn_again_and_again(make, monkeypatch) -> None:
    """The kernel is played by an object; what is drawn and shown is real."""
    shown: list[bytes] = []

    class Handle:
        def update(self, picture) -> None:
            shown.append(picture.data)

    def display(picture, display_id: bool) -> Handle:
        assert display_id
        shown.append(picture.data)
        return Handle()

    kernel = types.SimpleNamespace(kernel=object(), execution_count=1)
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = lambda: kernel
    drawn = types.ModuleType("IPython.display")
    drawn.Image = lambda data, format, retina: types.SimpleNamespace(data=data)
    drawn.display = display
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", drawn)
    plot = LivePlot(seconds=3600)
    make(callbacks=[plot]).fit(2)
    assert len(shown) == 4  # the first step, two epochs, the end
    assert shown[-1] == plot.png() != shown[0]


def test_a_live_plot_goes_on_with_the_losses_before_the_crash(make, tmp_path, caplog) -> None:
    caplog.set_level(logging.ERROR)
    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True}
    unbroken, resumed = LivePlot(), LivePlot()
    make(callbacks=[unbroken]).fit(2)
    crash(make(callbacks=[LivePlot()]), 8, 2, **saved)
    make(callbacks=[resumed]).fit(2, **saved)
    assert resumed.state_dict() == unbroken.state_dict()
    assert len(resumed.state_dict()["losses"]) == 12
