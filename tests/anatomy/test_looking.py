"""Law 8 for dry runs: a model is as it was, in every respect."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from layergroups.anatomy import read_anatomy
from layergroups.errors import AnatomyError


class Caching(nn.Module):
    """Keeps what it sees: an attribute, a list, a buffer that moves, a branch on a value."""

    def __init__(self, *, branch: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 2)
        self.branch = branch
        self.cache: Tensor | None = None
        self.seen: list[Tensor] = []
        self.register_buffer("count", torch.zeros(()))
        self.count: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.cache = x
        self.seen.append(x)
        self.count += 1
        if self.branch and bool(x.sum() > 1e9):
            return self.fc(x.mean((2, 3))[:, :1].expand(-1, 4))
        return self.fc(self.drop(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("branch", [False, True], ids=["fake run", "real run"])
def test_a_dry_run_changes_nothing(branch: bool) -> None:
    model = Caching(branch=branch)
    model.train()
    model.drop.eval()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    dicts = [id(m._parameters) for m in model.modules()]
    torch.manual_seed(3)
    random_state = torch.get_rng_state()

    anatomy = read_anatomy(model, torch.ones(2, 3, 8, 8))

    assert anatomy.source == ("real run" if branch else "fake run")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [id(m._parameters) for m in model.modules()] == dicts
    assert not model.conv.weight.requires_grad
    assert model.fc.weight.requires_grad
    assert model.cache is None
    assert model.seen == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_a_run_that_fails_is_told_once_and_not_by_torch(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    with pytest.raises(AnatomyError, match="shapes cannot be multiplied"):
        read_anatomy(model, torch.zeros(2, 3))
    assert not caplog.records
    assert capfd.readouterr().err == ""
