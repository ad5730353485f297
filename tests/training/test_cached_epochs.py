"""Stored outputs of frozen layers: the same training, without running them; never out of date."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.tiny import Counter, TinyLoaders, moved, pretrained, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training import FeatureCacheConfig, FitContext, Learner, Thaw
from layergroups.training.feature_cache import CachedInputs, CacheEntry


class PlainLoaders(TinyLoaders):
    """Photos that are not varied, so that a view is the photo."""

    def __init__(self, n: int = 48, noise: float = 0.0) -> None:
        super().__init__(n=n, noise=noise)


class Largest(nn.Module):
    """Notes the most items that ran through it at once."""

    most = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, len(x))
        return x


def counted() -> nn.Sequential:
    """A model whose body counts items; without dropout, so that runs can be compared."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
    model[0].insert(0, Counter())
    model[0][7] = nn.Identity()
    model[1][3] = nn.Identity()
    return model


def learner(dls: Any = None, **options: Any) -> Learner:
    model = options.pop("model", None) or counted()
    split = options.pop("split", ["0.0", "0.8", "1"])
    given = {"progress": False, "seed": 0, "metrics": ["accuracy"], **options}
    return Learner(dls or PlainLoaders(), model, split=split, **given)


def kept(learn: Learner) -> CacheEntry:
    """What is kept at the one boundary that there is; nothing if there is none."""
    (known,) = learn.cache.entries.values() or [CacheEntry(0)]
    return known


