"""How the second phase of `fine_tune` ends: held-out items, and the line between the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import pretrained, snapshot, tiny_model
from torch import nn
from torch.utils.data import TensorDataset

from layergroups import ImageDataLoaders, vision_learner
from layergroups.errors import LayerGroupsError, TrainingError
from layergroups.training import EarlyStopping, FineTuneDefaults, Learner
from layergroups.training.recipes._held_out import (
    MORE_RATE,
    ChooseWeights,
    HeldOut,
    LearnHeldOut,
    best,
    item_errors,
)

FIGURES = FineTuneDefaults(head_steps=12, head_passes=1, hold_out=0.2)


def images(n: int, seed: int) -> TensorDataset:
    """Three classes of 16 x 16 images that differ in colour."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randint(0, 160, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    x[torch.arange(n), y] += 90
    return TensorDataset(x, y)


def learner(n: int = 96, **options: Any) -> Learner:
    dls = ImageDataLoaders.from_dataset(
        images(n, 1), images(30, 2), size=16, batch_size=32, seed=3, vocab=["r", "g", "b"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
    options = {"split": ["0.0", "0.7", "1"], "progress": False, "seed": 0} | options
    return Learner(dls, model, metrics=["accuracy"], **options)


class Watches:
    """Notes the items of every step through the network, and the weights around the last phase."""

    def __init__(self) -> None:
        self.items: dict[int, set[int]] = {}
        self.sizes: set[int] = set()

    def before_fit(self, run: Any) -> None:
        if run.phase == "all":
            self.choice = next(c for c in run.callbacks if isinstance(c, ChooseWeights))
            self.before = dict(self.choice._before)

    def before_step(self, run: Any) -> None:
        if run.phase == "all":
            epoch = run.train.epoch - 1
            self.items[run.epoch] = {i for batch in run.train.positions(epoch) for i in batch}
            self.sizes.add(len(run.targets))

    def after_step(self, run: Any) -> None:
        if run.phase == "all":
            self.last = snapshot(run.model)


def test_held_out_items_are_in_no_step_before_the_last_epoch() -> None:
    learn, watch = learner(), Watches()
    held = HeldOut.of(learn.data, 0.2).items
    labels = learn.data.targets()[list(held)]
    assert len(held) == 18
    assert torch.bincount(labels).tolist() == [6, 6, 6]
    learn.fine_tune(3, defaults=FIGURES, callbacks=[watch])
    assert watch.items == {
        0: set(range(96)) - set(held), 1: set(range(96)) - set(held), 2: set(range(96)),
    }  # fmt: skip
    assert watch.choice.errors.keys() == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_the_head_learns_the_held_out_items_last_and_at_a_small_rate() -> None:
    learn = learner()
    held = set(HeldOut.of(learn.data, 0.2).items)
    seen: list[tuple[float, set[int]]] = []

    class Steps:
        def before_step(self, run: Any) -> None:
            if run.phase == "head" and not seen:
                self.rows = iter([{*items.tolist()} for _, items in run.batches.rows()])
                self.kept = next(c for c in run.callbacks if isinstance(c, LearnHeldOut))

        def after_step(self, run: Any) -> None:
            if run.phase == "head":
                seen.append((run.optimizer.param_groups[-1]["lr"], next(self.rows)))
                if run.step == self.kept.steps:
                    self.head = snapshot(run.model)

    steps = Steps()
    learn.fine_tune(2, base_lr=1e-2, defaults=FIGURES, callbacks=[steps])
    first = steps.kept.steps
    assert not any(items & held for _, items in seen[:first])
    assert any(items & held for _, items in seen[first:])
    assert 0 < len(seen) - first < first  # MORE_STEPS of them, in whole passes
    assert max(rate for rate, _ in seen[:first]) == pytest.approx(1e-2)
    assert max(rate for rate, _ in seen[first:]) == pytest.approx(MORE_RATE * 1e-2)
    assert all(torch.equal(v, steps.head[n]) for n, v in steps.kept.held_out.head.items())


def test_a_single_epoch_trains_without_the_held_out_items() -> None:
    learn, watch = learner(), Watches()
    learn.fine_tune(1, defaults=FIGURES, callbacks=[watch])
    assert watch.items == {0: set(range(96)) - set(HeldOut.of(learn.data, 0.2).items)}
    assert watch.choice.errors.keys() == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert learn.plan is not None
    assert (learn.plan.held_out, learn.plan.all_items) == (18, False)


def test_without_pretrained_weights_only_the_ends_are_compared() -> None:
    dls = learner().dls
    learn = vision_learner(dls, "resnet18", pretrained=False, depths=False, progress=False, seed=0)
    watch = Watches()
    learn.fine_tune(1, defaults=FIGURES, callbacks=[watch])
    assert watch.choice.errors.keys() == {0.0, 1.0}
    assert watch.choice.interpolation in (0.0, 1.0)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_items_of_every_task_are_held_out(task: str) -> None:
    plain = images(96, 1)
    y = nn.functional.one_hot(plain.tensors[1], 3)
    data = TensorDataset(plain.tensors[0], y if task == "multilabel" else y[:, :2] + 0.5)
    names = {"vocab": ["r", "g", "b"][: data.tensors[1].shape[1]]}
    dls = ImageDataLoaders.from_dataset(data, data, size=16, batch_size=32, seed=3, **names)
    assert dls.task == task
    learn = Learner(dls, pretrained(tiny_model(dls.c)), progress=False, seed=0)
    watch = Watches()
    learn.fine_tune(2, defaults=FIGURES, callbacks=[watch])
    assert len(watch.choice.held_out.items) == 19
    assert set(watch.choice.errors) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_small_data_get_smaller_batches() -> None:
    figures = replace(FIGURES, hold_out=0.0)
    learn, watch = learner(), Watches()
    learn.fine_tune(1, defaults=figures, callbacks=[watch])
    assert watch.sizes == {16}
    accumulates, watch = learner(accumulate=2), Watches()
    accumulates.fine_tune(1, defaults=figures, callbacks=[watch])
    assert watch.sizes == {32}
    updates, watch = learner(batch_norm="update"), Watches()
    updates.fine_tune(1, defaults=figures, callbacks=[watch])
    assert watch.sizes == {32}


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}])
def test_the_end_lies_between_the_weights_before_and_after(options: dict[str, Any]) -> None:
    learn, watch = learner(**options), Watches()
    rows = learn.fine_tune(2, defaults=replace(FIGURES, hold_out=0.0), callbacks=[watch])
    before, end = watch.before, snapshot(learn.model)
    assert watch.items[0] == set(range(96))
    if not options:  # else the average of the weights is the other end
        for name, tensor in end.items():
            if tensor.is_floating_point():
                expected = torch.lerp(before[name], watch.last[name], FIGURES.usual_interpolation)
                torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert learn.validate()["valid_loss"] == pytest.approx(rows[-1].valid_loss, abs=1e-5)
    assert not torch.equal(end["0.0.weight"], before["0.0.weight"])


