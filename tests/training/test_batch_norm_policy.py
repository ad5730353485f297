import pytest
import torch
from tests.training.tiny import moved, pretrained, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training.state._batch_norm_policy import (
    BatchNormPolicy,
    evaluating,
    has_statistics,
)


def training_norms(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]


@pytest.mark.parametrize(
    ("policy", "fitted", "update"),
    [
        ("auto", True, ["1.2"]),
        ("auto", False, ["0.1", "0.4", "0.8", "1.2"]),
        ("keep", True, ["1.2"]),
        ("keep", False, ["1.2"]),
        ("update", True, ["0.1", "0.4", "0.8", "1.2"]),
    ],
)
def test_which_norms_update_their_statistics(policy, fitted, update) -> None:
    model = pretrained(tiny_model()) if fitted else tiny_model()
    BatchNormPolicy(policy).train(model)
    assert training_norms(model) == update
    assert model[0][6].training  # dropout


def test_a_norm_that_starts_fresh_updates_for_ever() -> None:
    model = tiny_model()
    policy = BatchNormPolicy("auto")
    policy.train(model)
    model[0][1].running_mean.add_(1)
    policy.train(model)
    assert "0.1" in training_norms(model)


def test_weights_that_are_loaded_before_the_first_fit_keep_their_statistics(make, caplog) -> None:
    learn = make()
    learn.pretrained = False
    learn.model.load_state_dict(pretrained(tiny_model()).state_dict())
    before = learn.model[0][1].running_mean.clone()
    learn.fit(1)
    assert torch.equal(learn.model[0][1].running_mean, before)
    assert "keep their running statistics" in caplog.text


def test_norms_of_a_head_update_also_when_the_head_is_trained_already() -> None:
    model = tiny_model()
    model[1][2].running_mean.add_(1)
    BatchNormPolicy("keep").train(model)
    assert "1.2" in training_norms(model)


def test_norms_that_come_by_surgery_are_judged_when_first_seen() -> None:
    model = tiny_model()
    policy = BatchNormPolicy("auto")
    model[0][1] = nn.BatchNorm2d(8)
    model[0][1].running_mean.add_(1)
    policy.train(model)
    assert training_norms(model) == ["0.4", "0.8", "1.2"]


def test_a_model_without_a_head_of_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten())
    model[1].running_var.mul_(2)
    BatchNormPolicy("auto").train(model)
    assert training_norms(model) == []


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(TrainingError, match="'update'"):
        BatchNormPolicy("freeze")


def test_statistics_are_told_from_initial_ones() -> None:
    norm = nn.BatchNorm1d(3)
    assert not has_statistics(norm)
    norm.running_var[1] = 2
    assert has_statistics(norm)
    assert not has_statistics(nn.BatchNorm1d(3, track_running_stats=False))


def test_evaluating_leaves_no_trace() -> None:
    model = tiny_model()
    model.train()
    model[0][1].eval()
    modes = [module.training for module in model.modules()]
    before, state = snapshot(model), torch.get_rng_state()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.rand(2, 3, 16, 16)).requires_grad
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not moved(before, model)