def assert_close(one: Learner, two: Learner) -> None:
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, two.model.state_dict()[name], rtol=1e-4, atol=1e-5)
    for row, other in zip(one.history, two.history, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert row.valid_loss == pytest.approx(other.valid_loss, rel=1e-4)
        assert row.metrics == pytest.approx(other.metrics)


@pytest.mark.parametrize("boundary", [-1, -2])
@pytest.mark.parametrize("opt_func", ["adamw", "sgd"])
def test_the_same_weights_as_through_the_body(boundary: int, opt_func: str) -> None:
    stored, whole = learner(opt_func=opt_func), learner(opt_func=opt_func)
    for learn in (stored, whole):
        learn.freeze_to(boundary)
    stored.fit_one_cycle(4, 1e-2)
    whole.fit_one_cycle(4, 1e-2, feature_cache=False)
    assert_close(whole, stored)
    assert {row.note for row in stored.history} == {"frozen outputs stored"}
    assert {row.note for row in whole.history} == {""}


def test_large_batches_run_through_the_frozen_layers_in_parts() -> None:
    def made() -> Learner:
        learn = learner(TinyLoaders(n=90, batch_size=45, noise=0.0))
        learn.model[0][0] = Largest()
        learn.freeze()
        return learn

    stored, whole = made(), made()
    stored.fit_one_cycle(4, 1e-2)
    whole.fit_one_cycle(4, 1e-2, feature_cache=False)
    assert (stored.model[0][0].most, whole.model[0][0].most) == (32, 45)
    assert_close(whole, stored)


def test_the_frozen_layers_run_once_for_each_item() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(5, 1e-2)
    counter = learn.model[0][0]
    assert counter.items <= 48 + 18 + 3  # training, validation, and a few to find the boundary
    learn.fit(3, 1e-2)
    assert counter.items <= 48 + 18 + 3


def test_augmented_items_have_several_views_and_the_first_epochs_are_as_ever() -> None:
    def noisy(store: bool) -> Learner:
        learn = learner(PlainLoaders(noise=0.5))
        learn.freeze()
        learn.fit(5, 1e-2, feature_cache=store)
        return learn

    stored, whole = noisy(True), noisy(False)
    assert kept(stored).views == [0, 1]
    assert stored.model[0][0].items <= 2 * 48 + 18 + 3
    losses = [[row.train_loss for row in learn.history] for learn in (stored, whole)]
    # views are drawn in the order of the photos, so noise meets other photos than in an epoch
    assert losses[0] != losses[1]
    assert len(set(losses[0])) == 5


def test_more_views_may_be_asked_for() -> None:
    learn = learner(PlainLoaders(noise=0.5), feature_cache=FeatureCacheConfig(views=4))
    learn.freeze()
    learn.fit(6, 1e-2)
    assert kept(learn).views == [0, 1, 2, 3]


def test_few_epochs_are_not_worth_it() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(1, 1e-2)
    assert kept(learn).train is None


# Never out of date


def same_as_without(change: Any, epochs: int = 4) -> Learner:
    """Do the same with a store and without, with a callback that changes something."""
    learners = [learner(callbacks=[change()]) for _ in range(2)]
    for learn, store in zip(learners, (True, False), strict=True):
        learn.freeze()
        learn.fit(epochs, 1e-2, feature_cache=store)
    assert_close(learners[1], learners[0])
    return learners[0]


class AtStep:
    def __init__(self, step: int = 9) -> None:
        self.step = step

    def before_step(self, run: FitContext) -> None:
        if run.step == self.step:
            self.change(run)

    def change(self, run: FitContext) -> None:
        raise NotImplementedError


def test_surgery_in_the_body_in_mid_epoch() -> None:
    class Surgery(AtStep):
        def change(self, run: FitContext) -> None:
            with torch.random.fork_rng():
                torch.manual_seed(5)
                run.model[0].append(nn.Conv2d(8, 8, 1))

    assert "" in {row.note for row in same_as_without(Surgery).history}


def test_a_group_thawed_in_mid_epoch() -> None:
    class Thaws(AtStep):
        def change(self, run: FitContext) -> None:
            run.groups.freeze_to(-2)

    learn = same_as_without(Thaws)
    assert learn.layer_groups.frozen == (True, False, False)


def test_weights_written_in_place_in_mid_epoch() -> None:
    class Writes(AtStep):
        def change(self, run: FitContext) -> None:
            with torch.no_grad():
                run.model[0][1].weight.mul_(1.5)

    same_as_without(Writes)


def test_buffers_written_in_place() -> None:
    class Writes(AtStep):
        def change(self, run: FitContext) -> None:
            run.model[0][2].running_mean += 1

    same_as_without(Writes)


def test_weights_written_past_autograd_are_seen_at_the_next_epoch() -> None:
    class Writes:
        def after_epoch(self, run: FitContext) -> None:
            run.model[0][1].weight.data.mul_(1.1)

    same_as_without(Writes)


def test_gradual_unfreezing_moves_the_boundary() -> None:
    learn = same_as_without(lambda: Thaw(every=2), epochs=6)
    notes = [row.note for row in learn.history]
    assert notes[:4] == ["frozen outputs stored"] * 4
    assert notes[4:] == ["", ""]


def test_other_data_are_not_taken_for_the_old_ones() -> None:
    def train(store: bool) -> Learner:
        learn = learner()
        learn.freeze()
        learn.fit(2, 1e-2, feature_cache=store)
        learn.dls = PlainLoaders(n=32)
        learn.fit(2, 1e-2, feature_cache=store)
        return learn

    assert_close(train(False), train(True))


def test_a_head_built_otherwise_is_not_fed_what_the_old_one_took() -> None:
    """The old head pooled first, so that pooled values were kept; the new one needs the maps."""

    def train(store: bool) -> Learner:
        learn = learner()
        learn.freeze()
        learn.fit(3, 1e-2, feature_cache=store)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            first = nn.Conv2d(8, 8, 3)
            learn.model[1] = nn.Sequential(first, nn.Flatten(), nn.Linear(32, 3))
        learn.fit(3, 1e-2, feature_cache=store)
        return learn

    stored = train(True)
    assert_close(train(False), stored)
    assert {row.note for row in stored.history} == {"frozen outputs stored"}


def test_a_head_that_takes_the_same_values_finds_them() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(3, 1e-2)
    before = learn.model[0][0].items
    learn.model[1][4] = nn.Linear(8, 3)
    learn.fit(3, 1e-2)
    assert learn.model[0][0].items == before + 3  # to see what the new head needs


def test_unfrozen_training_drops_it() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(2, 1e-2)
    assert kept(learn).train is not None
    learn.unfreeze()
    learn.fit(1, 1e-3)
    assert kept(learn).train is None


# Where


@pytest.mark.parametrize("half", [False, True])
def test_what_does_not_fit_into_memory_lies_in_a_file(half: bool, tmp_path: Any) -> None:
    options = FeatureCacheConfig(memory=100, folder=tmp_path / "own", half=half)
    stored, whole = learner(feature_cache=options), learner()
    for learn, store in ((stored, True), (whole, False)):
        learn.freeze_to(-2)
        learn.fit(3, 1e-2, feature_cache=store)
    assert kept(stored).train is not None
    assert kept(stored).train.mapped
    if not half:
        assert_close(whole, stored)
    assert stored.history[-1].train_loss == pytest.approx(whole.history[-1].train_loss, rel=0.1)
    assert (tmp_path / "own").is_dir()
    assert not list((tmp_path / "own").iterdir())  # the file vanishes with its user


def test_what_fits_nowhere_runs_as_ever_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    learn = learner(feature_cache=FeatureCacheConfig(memory=100, disk=100))
    learn.freeze()
    learn.fit(3, 1e-2)
    assert caplog.text.count("The frozen layers run in every epoch, because its outputs need") == 1
    assert {row.note for row in learn.history} == {""}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda learn: learn.freeze(norm="train"), "frozen norm layers train"),
        (lambda learn: learn.model[0].register_forward_hook(lambda *_: None), "there are hooks"),
        (lambda learn: learn.freeze("0.8"), "gives values that still train"),
        (lambda learn: learn.model.compile(disable=True), "the model is compiled"),
    ],
)
def test_where_it_cannot_it_says_why(
    spoil: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    learn = learner()
    if reason != "gives values that still train":
        learn.freeze()
    spoil(learn)
    learn.fit(3, 1e-2)
    assert reason in caplog.text
    assert {row.note for row in learn.history} == {""}


def test_data_that_do_not_tell_what_is_where(caplog: pytest.LogCaptureFixture) -> None:
    dls: Any = PlainLoaders()
    photos = torch.utils.data.TensorDataset(dls.train.x, dls.train.y)
    dls.train = torch.utils.data.DataLoader(photos, 8, shuffle=True)
    learn = learner(dls)
    learn.freeze()
    learn.fit(3, 1e-2)
    assert "DataLoader does not tell which item is where" in caplog.text


def test_a_callback_that_needs_images_is_told_how_to_get_them() -> None:
    class Mix:
        def before_step(self, run: FitContext) -> None:
            run.inputs = run.inputs.lerp(run.inputs.flip(0), 0.1)

    learn = learner(callbacks=[Mix()])
    learn.freeze()
    with pytest.raises(TrainingError, match=r"feature_cache=False"):
        learn.fit(3, 1e-2)
    assert isinstance(CachedInputs([torch.zeros(2)]), tuple)


@pytest.mark.parametrize("wrong", [{"views": 0}, {"memory": -1}])
def test_options_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="at least one view"):
        FeatureCacheConfig(**wrong)  # type: ignore[arg-type] # wrong on purpose


