"""Mixtures of images in a fit: what they are, what they depend on, and what they forbid."""

from itertools import pairwise

import pytest
import torch
from tests.training.failing import crash
from tests.training.tiny import TinyLoaders, moved, snapshot
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training import CutMix, MixUp


class Sees:
    """Keeps what the steps see."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before_step(self, run) -> None:
        self.batches.append((run.inputs, run.targets))


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_every_image_is_a_mixture_and_its_target_says_of_what(make, kind) -> None:
    before, after = Sees(), Sees()
    make(callbacks=[before, kind(1.0), after]).fit(1)
    amounts = []
    for (x, y), (mixed, soft) in zip(before.batches, after.batches, strict=True):
        whole = nn.functional.one_hot(y, 3).float()
        other, partner = x.roll(1, 0), whole.roll(1, 0)
        assert soft.dtype == torch.float32
        assert torch.allclose(soft.sum(dim=1), torch.ones(len(y)))
        differ = (whole != partner).any(dim=1)
        part = (soft * whole).sum(dim=1)[differ].mean()
        assert torch.allclose(soft, part * whole + (1 - part) * partner, atol=1e-6)
        if kind is MixUp:
            assert torch.allclose(mixed, part * x + (1 - part) * other, atol=1e-5)
        else:
            own = (mixed == x).all(dim=1)
            assert torch.equal(mixed.permute(0, 2, 3, 1)[~own], other.permute(0, 2, 3, 1)[~own])
            assert own[differ].float().mean() == pytest.approx(float(part), abs=0.02)
        amounts.append(float(part))
    assert len(set(amounts)) > len(amounts) / 2


def test_mixtures_depend_on_seed_epoch_and_batch_alone(make) -> None:
    def fit(seed: int) -> Sees:
        sees = Sees()
        torch.manual_seed(seed)
        make(callbacks=[MixUp(), sees]).fit(2)
        return sees

    one, other = fit(1), fit(2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.batches, other.batches, strict=True))
    assert all(not torch.equal(a[1], b[1]) for a, b in pairwise(one.batches))


def test_mixing_draws_nothing_from_the_global_generators(make) -> None:
    class Draws:
        def before_step(self, run) -> None:
            self.state = torch.get_rng_state()

    class Compares:
        def before_step(self, run) -> None:
            assert torch.equal(torch.get_rng_state(), draws.state)

    draws = Draws()
    make(callbacks=[draws, MixUp(), CutMix(), Compares()]).fit(1)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_a_crashed_fit_goes_on_with_the_same_mixtures(make, tmp_path, kind) -> None:
    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True, "checkpoint_every": 2}
    unbroken, resumed = make(callbacks=[kind(p=0.7)]), make(callbacks=[kind(p=0.7)])
    unbroken.fit(2, 1e-2)
    crash(make(callbacks=[kind(p=0.7)]), 9, 2, 1e-2, **saved)
    resumed.fit(2, 1e-2, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)


def test_a_batch_is_mixed_once(make) -> None:
    sees, single = Sees(), Sees()
    make(callbacks=[single, MixUp(p=0.5), CutMix(p=0.5), sees]).fit(4)
    mixed = [y.ndim == 2 for _, y in sees.batches]
    assert 0.5 < sum(mixed) / len(mixed) < 1
    both = [
        torch.equal(x, x2) for (x, _), (x2, _) in zip(single.batches, sees.batches, strict=True)
    ]
    assert [not same for same in both] == mixed


def test_frozen_layers_are_not_stored_and_it_says_why(make, caplog) -> None:
    sees = Sees()
    learn = make(callbacks=[MixUp(), sees])
    learn.freeze()
    rows = learn.fit(4)
    assert {row.note for row in rows} == {""}
    assert all(x.shape[1:] == (3, 16, 16) for x, _ in sees.batches)
    assert "because MixUp mixes the images" in caplog.text


def test_the_head_phase_of_fine_tune_is_not_mixed(make, caplog) -> None:
    sees = Sees()
    make(callbacks=[CutMix(), sees], dls=TinyLoaders(n=96)).fine_tune(1)
    kinds = [y.ndim for _, y in sees.batches]
    assert kinds == sorted(kinds)
    assert {1, 2} == set(kinds)
    assert "CutMix" in caplog.text


def test_several_labels_are_mixed_as_they_are(make, dls) -> None:
    for batches in (dls.train, dls.valid):
        batches.y = nn.functional.one_hot(batches.y, 3).float()
    sees = Sees()
    make(dls=dls, callbacks=[MixUp(), sees], loss_func=nn.BCEWithLogitsLoss()).fit(1)
    assert all(((y > 0) & (y < 1)).any() for _, y in sees.batches)


def test_what_cannot_be_mixed_is_told(make, dls) -> None:
    class Flat:
        def before_step(self, run) -> None:
            run.inputs = run.inputs.flatten(1)

    with pytest.raises(TrainingError, match=r"float \(N, channels, height, width\)"):
        make(callbacks=[Flat(), MixUp()]).fit(1)
    dls.c, dls.vocab = 0, ()
    with pytest.raises(TrainingError, match="vocab or c"):
        make(dls=dls, callbacks=[MixUp()]).fit(1)