@pytest.mark.parametrize(("epochs", "lr"), [(1, 3.0), (2, 30.0)])
def test_a_second_phase_that_does_harm_is_undone_to_the_bit(epochs: int, lr: float) -> None:
    learn, watch = learner(n=150), Watches()
    figures = replace(FIGURES, head_steps=200)
    rows = learn.fine_tune(epochs, 1e-2, lr=lr, defaults=figures, callbacks=[watch])
    assert rows[0].metrics["accuracy"] > 0.8
    assert watch.choice.interpolation == 0.0
    assert watch.choice.errors[0.0] < watch.choice.errors[1.0]
    for name, tensor in snapshot(learn.model).items():
        assert torch.equal(tensor, watch.before[name]), name
    assert rows[-1].metrics == rows[0].metrics


def wrong(count: int, n: int = 100) -> torch.Tensor:
    """The errors of items of which the first ones are predicted wrong."""
    return (torch.arange(n) < count).double()


@pytest.mark.parametrize(
    ("counts", "usual", "found"),
    [
        ([20, 20, 20, 20, 20], 0.25, 0.25),
        ([20, 20, 20, 20, 20], 0.8, 0.75),
        ([10, 20, 30, 40, 50], 0.8, 0.0),
        ([50, 40, 30, 20, 10], 0.25, 1.0),
        ([19, 20, 20, 20, 20], 0.5, 0.5),  # one item is chance
        ([18, 20, 20, 20, 20], 0.5, 0.0),  # two are more than a standard error
        ([10, 11, 30, 30, 30], 0.5, 0.25),  # next to the usual part among the good ones
    ],
)
def test_the_usual_interpolation_stays_unless_another_is_better_by_a_standard_error(
    counts: list[int], usual: float, found: float
) -> None:
    errors = {part / 4: wrong(count) for part, count in enumerate(counts)}
    assert best(errors, errors, usual) == found


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    errors = {0.0: wrong(10), 0.5: wrong(10).flip(0), 1.0: wrong(13)}
    assert best(errors, errors, 0.5) == 0.5
    assert best(errors, errors, 1.0) == 0.5  # the same items and three more
    errors[0.5] = wrong(14).flip(0)
    assert best(errors, errors, 0.5) == 0.5  # other items: 4 of 24 are chance
    losses = torch.linspace(0.0, 3.0, 100)  # they vary far more than they differ
    losses = {0.0: losses, 0.5: losses + 0.01, 1.0: losses + 0.02}
    assert best(losses, losses, 0.5) == 0.0


