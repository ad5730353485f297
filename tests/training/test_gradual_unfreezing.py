"""Gradual unfreezing in a fit: what thaws when, and that nothing is lost by it."""

import logging

import pytest
import torch
from tests.training.tiny import moved, snapshot

from layergroups.errors import GroupingError, TrainingError
from layergroups.training import Thaw


class Watches:
    """Notes what moved in each epoch, and the optimizer's groups."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.optimizers: list[object] = []

    def before_epoch(self, run) -> None:
        self.before = snapshot(run.model)

    def after_epoch(self, run) -> None:
        names = moved(self.before, run.model)
        where = {n: g.name for g in run.groups for n, _ in g.named_parameters()}
        self.moved.append({where[n] for n in names if n in where})
        groups = run.optimizer.param_groups
        held = [(id(g), [id(p) for p in g["params"]]) for g in groups]
        self.optimizers.append((id(run.optimizer), held))


@pytest.mark.parametrize(
    ("thaw", "trains"),
    [
        (Thaw(), ["1", "0.7 1", "0.0 0.7 1", "0.0 0.7 1"]),
        (Thaw(every=2), ["1", "1", "0.7 1", "0.7 1", "0.0 0.7 1"]),
        (Thaw(start="0.7"), ["0.7 1", "0.0 0.7 1"]),
        (Thaw(start=0), ["0.0 0.7 1"]),
    ],
)
def test_groups_thaw_from_the_head_down_in_one_optimizer(make, thaw, trains) -> None:
    learn = make(callbacks=[thaw, watches := Watches()])
    rows = learn.fit_one_cycle(len(trains), 1e-2)
    assert [" ".join(sorted(names)) for names in watches.moved] == trains
    assert [row.frozen.count(False) for row in rows] == [len(t.split()) for t in trains]
    assert len(set(map(str, watches.optimizers))) == 1


def test_memory_of_the_groups_above_goes_on(make) -> None:
    class Looks:
        def before_epoch(self, run) -> None:
            state = run.optimizer.state.get(run.model[1][4].weight)
            self.before = state and {k: torch.as_tensor(v).clone() for k, v in state.items()}

        def before_step(self, run) -> None:
            if self.before:
                state = run.optimizer.state[run.model[1][4].weight]
                assert all(
                    torch.equal(torch.as_tensor(state[k]), v) for k, v in self.before.items()
                )
            self.before = None

    learn = make(callbacks=[Looks(), Thaw()])
    learn.fit(3)
    state = learn.opt.state
    assert state[learn.model[1][4].weight]["step"] == 18
    assert state[learn.model[0][7].weight]["step"] == 12
    assert state[learn.model[0][0].weight]["step"] == 6


def test_what_stands_depends_on_the_epoch_alone(make) -> None:
    class Disturbs:
        def before_epoch(self, run) -> None:
            run.groups.unfreeze()
            Thaw().before_epoch(run)
            Thaw().before_epoch(run)

    learn, other = make(callbacks=[Disturbs()]), make(callbacks=[Thaw()])
    learn.fit(3)
    other.fit(3)
    assert not moved(snapshot(learn.model), other.model)


def test_norms_may_train_all_along(make) -> None:
    learn = make(callbacks=[Thaw(norm="train")], batch_norm="update")
    before = snapshot(learn.model)
    learn.fit(1)
    assert {"0.1.weight", "0.1.running_mean"} <= moved(before, learn.model)
    assert "0.0.weight" not in moved(before, learn.model)


def test_a_fit_that_is_too_short_to_thaw_all_says_so(make, caplog) -> None:
    learn = make(callbacks=[Thaw(every=2)])
    with caplog.at_level(logging.WARNING):
        learn.fit(4)
    (record,) = caplog.records
    assert record.args == (4, "0.0", 5, 2, 1)
    learn.callbacks[:] = [Thaw(every=2, start=1)]
    caplog.clear()
    learn.fit(4)
    assert not caplog.records
    assert learn.layer_groups.frozen == (False, False, False)


@pytest.mark.parametrize(
    ("options", "words"), [({"every": 0}, "every=0"), ({"every": "1"}, "every='1'")]
)
def test_options_that_cannot_be(options, words) -> None:
    with pytest.raises(GroupingError, match=words):
        Thaw(**options)


def test_a_start_that_is_not_there_stops_the_fit_before_it_begins(make) -> None:
    learn = make(callbacks=[Thaw(start="stem")])
    before = snapshot(learn.model)
    with pytest.raises(GroupingError, match=r"'0\.0', '0\.7', '1'"):
        learn.fit(2)
    assert not moved(before, learn.model)


def test_a_learner_thaws_by_itself_in_as_many_epochs_as_it_needs(make) -> None:
    learn = make(callbacks=[watches := Watches()])
    rows = learn.thaw(lr=slice(1e-3, 1e-2))
    assert [" ".join(sorted(names)) for names in watches.moved] == ["1", "0.7 1", "0.0 0.7 1"]
    assert {row.phase for row in rows} == {"gradual unfreezing"}
    assert learn.layer_groups.frozen == (False, False, False)
    assert len(learn.thaw(2, every=2, start="0.7")) == 2
    assert watches.moved[-2:] == [{"0.7", "1"}, {"0.7", "1"}]


def test_a_thaw_that_crashed_goes_on_half_thawed(make, tmp_path) -> None:
    class Crash:
        def after_step(self, run) -> None:
            if run.step == 9:
                raise RuntimeError

    options = {"checkpoint_dir": tmp_path / "saved", "resume": True, "checkpoint_every": 2}
    unbroken, resumed = make(), make()
    unbroken.thaw(lr=1e-2)
    with pytest.raises(TrainingError, match="Crash"):
        make(callbacks=[Crash()]).thaw(lr=1e-2, **options)
    resumed.thaw(lr=1e-2, **options)
    assert not moved(snapshot(unbroken.model), resumed.model)
    assert [row.frozen for row in resumed.history] == [row.frozen for row in unbroken.history]


def test_a_learner_freezes_by_name_and_for_a_while(make) -> None:
    learn = make()
    learn.freeze("0.7", norm="train")
    with learn.freeze_to("1"):
        assert learn.layer_groups.frozen == (True, True, False)
    assert learn.layer_groups.frozen == (False, True, False)
    learn.unfreeze("0.7")
    assert learn.layer_groups.frozen == (False, False, False)
