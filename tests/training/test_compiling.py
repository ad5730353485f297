"""One argument compiles what fits run; the model itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.training.tiny import TinyLoaders, moved, snapshot
from torch import Tensor, nn

from layergroups.errors import TrainingError
from layergroups.training import FineTuneDefaults, Learner
from layergroups.training.hardware._compiling import Compiled, checked_compile

EAGER = {"backend": "eager"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counts:
    """A backend that counts the graphs that it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def test_a_compiled_fit_is_a_plain_one(make) -> None:
    counts = Counts()
    plain, compiled = make(), make(compile={"backend": counts})
    for learn in (plain, compiled):
        learn.freeze()
        learn.fit(1, 1e-3, feature_cache=False)
        learn.unfreeze()
        learn.fit_one_cycle(1, 1e-3)
    torch.testing.assert_close(snapshot(compiled.model), snapshot(plain.model))
    assert counts.graphs >= 4  # training and validation, frozen and not
    assert compiled.history[-1].valid_loss == pytest.approx(plain.history[-1].valid_loss, rel=1e-4)


def test_the_model_stays_itself(make) -> None:
    model = make().model
    learn: Learner = make(model, compile=EAGER)
    names = list(model.state_dict())
    learn.fit(1, 1e-3)
    assert learn.model is model is learn.layer_groups.model
    assert list(learn.model.state_dict()) == names
    assert getattr(model, "_compiled_call_impl", None) is None
    learn.save("compiled")
    again = make().load("compiled")
    assert not moved(snapshot(model), again.model)
    assert torch.equal(learn.get_preds()[0], again.get_preds()[0])


def test_thawing_and_surgery_compile_anew_by_themselves(make) -> None:
    counts = Counts()

    class Changes:
        def before_step(self, run: Any) -> None:
            if run.step == 8:
                with torch.random.fork_rng():
                    torch.manual_seed(5)
                    run.model[1].append(nn.Linear(3, 3))
                seen.append(counts.graphs)

        def after_step(self, run: Any) -> None:
            if run.step == 9:
                seen.append(counts.graphs)

    seen: list[int] = []
    ends = []
    for options in ({}, {"compile": {"backend": counts}}):
        learn = make(callbacks=[Changes()], **options)
        before = snapshot(learn.model)
        learn.thaw(3, 1e-3, feature_cache=False)
        assert {"0.0.weight", "0.7.weight", "1.4.weight"} <= moved(before, learn.model)
        ends.append(snapshot(learn.model))
    torch.testing.assert_close(ends[0], ends[1])
    assert seen[0] == seen[1] == 0 < seen[2] < seen[3]
    assert len(learn.layer_groups.changes) == 1


def test_frozen_groups_stay_to_the_bit(make) -> None:
    learn = make(compile=EAGER)
    learn.fit(1, 1e-3)
    learn.freeze_to(-1)
    before = snapshot(learn.model[0])
    learn.fit(1, 1e-3, feature_cache=False)
    assert not moved(before, learn.model[0])


def test_the_feature_store_works_beside_it(make) -> None:
    """Only the epochs that go through the whole network run compiled."""
    counts = Counts()
    learn, plain = (
        make(dls=TinyLoaders(noise=0.0), **options)
        for options in ({"compile": {"backend": counts}}, {})
    )
    for one in (learn, plain):
        one.freeze()
        one.fit(3, 1e-2)
    assert [row.note for row in learn.history] == ["cached features"] * 3
    assert counts.graphs == 0
    assert not moved(snapshot(learn.model), plain.model)
    learn.fine_tune(1, defaults=FineTuneDefaults(lowest=0))
    assert counts.graphs > 0


def test_it_may_be_switched_and_the_model_exchanged(make) -> None:
    learn = make()
    assert learn.called_model() is learn.model
    learn.compile = EAGER
    first = learn.called_model()
    assert isinstance(first, Compiled)
    assert learn.called_model() is first
    learn.model = make().model
    assert learn.called_model().model is learn.model
    learn.fit(1)
    learn.compile = None
    assert learn.called_model() is learn.model
    learn.model = torch.compile(learn.model, backend="eager")
    learn.compile = True
    assert learn.called_model() is learn.model  # compiled by hand already


def test_together_with_the_other_arguments(make) -> None:
    ends = []
    for options in ({}, {"compile": EAGER}):
        learn = make(ema=0.9, clip=0.5, accumulate=2, mixed_precision="bf16", **options)
        learn.fit_flat_cos(2, 1e-3)
        ends.append(snapshot(learn.model))
    torch.testing.assert_close(ends[0], ends[1])


# What goes wrong


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler here")


def test_a_backend_that_fails_is_told(make) -> None:
    with pytest.raises(TrainingError, match=r"no compiler here.*Leave compile= out"):
        make(compile={"backend": broken}).fit(1)


def test_errors_of_the_model_keep_their_explanation(make) -> None:
    dls = TinyLoaders(n=9, batch_size=8)
    with pytest.raises(TrainingError, match="one item"):
        make(dls=dls, compile=EAGER).fit(1, feature_cache=False)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("max-autotune", r'compile=\{"mode": "max-autotune"\}'),
        ({"speed": 1}, "has no speed; it takes"),
        (3, "a switch or a dict"),
    ],
)
def test_arguments_that_cannot_be(make, wrong: Any, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        make(compile=wrong)
    learn = make()
    with pytest.raises(TrainingError, match=says):
        learn.compile = wrong


def test_arguments_that_do_not_go_together_are_told_when_first_used(make) -> None:
    with pytest.raises(TrainingError, match=r"torch\.compile failed with"):
        make(compile={"backend": "nothing"}).fit(1)
    with pytest.raises(TrainingError, match=r"torch\.compile failed with"):
        make(compile={"mode": "fast"}).fit(1)


def test_a_switch_or_options() -> None:
    assert [checked_compile(c) for c in (None, False, True, EAGER)] == [None, None, {}, EAGER]
