"""`learn.search`: variants of the recipe on cached outputs, judged by held-out training items."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.training.test_held_out import learner
from tests.training.tiny import TinyLoaders, moved, pretrained, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.reports import RunRecord, choices_in_words, record_run
from layergroups.training import FineTuneDefaults, FineTunePlan, Learner, Trial
from layergroups.training.recipes._fine_tune import usual_of
from layergroups.training.recipes._phases import Phase
from layergroups.training.recipes._search import _Bench, _parts, search, seconds_of

PLAN = FineTunePlan(epochs=2, figures=FineTuneDefaults(head_steps=12, head_passes=1))


class Plain:
    """Batches without views of their items."""

    def __init__(self) -> None:
        known = TinyLoaders(n=120)
        self.train, self.valid = known.train, known.valid
        self.vocab, self.size, self.input = known.vocab, known.size, known.input


def tried(learn: Learner, trials: int = 6, **options: Any) -> Any:
    return search(learn, PLAN, trials=trials, cache_config=learn.feature_cache, **options)


def bench(learn: Learner) -> _Bench:
    return _Bench(learn, PLAN, learn.feature_cache)


def test_a_search_changes_nothing_and_is_the_same_again() -> None:
    learn = learner(n=120)
    learn.freeze_to(1)
    before, random, rates = snapshot(learn.model), torch.get_rng_state(), learn.layer_groups.rates
    one = tried(learn)
    assert not moved(before, learn.model)
    assert torch.equal(torch.get_rng_state(), random)
    assert (len(learn.history), learn.opt, learn.epochs_done) == (0, None, 0)
    assert (learn.layer_groups.frozen, learn.layer_groups.rates) == ((True, False, False), rates)
    assert [(t.changes, t.loss) for t in tried(learn).trials] == [
        (t.changes, t.loss) for t in one.trials
    ]
    stages = ["head, 1/16"] * 5 + ["head, 1/4"] * 2 + ["head"] * 2 + ["tuned"] * 2
    assert [t.stage for t in one.trials] == stages
    assert [one.trials[i].changes for i in (0, 5, 7, 9)] == [{}] * 4
    assert one.trials[9].judged is not None  # the default recipe is a finalist


def test_the_frozen_layers_run_once_for_all_trials() -> None:
    items: list[int] = []  # not in a module, whose attributes a search restores

    class Notes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            items.append(len(x))
            return x

    model = pretrained(tiny_model())
    model[0].insert(0, Notes())
    dls = learner(n=120).data
    learn = Learner(dls, model, split=["0.1", "0.8", "1"], progress=False, seed=0)
    items.clear()
    tried(learn, 8)
    probe, folded = 2 * 3, 3 * 3  # a few items to find the boundaries, and what can be fused
    assert sum(items) == 2 * 120 + probe + folded


def test_held_out_items_are_in_no_step_and_judges_rank_nothing() -> None:
    learn = learner(n=120)
    rank, judge = _parts(learn)
    assert (len(rank), len(judge), set(rank) & set(judge)) == (24, 18, set())
    labels = learn.data.targets()
    assert {int(labels[i]) for i in judge} == {int(labels[i]) for i in rank} == {0, 1, 2}
    work = bench(learn)
    work.fill()
    phase = Phase(name="head", epochs=1, schedule=PLAN.figures.head_schedule, freeze_to=-1, lr=1e-3)
    run = work._begin(phase)
    work._train(run, PLAN.figures, run.groups.inactive, 32)
    used = {int(i) for _, items in run.batches.rows() for i in items}
    assert used == set(range(120)) - set(rank) - set(judge)
    work.snapshot.restore()


def test_the_default_stays_unless_both_parts_speak_for_another() -> None:
    work = bench(learner(n=120))
    assert work.chosen()[0] is None
    ones, zeros = torch.ones(20).double(), torch.zeros(20).double()

    def chosen(usual: tuple[Any, Any], other: tuple[Any, Any]) -> Any:
        changes = [{}, {"unfrozen_ratio": 0.5}]
        work.trials = [Trial(stage="tuned", changes=c, error=e, loss=e) for c, e in
                       zip(changes, (usual[0].mean(), other[0].mean()), strict=True)]  # fmt: skip
        work._results = {0: usual, 1: other}
        return work.chosen()[0]

    assert chosen((ones, ones), (zeros, zeros)).changes == {"unfrozen_ratio": 0.5}
    assert chosen((ones, ones), (zeros, ones)) is None
    assert chosen((zeros, ones), (ones, zeros)) is None
    assert chosen((zeros, zeros), (zeros, zeros)) is None


class Bars:
    """A reporter that notes its bars: the title, the steps that were announced and those made."""

    def __init__(self) -> None:
        self.bars: list[list[Any]] = []

    def bar(self, title: str, total: int) -> Any:
        noted = [title, total, 0]
        self.bars.append(noted)

        class Noted:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...

            def advance(self, loss: float = 0.0) -> None:
                noted[2] += 1

        return Noted()

    def row(self, row: Any) -> None: ...


@pytest.mark.parametrize("trials", [6, 12])
def test_one_bar_counts_the_trials(trials: int) -> None:
    shown = Bars()
    found = tried(learner(n=120, progress=shown), trials)
    *cached, (_, total, done) = shown.bars
    assert len(found.trials) == done == total
    assert len(cached) == 2  # passes of the frozen layers


@pytest.mark.parametrize(("trials", "says"), [(30, False), (100, True)])
def test_it_says_where_the_grid_has_fewer_heads(
    trials: int, says: bool, caplog: Any, monkeypatch: Any
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(_Bench, "try_heads", lambda self, n_heads, deadline: asked.append(n_heads))
    monkeypatch.setattr(_Bench, "try_tuning", lambda self, n_tuned, deadline: None)
    tried(learner(n=120), trials)
    assert asked == [24]
    assert ("24 heads" in caplog.text) == says


def test_it_says_where_nothing_below_the_head_is_tuned(caplog: Any) -> None:
    work = bench(learner(n=120, split=["1"]))
    work.fill()
    assert work.tuned_of(3) == 0
    assert "heads only" in caplog.text
    work.snapshot.restore()


def test_the_plan_is_applied_and_says_where_it_comes_from() -> None:
    learn = learner(n=120)
    found = learn.search(4, epochs=1, defaults=PLAN.figures)
    assert [row.phase for row in learn.history] == ["head", "all"]
    assert learn.plan.figures == found.plan.figures
    assert learn.plan.reasons["search"] == found.plan.reasons["search"] == found.reason
    assert json.loads(json.dumps(found.to_dict()))["trials"][0]["stage"] == "head, 1/16"
    for shown in ("trial", "default", "judged"):
        assert shown in str(found)
    assert found.figure.axes


def ends_after(count: int, monkeypatch: Any, number: int = signal.SIGINT) -> None:
    """Send the signal as soon as a search has made so many trials."""
    add = _Bench._add

    def interrupted(self: _Bench, *args: Any) -> None:
        add(self, *args)
        if len(self.trials) == count:
            signal.raise_signal(number)

    monkeypatch.setattr(_Bench, "_add", interrupted)


def test_ctrl_c_ends_the_search_and_says_that_nothing_was_tuned(
    monkeypatch: Any, caplog: Any
) -> None:
    learn = learner(n=120)
    before = snapshot(learn.model)
    ends_after(3, monkeypatch)
    found = learn.search(8, epochs=1, defaults=PLAN.figures)
    assert (len(found.trials), found.interrupted) == (3, True)
    assert found.reason.startswith("interrupted")
    assert "3 trials" in caplog.text
    assert "fine_tune(plan=" in caplog.text
    assert learn.last_search is found
    assert not moved(before, learn.model)
    assert not learn.history


def test_the_plan_and_the_record_of_a_run_keep_the_trials(tmp_path: Any) -> None:
    learn = learner(n=120)
    found = learn.search(4, epochs=1, defaults=PLAN.figures)
    assert [(t["stage"], t["changes"], t["error"]) for t in learn.plan.search] == [
        (t.stage, t.changes, t.error) for t in found.trials
    ]
    record_run(learn, measured=False).save(tmp_path / "run.json")
    kept = FineTunePlan.from_dict(RunRecord.load(tmp_path / "run.json").plan)
    assert kept == learn.plan
    (row,) = (row for row in choices_in_words(learn.plan.to_dict()) if row[0] == "search")
    assert str(len(found.trials)) in row[1]
    assert found.reason in row[2]
    assert found.reason in " ".join(str(learn.plan).split())
    assert found.reason in learn.report(images=False).html()


def test_older_plans_have_no_trials() -> None:
    values = PLAN.to_dict()
    del values["search"]
    assert FineTunePlan.from_dict(values) == PLAN
    assert not [row for row in choices_in_words(PLAN.to_dict()) if row[0] == "search"]


def test_a_plan_without_a_second_phase_says_that_the_search_decided_it() -> None:
    work = bench(learner(n=120))
    ones, zeros = torch.ones(20).double(), torch.zeros(20).double()
    work.trials = [
        Trial(stage="head", changes={"base_lr": 1.0}, error=0, loss=0),
        Trial(stage="tuned", error=1, loss=1),
    ]
    work._results = {0: (zeros, zeros), 1: (ones, ones)}
    made, _ = work.plan_of_the_best()
    assert (made.epochs, made.figures.base_lr) == (0, 1.0)
    assert "search" in made.reasons["epochs"]


@pytest.mark.parametrize("stage", ["head, 1/16", "head, 1/4", "head"])
def test_ctrl_c_keeps_the_best_of_the_round_so_far(stage: str) -> None:
    work = bench(learner(n=120))
    ones, zeros = torch.ones(20).double(), torch.zeros(20).double()

    def chosen(*others: tuple[Any, Any]) -> Any:
        results = [(ones, ones), *others]
        work.trials = [
            Trial(stage=stage, changes={"base_lr": float(i)} if i else {}, error=e, loss=e)
            for i, e in enumerate(float(ranked.mean()) for ranked, _ in results)
        ]
        work._results = dict(enumerate(results))
        return work.chosen()[0]

    assert chosen((zeros, zeros), (ones, ones)).changes == {"base_lr": 1.0}
    assert chosen((zeros, ones)) is None
    assert chosen((ones + 1, zeros)) is None
    assert chosen() is None


def test_a_round_of_the_default_alone_leaves_the_choice_to_the_round_before() -> None:
    work = bench(learner(n=120))
    ones, zeros = torch.ones(20).double(), torch.zeros(20).double()
    work.trials = [
        Trial(stage="head, 1/16", error=1, loss=1),
        Trial(stage="head, 1/16", changes={"base_lr": 1.0}, error=0, loss=0),
        Trial(stage="head, 1/4", error=1, loss=1),
    ]
    work._results = {0: (ones, ones), 1: (zeros, zeros), 2: (ones, ones)}
    best, reason = work.chosen()
    assert best is not None
    assert best.changes == {"base_lr": 1.0}
    assert "1/16" in reason


def test_ctrl_c_in_the_fine_tuning_does_not_lose_the_search() -> None:
    class Interrupts:
        def after_step(self, run: Any) -> None:
            raise KeyboardInterrupt

    learn = learner(n=120)
    assert learn.last_search is None
    with pytest.raises(KeyboardInterrupt):
        learn.search(4, epochs=1, defaults=PLAN.figures, callbacks=[Interrupts()])
    assert len(learn.last_search.trials) > 4
    assert not learn.last_search.interrupted


def test_sigterm_ends_the_program(monkeypatch: Any) -> None:
    learn = learner(n=120)
    before = snapshot(learn.model)
    ends_after(3, monkeypatch, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        learn.search(8, epochs=1, defaults=PLAN.figures)
    assert not moved(before, learn.model)


def test_a_budget_ends_the_search_but_not_the_default() -> None:
    found = tried(learner(n=120), 30, budget=1e-6)
    assert [(t.stage, t.changes) for t in found.trials] == [("head, 1/16", {}), ("tuned", {})]
    assert found.plan.figures == PLAN.figures


def test_the_epochs_fit_into_the_budget(caplog: Any) -> None:
    work = bench(learner(n=120))
    work.fill_seconds = 2.0  # two passes: one for each view
    work.trials = [
        Trial(stage="head, 1/16", error=1, loss=1, seconds=0.25),
        Trial(stage="tuned", error=1, loss=1, seconds=1.3),
    ]
    plan = replace(PLAN, epochs=20)  # a head's phase of 2 + 4 seconds, and epochs of 1 + 1

    def epochs(budget: float, choose: bool = True) -> int:
        return work.within(plan, budget, 10, choose_epochs=choose).epochs

    assert [epochs(100), epochs(27)] == [20, 5]
    assert "too short" not in caplog.text
    assert epochs(12) == 1
    assert 'budget="18 s"' in caplog.text
    caplog.clear()
    assert epochs(27, choose=False) == 20
    assert 'budget="92 s"' in caplog.text


def test_a_search_with_a_budget_chooses_the_epochs_if_none_are_given() -> None:
    options: dict[str, Any] = {"budget": 1e-3, "defaults": PLAN.figures, "apply": False}
    assert learner(n=120).search(**options).plan.epochs == 1
    assert learner(n=120).search(epochs=2, **options).plan.epochs == 2


@pytest.mark.parametrize(
    ("budget", "seconds"), [("20 min", 1200), ("90s", 90), ("1.5 h", 5400), (30, 30)]
)
def test_budgets(budget: Any, seconds: float) -> None:
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: learner(n=120).search(3), "trials=3"),
        (lambda: learner(n=90).search(), "too few"),
        (lambda: learner(n=120).search(budget="soon"), "20 min"),
        (lambda: seconds_of("1.2.3 min"), "20 min"),
        (lambda: Learner(Plain(), tiny_model(), progress=False).search(4), "views"),
    ],
)
def test_what_cannot_be_searched_is_refused(call: Any, text: str) -> None:
    with pytest.raises(TrainingError, match=text):
        call()


def test_items_as_they_are_in_all_epochs() -> None:
    learn, seen = learner(), []

    class Watch:
        def before_step(self, run: Any) -> None:
            if run.phase == "all":
                seen.extend(run.inputs.sum((1, 2, 3)).tolist())

    figures = replace(PLAN.figures, augmented=False, hold_out=0.0)
    learn.fine_tune(2, defaults=figures, callbacks=[Watch()])
    assert learn.plan.head_views == 1
    plain = torch.cat([x for x, _ in learn.data.train_eval]).sum((1, 2, 3))
    assert torch.tensor(seen[:96]).sort()[0] == pytest.approx(plain.sort()[0], abs=1e-2)
    cached = learner()
    cached.fine_tune(3, defaults=replace(figures, lowest=1))
    (entry,) = cached.cache.entries.values()
    assert entry.views == [-1]


@pytest.mark.parametrize("kept", [False, True])
def test_tuned_trials_have_the_dropout_of_the_recipe(kept: bool) -> None:
    model = pretrained(tiny_model())
    seen: set[bool] = set()  # not in a module, whose attributes a search restores
    dropout = next(m for m in model[1].modules() if isinstance(m, nn.Dropout))
    dropout.register_forward_hook(lambda m, inputs, output: seen.add(m.training))
    learn = Learner(learner(n=120).data, model, split=["0.0", "0.7", "1"], progress=False, seed=0)
    figures = replace(PLAN.figures, head_dropout=kept, hold_out=0.0)
    work = _Bench(learn, replace(PLAN, figures=figures), learn.feature_cache)
    work.fill()
    work._head("head", {}, 4)
    assert True in seen
    seen.clear()
    work._tuned({}, 1, 1)
    assert (True in seen) == kept
    work.snapshot.restore()


@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_the_default_trial_leaves_as_many_groups_frozen_as_the_recipe(lowest: int) -> None:
    learn = Learner(
        learner(n=120).data, pretrained(tiny_model()), split=["0.0", "0.3", "0.7", "1"],
        progress=False, seed=0,
    )  # fmt: skip
    plan = replace(PLAN, figures=replace(PLAN.figures, lowest=lowest))
    found = search(learn, plan, trials=40, cache_config=learn.feature_cache)
    tuned = [trial.changes.get("lowest") for trial in found.trials if trial.stage == "tuned"]
    assert tuned[0] is None
    assert max(1, lowest) not in tuned
    assert len(set(tuned)) > 1


def test_a_rate_of_its_own_changes_nothing_else_of_the_recipe() -> None:
    learn = learner(n=120)
    learn.model[-1] = nn.Sequential(learn.model[-1], nn.ReLU(), nn.Linear(3, 3))  # a deep head
    usual = usual_of(learn)
    found = learn.search(4, epochs=0, base_lr=5e-3, apply=False).plan.figures
    assert replace(found, base_lr=usual.base_lr, head_decay=usual.head_decay) == usual


def test_an_optuna_study_asks_for_the_heads_and_learns_their_losses() -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is optional")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = []
    for _ in range(2):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
        found.append(tried(learner(n=120), study=study))
        heads = [t for t in found[-1].trials if t.stage == "head, 1/16"]
        assert [t.changes for t in heads[1:]] == [t.params for t in study.trials]
        assert [t.loss for t in heads[1:]] == [t.value for t in study.trials]
        assert not heads[0].changes
    assert [(t.changes, t.loss) for t in found[0].trials] == [
        (t.changes, t.loss) for t in found[1].trials
    ]


def test_a_study_does_not_learn_from_what_the_budget_left_out() -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is optional")
    study = optuna.create_study()
    found = tried(learner(n=120), study=study, budget=1e-6)
    assert all(not trial.changes for trial in found.trials)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


@pytest.mark.parametrize(
    "make", ["best loss", {"direction": "maximize"}, {"directions": ["minimize"] * 2}]
)
def test_a_study_that_does_not_minimise_one_loss_is_refused(make: Any) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is optional")
    study = make if isinstance(make, str) else optuna.create_study(**make)
    with pytest.raises(TrainingError):
        tried(learner(n=120), study=study)