def test_a_crashed_fit_goes_on_bit_for_bit_from_a_store_that_is_filled_again(tmp_path: Any) -> None:
    class Crash:
        def after_step(self, run: FitContext) -> None:
            if run.step == 22:
                raise RuntimeError

    def make(callbacks: Any = ()) -> Learner:
        learn = learner(PlainLoaders(noise=0.3), callbacks=callbacks)
        learn.freeze()
        return learn

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 4, "resume": True}
    unbroken, resumed = make(), make()
    unbroken.fit(5, 1e-2)
    unbroken.fit(2, 1e-3)
    with pytest.raises(TrainingError, match="Crash"):
        make([Crash()]).fit(5, 1e-2, **saved)
    resumed.fit(5, 1e-2, **saved)
    resumed.fit(2, 1e-3, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)


def test_what_was_dropped_in_mid_epoch_stays_dropped_after_a_crash(tmp_path: Any) -> None:
    class Thaws:
        def __init__(self, crash: bool = False) -> None:
            self.crash = crash

        def before_step(self, run: FitContext) -> None:
            if run.step == 9:
                run.groups.freeze_to(-2)

        def after_step(self, run: FitContext) -> None:
            if self.crash and run.step == 11:
                raise RuntimeError

    def make(crash: bool = False) -> Learner:
        learn = learner(PlainLoaders(noise=0.3), callbacks=[Thaws(crash)])
        learn.freeze()
        return learn

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 1, "resume": True}
    unbroken, resumed = make(), make()
    unbroken.fit(5, 1e-2)
    with pytest.raises(TrainingError, match="Thaws"):
        make(crash=True).fit(5, 1e-2, **saved)
    resumed.fit(5, 1e-2, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)
    assert [row.note for row in unbroken.history] == [row.note for row in resumed.history]


def test_the_earlier_name_of_the_option_is_taken() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(3, 1e-2, store=False)
    assert {row.note for row in learn.history} == {""}
