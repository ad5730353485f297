"""What all fits have in common: rates in every form, and callbacks of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.training.tiny import TinyLoaders

from layergroups import decay
from layergroups.errors import TrainingError
from layergroups.training import FineTuneDefaults, FlatCos

FITS = ["fit", "fit_one_cycle", "fit_flat_cos", "fine_tune", "thaw"]
RATES: list[tuple[Any, tuple[float, ...]]] = [
    (1e-3, (1e-3, 1e-3, 1e-3)),
    (slice(1e-5, 1e-3), (1e-5, 1e-4, 1e-3)),
    (slice(1e-3), (1e-4, 1e-4, 1e-3)),
    ([1e-5, 2e-5, 3e-5], (1e-5, 2e-5, 3e-5)),
    ({"0.7": 5e-3}, (1e-2, 5e-3, 1e-2)),
    (decay(1e-3, 0.5), (2.5e-4, 5e-4, 1e-3)),
]


class Sees:
    """Notes every event, and the highest rate of each group."""

    def __init__(self, name: str = "") -> None:
        self.name, self.events, self.rates = name, [], [0.0] * 3

    def __getattr__(self, event: str) -> Callable[[Any], None]:
        if not event.startswith(("before_", "after_")):
            raise AttributeError(event)

        def note(run: Any) -> None:
            self.events.append((event, run.phase))
            for group in run.optimizer.param_groups if event == "after_step" else ():
                i = group["layer_group"]
                self.rates[i] = max(self.rates[i], group["lr"])

        return note


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("lr", "rates"), RATES)
def test_every_fit_takes_rates_in_every_form(make, fit: str, lr: Any, rates: Any) -> None:
    learn = make(dls=TinyLoaders(n=64, batch_size=2), lr=1e-2)
    sees = Sees()
    options = {"freeze_epochs": 0} if fit == "fine_tune" else {}
    getattr(learn, fit)(1, lr=lr, callbacks=[sees], **options)
    assert learn.layer_groups.rates == pytest.approx(rates)
    peak = 0.99 if fit in ("thaw", "fine_tune") else 1.0  # none of 32 steps is at the very top
    assert all(peak * r <= seen <= r * 1.0001 for seen, r in zip(sees.rates, rates, strict=True))


def test_fine_tune_takes_rates_in_its_second_phase(make) -> None:
    learn, sees = make(), Sees()
    learn.fine_tune(1, 1e-2, lr=slice(1e-5, 1e-3), callbacks=[sees])
    assert learn.layer_groups.rates == pytest.approx((1e-5, 1e-4, 1e-3))
    assert [row.lrs[-1] for row in learn.history] == pytest.approx([1e-2, 1e-3], rel=0.05)


def test_flat_cos_is_flat_then_falls(make) -> None:
    learn = make(lr=1e-3)
    rates = []

    class Rates:
        def after_step(self, run: Any) -> None:
            rates.append(run.optimizer.param_groups[0]["lr"])

    learn.fit_flat_cos(2, [1e-4, 1e-3, 1e-2], pct_start=0.5, div_final=10, callbacks=[Rates()])
    schedule = FlatCos(pct_start=0.5, div_final=10)
    assert rates == pytest.approx([1e-4 * schedule.multiplier(i / 12) for i in range(12)])
    assert learn.history[-1].phase == "flat cos"


@pytest.mark.parametrize("fit", FITS)
def test_callbacks_of_one_fit_come_before_those_of_the_learner_and_go(make, fit: str) -> None:
    order: list[str] = []

    class Notes:
        def __init__(self, name: str) -> None:
            self.name = name

        def before_fit(self, run: Any) -> None:
            order.append(f"{self.name} {run.phase}")

    learn = make(callbacks=[Notes("learner's")])
    getattr(learn, fit)(1, callbacks=[Notes("own")])
    names = [word.partition(" ")[0] for word in order]
    assert names == ["own", "learner's"] * (2 if fit == "fine_tune" else 1)
    if fit == "fine_tune":
        assert [word.partition(" ")[2] for word in order[::2]] == ["head", "all"]
    assert len(learn.callbacks) == 1
    order.clear()
    learn.fit(1)
    assert order == ["learner's fit"]


def test_callbacks_stay_where_the_head_trains_through_the_network(make) -> None:
    learn, sees = make(), Sees()
    learn.fine_tune(1, feature_cache=False, callbacks=[sees])
    assert {phase for _, phase in sees.events} == {"head", "all"}
    learn, sees = make(), Sees()
    learn.fine_tune(1, defaults=FineTuneDefaults(max_bytes=10), callbacks=[sees])
    assert {phase for _, phase in sees.events} == {"head", "all"}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("wrong", "says"), [([Sees], r"Sees\(\)"), (3, r"\[3\]")])
def test_wrong_callbacks_are_refused_before_anything_changes(make, fit, wrong, says) -> None:
    learn = make(lr=1e-2)
    learn.freeze_to(-2)
    with pytest.raises(TrainingError, match=says):
        getattr(learn, fit)(1, lr=1e-3, callbacks=wrong)
    assert learn.layer_groups.rates == (1e-2,) * 3
    assert learn.layer_groups.frozen == (True, False, False)


def test_wrong_epochs_change_no_rate(make) -> None:
    learn = make(lr=1e-2)
    for epochs in (-1, 1.5, True):
        with pytest.raises(TrainingError, match="such as"):
            learn.fit_flat_cos(epochs, 1e-3)
    assert learn.layer_groups.rates == (1e-2,) * 3


def test_the_name_of_a_phase_is_a_text(make) -> None:
    learn = make(lr=1e-2)
    for name in (5, None, ""):
        with pytest.raises(TrainingError, match="phase="):
            learn.fit_phase(1, FlatCos(), name, lr=1e-3)
    assert learn.layer_groups.rates == (1e-2,) * 3