def test_losses_count_where_errors_are_equal_and_errors_where_they_contradict() -> None:
    equal, growing = {p / 4: wrong(3) for p in range(5)}, {p / 4: wrong(9) + p for p in range(5)}
    assert best(equal, growing, 0.5) == 0.0
    assert best(equal, equal, 0.5) == 0.5
    falling = {p / 4: wrong(50 - 10 * p) for p in range(5)}
    assert best(falling, growing, 0.5) == 1.0


def test_weights_that_are_no_numbers_are_not_chosen() -> None:
    bad, infinite = torch.full((20,), math.nan), torch.full((20,), math.inf)
    errors = {part: wrong(4, 20) for part in (0.0, 0.5, 1.0)}  # the first class, for all NaN
    assert best(errors, {0.0: wrong(9, 20), 0.5: infinite, 1.0: bad}, 0.8) == 0.0
    assert best(errors, {0.0: bad, 0.5: wrong(9, 20), 1.0: bad}, 1.0) == 0.5
    assert best(errors, {0.0: bad, 0.5: bad, 1.0: infinite}, 0.8) == 0.8


def test_a_phase_that_a_callback_stops_ends_between_too() -> None:
    for figures in (FIGURES, replace(FIGURES, hold_out=0.0)):
        learn, watch = learner(), Watches()
        stops = EarlyStopping(monitor="accuracy", patience=1, min_delta=2.0)
        rows = learn.fine_tune(6, defaults=figures, callbacks=[watch, stops])
        assert len(rows) < 7
        assert watch.choice.judged is bool(figures.hold_out)
    assert watch.choice.interpolation == FIGURES.usual_interpolation
    assert not any(torch.equal(t, watch.last[n]) for n, t in learn.model.named_parameters())


def test_a_model_changed_in_the_phase_keeps_its_last_weights(caplog: Any) -> None:
    class Replaces:
        def before_step(self, run: Any) -> None:
            if run.phase == "all" and run.step == 3:
                run.model[1][4] = nn.Linear(8, 3, bias=False)

    learn, watch = learner(), Watches()
    learn.fine_tune(2, defaults=FIGURES, callbacks=[Replaces(), watch])
    assert "its last weights stay" in caplog.text
    assert torch.equal(learn.model[0][0].weight, watch.last["0.0.weight"])


class Killed(LayerGroupsError):
    """The end of the process, in a test."""


