"""Images that grow over a fit."""

import pytest
import torch
from tests.training.failing import crash
from tests.training.tiny import moved, snapshot
from torch import nn

from layergroups.data import ImageDataLoaders
from layergroups.errors import TrainingError
from layergroups.training import Learner, ProgressiveSizes


class Sees:
    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def before_step(self, run) -> None:
        self.sizes.append((run.epoch, *run.inputs.shape[2:]))


@pytest.fixture
def photos(tmp_path) -> ImageDataLoaders:
    from tests.data.conftest import picture

    for label, kind in enumerate(("cat", "dog")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(10):
            picture(100 * label + i).save(tmp_path / "photos" / kind / f"{i}.png")
    return ImageDataLoaders.from_folder(
        tmp_path / "photos", size=32, batch_size=8, num_workers=0, cache=tmp_path / "cache"
    )


@pytest.mark.parametrize(
    ("epochs", "sizes"),
    [
        (6, [16, 16, 24, 24, 32, 32]),
        (4, [16, 24, 32, 32]),
        (2, [24, 32]),
        (1, [32]),
    ],
)
def test_sizes_grow_and_validation_keeps_the_last(make, photos, epochs, sizes) -> None:
    sees, valid = Sees(), []

    class Validates(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                valid.append(tuple(x.shape[2:]))
            return x

    learn = make(dls=photos, callbacks=[ProgressiveSizes([16, 24, 32]), sees])
    learn.model[0].insert(0, Validates())
    learn.fit(epochs)
    assert sees.sizes == [(e, size, size) for e, size in enumerate(sizes) for _ in range(2)]
    assert set(valid[3:]) == {(32, 32)}  # the first three ask whether the network takes the sizes


def test_order_is_that_of_the_data_at_every_size(make, photos) -> None:
    seen = []

    class Labels:
        def before_step(self, run) -> None:
            seen.append(run.targets.tolist())

    def fit(*callbacks) -> list[list[int]]:
        seen.clear()
        make(dls=photos, callbacks=[*callbacks, Labels()]).fit(3)
        return list(seen)

    assert fit(ProgressiveSizes([16, 24, 32])) == fit()


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_crashed_fit_goes_on_at_its_size(make, photos, tmp_path, step) -> None:
    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True, "checkpoint_every": 1}

    def learner() -> Learner:
        return make(dls=photos, callbacks=[ProgressiveSizes([16, 24, 32])])

    unbroken, resumed, broken = learner(), learner(), learner()
    unbroken.fit(3, 1e-2)
    crash(broken, step, 3, 1e-2, **saved)
    resumed.fit(3, 1e-2, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)


def test_a_frozen_part_runs_in_every_epoch_and_it_says_why(make, photos, caplog) -> None:
    learn = make(dls=photos, callbacks=[ProgressiveSizes([16, 32]), sees := Sees()])
    learn.freeze()
    learn.fit(4)
    assert [size for _, size, _ in sees.sizes] == [16] * 4 + [32] * 4
    assert "because the size of the images changes" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([], r"ProgressiveSizes\(\[128, 160, 224\]\)"),
        ("224", "must be a list"),
        (224, "must be a list"),
        ([16, 0], "size=0"),
        ([16, "a"], r"128, 160"),
    ],
)
def test_what_is_no_list_of_sizes_is_refused(sizes, says) -> None:
    with pytest.raises(TrainingError, match=says):
        ProgressiveSizes(sizes)


def test_the_last_size_is_that_of_the_data(make, photos) -> None:
    with pytest.raises(TrainingError, match=r"24 x 24.*32 x 32"):
        make(dls=photos, callbacks=[ProgressiveSizes([16, 24])]).fit(1)


def test_a_network_of_one_size_says_so_before_the_first_step(make, photos) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 32), nn.Sequential(nn.Flatten(), nn.Linear(8, 2)))
    learn = make(model, dls=photos, split=["0", "1"], callbacks=[ProgressiveSizes([16, 32])])
    with pytest.raises(TrainingError, match=r"cannot take images of 16 x 16.*any size"):
        learn.fit(1)


def test_data_that_cannot_change_their_size_say_so(make, dls) -> None:
    class Fixed:
        train, valid, vocab, c = dls.train, dls.valid, dls.vocab, dls.c

    with pytest.raises(TrainingError, match="Fixed cannot"):
        make(dls=Fixed(), groups=None, split=1, callbacks=[ProgressiveSizes([16])]).fit(1)
