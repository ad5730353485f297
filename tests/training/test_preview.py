"""The rates that a preview shows are those that the fit then has, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, snapshot

from layergroups import decay
from layergroups.errors import ArgumentError, GroupingError, LayerGroupsError, TrainingError
from layergroups.reports import SchedulePreview
from layergroups.training import Flat, FlatCos, Learner, OneCycle, Thaw

FITS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("fit", (2, slice(1e-4, 1e-2)), {}),
    ("fit", (3,), {"callbacks": [Thaw()], "lr": [1e-3, 0, 1e-2]}),
    ("fit_one_cycle", (2, 1e-2), {"div": 10, "pct_start": 0.5, "moms": (0.9, 0.8, 0.95)}),
    ("fit_flat_cos", (2,), {"lr": {"1": 5e-3}, "div_final": 10}),
    ("fine_tune", (2, 1e-2), {"lr": decay(1e-3, 0.5), "feature_cache": False, "freeze_epochs": 2}),
    ("thaw", (), {"lr": 1e-3, "every": 2}),
    ("thaw", (2,), {"start": "0.7"}),
]


class Seen:
    """What the optimizer has at each step: rates, momentum, and what is frozen."""

    def __init__(self) -> None:
        self.steps: list[tuple[tuple[float, ...], float, tuple[bool, ...]]] = []

    def after_step(self, run: Any) -> None:
        rates = {g["layer_group"]: g["lr"] for g in run.optimizer.param_groups}
        momentum = run.optimizer.param_groups[0]["betas"][0]
        frozen = tuple(
            f or r == 0 for f, r in zip(run.groups.frozen, run.groups.rates, strict=True)
        )
        self.steps.append((tuple(rates[i] for i in range(3)), momentum, frozen))


def told(preview: SchedulePreview) -> list[tuple[tuple[float, ...], float | None, Any]]:
    return [
        (tuple(r[i] for r in phase.rates), phase.momentum[i], tuple(f[i] for f in phase.frozen))
        for phase in preview.phases
        for i in range(len(phase.at))
    ]


@pytest.mark.parametrize(("fit", "words", "named"), FITS)
def test_a_preview_is_what_then_happens(make, fit: str, words: Any, named: Any) -> None:
    learn, seen = make(accumulate=4), Seen()  # two steps an epoch, of four and of two batches
    learn.freeze_to(-2)
    preview = learn.plot_schedule(fit, *words, **named)
    own = {"callbacks": [*named.get("callbacks", ()), seen]}
    getattr(learn, fit)(*words, **(named | own))
    assert [phase.steps for phase in preview.phases] == [2 * p.epochs for p in preview.phases]
    for expected, happened in zip(told(preview), seen.steps, strict=True):
        assert expected[0] == pytest.approx(happened[0], rel=1e-12)
        assert expected[1:] == happened[1:]


def test_looking_changes_nothing(make) -> None:
    learn = make(lr=[1e-4, 1e-3, 1e-2], callbacks=[Thaw()])
    learn.freeze_to(-2)
    before, random = snapshot(learn.model), torch.get_rng_state()
    for fit in ("fit", "fit_one_cycle", "fit_flat_cos", "fine_tune", "thaw"):
        str(learn.plot_schedule(fit, 2, lr=1e-5))
    assert learn.layer_groups.rates == (1e-4, 1e-3, 1e-2)
    assert learn.layer_groups.frozen == (True, False, False)
    assert learn.opt is None
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[n]) for n, t in learn.model.state_dict().items())


def test_a_schedule_by_itself(make) -> None:
    learn = make()
    for schedule in (Flat(), FlatCos(), OneCycle(div=5)):
        phase = learn.plot_schedule(schedule, 2, 1e-2).phases[0]
        assert phase.rates[0] == tuple(1e-2 * schedule.multiplier(i / 12) for i in range(12))
    assert learn.plot_schedule(Flat(), epochs=1).phases[0].rates[0][0] == 1e-3


@pytest.mark.parametrize(
    ("opt_func", "momentum"),
    [("sgd", 0.9), (torch.optim.SGD, None), ("adamw", 0.9), ("lion", 0.9), ("adagrad", None)],
)
def test_momentum_is_that_of_the_optimizer(make, opt_func: Any, momentum: float | None) -> None:
    learn = make(opt_func=opt_func)
    assert set(learn.plot_schedule("fit", 1).phases[0].momentum) == {momentum}
    cycle = learn.plot_schedule("fit_one_cycle", 1).phases[0].momentum
    assert cycle[0] == (None if momentum is None else 0.95)


def test_the_stored_head_phase_is_said(make) -> None:
    preview = make().plot_schedule("fine_tune", 1)
    assert [phase.name for phase in preview.phases] == ["head", "all"]
    assert "stored outputs" in preview.phases[0].note
    assert not make().plot_schedule("fine_tune", 1, feature_cache=False).phases[0].note


def test_a_long_fit_is_looked_at_in_parts(make) -> None:
    learn = make(dls=TinyLoaders(n=48, batch_size=2))
    phase = learn.plot_schedule("fit_one_cycle", 200, 1e-2).phases[0]
    assert phase.steps == 4800
    assert 1000 <= len(phase.at) <= 1600
    assert (phase.at[0], phase.at[-1]) == (0, 4799)


def test_a_table_a_dict_and_a_picture(make, tmp_path: Path) -> None:
    learn: Learner = make()
    learn.freeze()
    preview = learn.plot_schedule("fit_one_cycle", 2, 1e-2, path=tmp_path / "a" / "rates.png")
    assert (tmp_path / "a" / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert preview._repr_png_().startswith(b"\x89PNG")
    text = preview.save(tmp_path / "rates.svg").read_text()
    assert text.count("<path") > 10
    lines = str(preview).splitlines()
    assert "0.85..0.95" in lines[1]
    assert lines[1].split()[:4] == ["one", "cycle", "2", "12"]
    assert lines[1].count("frozen") == 2
    assert json.loads(json.dumps(preview.to_dict()))["groups"] == ["0.0", "0.7", "1"]


@pytest.mark.parametrize(
    ("words", "named", "kind", "says"),
    [
        (("fit_two_cycles", 3), {}, TrainingError, "one of fit, fit_one_cycle"),
        (("fit_one_cycle",), {}, ArgumentError, "epochs"),
        (("fit", 3), {"div": 10}, ArgumentError, "div"),
        ((3,), {}, TrainingError, "neither the name of a fit nor a schedule"),
        ((OneCycle, 3), {}, TrainingError, "nor a schedule"),
        (("fit", "3"), {}, TrainingError, "such as"),
        (("fit", 0), {}, TrainingError, "epochs=3"),
        (("fit_one_cycle", 3), {"div": 0}, TrainingError, "div=25"),
        (("fine_tune", -1), {}, TrainingError, "epochs=-1"),
        (("fit", 3, "fast"), {}, GroupingError, r"slice\(low, high\)"),
        (("thaw", 3), {"start": "x"}, GroupingError, "'x'; there are"),
        (("fit", 3), {"path": "rates.txt"}, LayerGroupsError, "rates.png"),
    ],
)
def test_mistakes_teach(make, words: Any, named: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        make().plot_schedule(*words, **named)