def killed_at(phase: str, step: int) -> Any:
    class Kills:
        def after_step(self, run: Any) -> None:
            if run.phase == phase and run.step == step:
                raise Killed

    return Kills()


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize(
    ("epochs", "phase", "step"),
    [(2, "head", 5), (2, "head", 14), (2, "all", 2), (2, "all", 7), (2, "all", 9), (1, "all", 3)],
)
def test_a_resumed_run_ends_equal_to_the_bit(
    tmp_path: Path, epochs: int, phase: str, step: int, ema: float | None
) -> None:
    def run(folder: str, *callbacks: object, resume: bool = False) -> Learner:
        learn = learner(ema=ema)
        options: dict[str, Any] = {"checkpoint_dir": tmp_path / folder, "checkpoint_every": 2}
        options |= {"callbacks": list(callbacks), "resume": resume}
        learn.fine_tune(epochs, lr=1e-2, defaults=FIGURES, **options)
        return learn

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", killed_at(phase, step))
    again = run("killed", resume=True)
    assert [r.train_loss for r in again.history] == [r.train_loss for r in whole.history]
    assert [r.metrics for r in again.history] == [r.metrics for r in whole.history]
    for name, tensor in snapshot(whole.model).items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_run_killed_between_the_phases_ends_equal_to_the_bit(tmp_path: Path) -> None:
    class Kills:
        def before_fit(self, run: Any) -> None:
            if run.phase == "all":
                raise Killed

    def run(folder: str, *callbacks: object, resume: bool = False) -> Learner:
        learn = learner()
        options: dict[str, Any] = {"callbacks": list(callbacks), "resume": resume}
        learn.fine_tune(2, defaults=FIGURES, checkpoint_dir=tmp_path / folder, **options)
        return learn

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", Kills())
    again = run("killed", resume=True)
    for name, tensor in snapshot(whole.model).items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_weight_decay_is_that_of_the_learner_after_the_head_has_trained() -> None:
    seen: list[float] = []

    class Notes:
        def before_step(self, run: Any) -> None:
            seen.extend({g["weight_decay"] for g in run.optimizer.param_groups} - {0.0})

    learn = learner(weight_decay=0.02)
    learn.fine_tune(1, defaults=FIGURES, callbacks=[Notes()])
    assert set(seen) == {2.0, 0.02}
    assert {g["weight_decay"] for g in learn.opt.param_groups} == {0.0, 0.02}
    sgd, seen[:] = learner(opt_func="sgd"), []
    sgd.fine_tune(1, defaults=FIGURES, callbacks=[Notes()])
    assert set(seen) == {0.01}


@pytest.mark.parametrize("make", [lambda: learner(n=40), lambda: learner(n=96)])
def test_few_items_hold_out_none(make: Callable[[], Learner]) -> None:
    learn = make()
    n = learn.data.train.n_items
    assert bool(HeldOut.of(learn.data, 0.2).items) == (n == 96)
    assert learn.fine_tune(2, defaults=FIGURES)[-1].valid_loss is not None


def test_what_the_head_phase_cached_serves_the_second_phase_without_held_out_items() -> None:
    """Other batches are not other data: no view of the early group is computed again."""
    learn, watch = learner(), Watches()
    rows = learn.fine_tune(3, defaults=replace(FIGURES, lowest=1), callbacks=[watch])
    assert [row.resources["body_passes"] for row in rows] == [2.0, 0.0, 0.0, 0.0]
    assert [row.phase for row in rows] == ["head", "body", "body", "body"]


def test_a_row_says_where_the_end_lies_if_it_is_not_the_usual_place() -> None:
    learn, watch = learner(n=150), Watches()
    figures = replace(FIGURES, head_steps=200)
    rows = learn.fine_tune(2, 1e-2, lr=30.0, defaults=figures, callbacks=[watch])
    assert "interpolation 0," in rows[-1].note
    assert "interpolation" not in rows[-2].note


def test_weight_decays_given_by_hand_are_as_before_after_the_head() -> None:
    class Own:
        def before_fit(self, run: Any) -> None:
            if run.phase == "head":
                run.optimizer.param_groups[-2]["weight_decay"] = 0.123

    learn = learner()
    learn.fine_tune(1, defaults=FIGURES, callbacks=[Own()])
    assert learn.opt.param_groups[-2]["weight_decay"] == 0.123


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_steps": 0},
        {"hold_out": 0.9},
        {"spread": -1.0},
        {"usual_interpolation": 2},
        {"views": "2"},
        {"base_lr": -1e-3},
    ],
)
def test_settings_of_the_recipe_refuse_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        FineTuneDefaults(**wrong)


def test_the_plotted_schedule_counts_the_smaller_batches() -> None:
    preview = learner().plot_schedule("fine_tune", 3, defaults=FIGURES)
    assert preview.phases[1].steps == 3 * 6


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], [0, 0], [0.0, 1.0]),  # of one class each
        ([[2.0], [-1.0]], [1, 0], [0.3, 0.7]),  # one score: the largest says nothing
        ([[2.0, 1.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]], [0.3, 0.7]),
    ],
)
def test_an_item_is_wrong_or_right_only_for_several_classes(
    outputs: list[list[float]], targets: list[Any], expected: list[float]
) -> None:
    losses = torch.tensor([0.3, 0.7])
    found = item_errors(torch.tensor(outputs), torch.tensor(targets), losses)
    assert found.tolist() == pytest.approx(expected)
