import pytest
import torch
from tests.training.tiny import TinyLoaders, moved, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.models import AdaptiveConcatPool2d
from layergroups.training.device import make_accelerator
from layergroups.training.features import (
    Stored,
    StoredBatches,
    TooLargeError,
    forward_rest,
    split_head,
    store,
    why_not,
)


def stored_of(model: nn.Sequential, passes, max_bytes: int = 1 << 20) -> Stored:
    accelerator = make_accelerator(None)
    return store(model, passes, accelerator=accelerator, max_bytes=max_bytes, advance=lambda: None)


def test_the_rest_of_the_head_on_stored_features_is_the_model() -> None:
    model, dls = tiny_model(), TinyLoaders()
    stored = stored_of(model, [dls.valid])
    assert stored.views[0].shape == (18, 8)
    assert torch.equal(stored.targets, dls.valid.y)
    model.eval()
    with torch.no_grad():
        found = forward_rest(model[1], split_head(model[1]), stored.views[0])
        assert torch.allclose(found, model(dls.valid.x), atol=1e-6)


def test_storing_changes_nothing() -> None:
    model, dls = tiny_model().train(), TinyLoaders()
    before, state = snapshot(model), torch.get_rng_state()
    stored_of(model, [dls.train_views(epoch=1), dls.train_views(epoch=2)])
    assert not moved(before, model)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_each_view_is_kept_in_the_order_of_the_photos() -> None:
    dls = TinyLoaders()
    stored = stored_of(tiny_model(), [dls.train_views(epoch=1), dls.train_views(epoch=2)])
    assert len(stored.views) == 2
    assert not torch.equal(*stored.views)
    assert len(stored) == 48
    some = stored.take([3, 5])
    assert torch.equal(some.views[1], stored.views[1][[3, 5]])


def test_features_can_be_trained_on() -> None:
    stored = stored_of(tiny_model(), [TinyLoaders().valid])
    assert not stored.views[0].is_inference()
    nn.Linear(8, 3)(stored.views[0]).sum().backward()


def test_passes_that_differ_in_their_photos_are_refused() -> None:
    dls = TinyLoaders()
    with pytest.raises(TrainingError, match="order"):
        stored_of(tiny_model(), [dls.valid, dls.train])


def test_more_than_allowed_is_refused() -> None:
    with pytest.raises(TooLargeError, match="need more"):
        stored_of(tiny_model(), [TinyLoaders(n=100).train], max_bytes=3000)


def features(n: int, views: int = 2) -> Stored:
    numbers = torch.arange(n, dtype=torch.float)
    return Stored(tuple(numbers + 1000 * view for view in range(views)), torch.arange(n))


def test_a_pass_goes_once_through_every_photo_in_every_view() -> None:
    batches = StoredBatches(features(10), batch_size=8, passes=3, seed=5)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 9
    assert batches.per_pass == 3
    passes = [torch.cat([x for x, _ in drawn[i : i + 3]]) for i in (0, 3, 6)]
    whole = torch.cat(batches.stored.views).sort().values
    assert all(torch.equal(one.sort().values, whole) for one in passes)
    assert not torch.equal(passes[0], passes[1])
    assert all(torch.equal(x % 1000, y.float()) for x, y in drawn)
    assert all(torch.equal(x, again) for (x, _), (again, _) in zip(drawn, batches, strict=True))


def test_a_rest_of_one_is_left_out_of_training_only() -> None:
    one_view = features(9, views=1)
    assert [len(y) for _, y in StoredBatches(one_view, 4, seed=0)] == [4, 4]
    assert [len(y) for _, y in StoredBatches(one_view, 4)] == [4, 4, 1]


@pytest.mark.parametrize(
    ("head", "first"),
    [
        (nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten(), nn.Linear(4, 2)), 2),
        (nn.Sequential(nn.Dropout(), nn.Flatten()), 0),
        (nn.Sequential(nn.Linear(4, 2)), 0),
        (nn.Linear(4, 2), 0),
    ],
)
def test_first_layers_that_only_pool_or_reshape(head: nn.Module, first: int) -> None:
    assert split_head(head) == first


def groups_of(model: nn.Module, split=("0.0", "0.7", "1")) -> LayerGroups:
    return LayerGroups(model, split, example_input=torch.zeros(2, 3, 16, 16))


def test_it_works_where_the_body_is_frozen_and_nothing_else() -> None:
    model = tiny_model()
    groups = groups_of(model)
    assert "not frozen" in why_not(model, groups)
    groups.freeze()
    assert why_not(model, groups) is None
    groups.freeze_to(-2)
    assert "'0.7'" in why_not(model, groups)
    groups.unfreeze()
    groups.set_rates([0, 0, 1e-3])
    assert why_not(model, groups) is None


def test_where_it_cannot_it_says_why() -> None:
    model = tiny_model()
    groups = groups_of(model)
    groups.freeze(norm="train")
    assert "norm" in why_not(model, groups)
    groups.freeze("1", "0.0", "0.7")
    assert "head is frozen" in why_not(model, groups)
    groups.freeze_to(-1)
    handle = model.register_forward_hook(lambda *_: None)
    assert "hooks" in why_not(model, groups)
    handle.remove()
    three = nn.Sequential(*tiny_model(), nn.Identity())
    assert "Sequential" in why_not(three, groups_of(three))
    wide = tiny_model()
    late = groups_of(wide, ["0.0", "0.7"])
    late.freeze()
    assert "'0.7'" in why_not(wide, late)
