import pytest
import torch
from tests.training.tiny import moved, snapshot

from layergroups.errors import TrainingError
from layergroups.tasks import TASKS


def test_validate_is_the_mean_over_items_whatever_the_batches(make, dls) -> None:
    learn = make(metrics=["accuracy"])
    by_batches = learn.validate()
    at_once = learn.validate([(dls.valid.x, dls.valid.y)])
    x, y = dls.valid.x, dls.valid.y
    assert by_batches == pytest.approx(learn.validate(iter([(x, y)])))
    one_short = learn.validate([(x[:17], y[:17]), (x[17:], y[17:])])
    assert by_batches.keys() == {"valid_loss", "accuracy"}
    assert by_batches == pytest.approx(at_once)
    assert by_batches == pytest.approx(one_short)


def test_validate_changes_nothing(make) -> None:
    learn = make(metrics=["accuracy"])
    learn.fit(1)
    learn.model.train()
    modes = [module.training for module in learn.model.modules()]
    before, state = snapshot(learn.model), torch.get_rng_state()
    assert learn.validate() == learn.validate()
    learn.get_preds()
    assert not moved(before, learn.model)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in learn.model.modules()]
    assert len(learn.history) == 1


def test_get_preds_in_the_order_of_the_photos(make, dls) -> None:
    learn = make()
    found, targets, losses = learn.get_preds(with_loss=True)
    learn.model.eval()
    with torch.no_grad():
        outputs = learn.model(dls.valid.x)
    assert torch.allclose(found, outputs.softmax(1), atol=1e-6)
    assert torch.equal(targets, dls.valid.y)
    expected = torch.nn.functional.cross_entropy(outputs, dls.valid.y, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-6)


def test_get_preds_of_photos_without_labels(make, dls) -> None:
    learn = make()
    found, targets = learn.get_preds([dls.valid.x[:4], dls.valid.x[4:7]])
    assert found.shape == (7, 3)
    assert targets is None
    with pytest.raises(TrainingError, match="with_loss"):
        learn.get_preds([dls.valid.x], with_loss=True)


def test_predict_names_the_likeliest_class(make, dls) -> None:
    learn = make()
    learn.fit(3, 1e-2)
    found = learn.predict(dls.valid.x[4])
    label, index, chances = found
    assert (label, index) == ("green", 1) == (found.label, found.index)
    assert chances.shape == (3,)
    assert float(chances.sum()) == pytest.approx(1)
    assert torch.allclose(chances, learn.get_preds()[0][4], atol=1e-6)


def test_classes_without_names_are_numbered() -> None:
    assert TASKS["multiclass"].decode(torch.tensor([0.1, 0.9]), ()).label == "1"


@pytest.mark.parametrize(
    ("batches", "says"),
    [([], "valid_pct"), ([torch.zeros(2, 3, 16, 16)], "targets"), ([{"x": 1}], "dict")],
)
def test_batches_that_cannot_be_validated(make, batches, says) -> None:
    with pytest.raises(TrainingError, match=says):
        make().validate(batches)
