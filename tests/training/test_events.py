import pytest

from layergroups.errors import TrainingError
from layergroups.training import EVENTS, Callback


class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattr__(self, name: str):
        if name not in EVENTS:
            raise AttributeError(name)
        return lambda run: self.seen.append(name)


class Fails(Callback):
    def after_epoch(self, run) -> None:
        raise KeyError("x")


def test_events_come_in_the_stated_order(make) -> None:
    recorder = Recorder()
    make(callbacks=[recorder]).fit(2)
    steps = ["before_step", "after_step"] * 6
    epoch = ["before_epoch", *steps, "before_validate", "after_epoch"]
    assert recorder.seen == ["before_fit", *epoch, *epoch, "after_fit", "after_all"]


def test_callbacks_are_called_in_the_order_of_the_list(make) -> None:
    order = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def before_fit(self, run) -> None:
            order.append(self.name)

    make(callbacks=[Named("a"), Named("b")]).fit(1)
    assert order == ["a", "b"]


def test_a_failing_callback_is_named_with_its_event(make) -> None:
    with pytest.raises(TrainingError, match=r"Fails failed in after_epoch .*KeyError") as caught:
        make(callbacks=[Fails()]).fit(1)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, None])
def test_the_last_event_comes_whatever_happened(make, error) -> None:
    class Breaks:
        def after_step(self, run) -> None:
            if run.step == 8 and error:
                raise error

    recorder = Recorder()
    learn = make(callbacks=[Breaks(), recorder])
    if error is None:
        learn.fit(1)
    else:
        with pytest.raises((TrainingError, KeyboardInterrupt)):
            learn.fit(2)
    assert recorder.seen.count("after_all") == 1
    assert recorder.seen[-1] == "after_all"


def test_closing_does_not_hide_the_error_that_came_first(make, caplog) -> None:
    class Closes:
        def after_step(self, run) -> None:
            raise KeyboardInterrupt

        def after_all(self, run) -> None:
            raise OSError("cannot close")

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Closes(), recorder]).fit(1)
    assert "Closes failed in after_all" in caplog.text
    assert recorder.seen[-1] == "after_all"


def test_closing_that_fails_after_all_went_well_is_an_error(make) -> None:
    class Closes:
        def after_all(self, run) -> None:
            raise OSError("cannot close")

    learn = make(callbacks=[Closes()])
    with pytest.raises(TrainingError, match=r"Closes failed in after_all .*cannot close"):
        learn.fit(1)
    assert learn.epochs_done == 1


def test_a_run_shows_what_happens(make) -> None:
    seen = []

    class Looks:
        def after_step(self, run) -> None:
            seen.append((run.epoch, run.step, run.steps, tuple(run.inputs.shape)))
            assert run.loss.ndim == 0
            assert all(p.grad is not None for p in run.model.parameters())

        def after_epoch(self, run) -> None:
            assert run.rows[-1].epoch == run.epoch

    make(callbacks=[Looks()]).fit(2)
    assert seen[0] == (0, 1, 12, (8, 3, 16, 16))
    assert seen[-1] == (1, 12, 12, (8, 3, 16, 16))


def test_a_callback_may_stop_the_fit(make) -> None:
    class Stops:
        def after_step(self, run) -> None:
            if run.step == 8:
                run.stop = "enough"

    learn = make(callbacks=[Stops()])
    rows = learn.fit(5)
    assert [row.note for row in rows] == ["", "enough"]
    assert len(learn.history) == learn.epochs_done == 2


@pytest.mark.parametrize(("given", "says"), [(Fails, r"Fails\(\)"), (object(), "before_fit")])
def test_what_is_no_callback_is_refused(make, given, says) -> None:
    with pytest.raises(TrainingError, match=says):
        make(callbacks=[given])


def test_a_method_that_is_no_event_is_told(make, caplog: pytest.LogCaptureFixture) -> None:
    class Other(Callback):
        def on_epoch_end(self, run) -> None: ...

    with pytest.raises(TrainingError, match="after_epoch"):
        make().fit(1, callbacks=[Other()])

    class Misspelt(Callback):
        def before_fit(self, run) -> None: ...
        def after_epoc(self, run) -> None: ...

    make().fit(1, callbacks=[Misspelt()])
    told = [record.args for record in caplog.records if "Misspelt" in record.getMessage()]
    assert [(args[1], args[3]) for args in told] == [("after_epoc", " Did you mean after_epoch?")]
