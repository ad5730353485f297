"""Law 8 for dry runs: a model is as it was, in every respect."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from layergroups.anatomy import eval_mode, read_anatomy, restoring
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
    with pytest.raises(AnatomyError, match=r"nn\.Linear"):
        read_anatomy(model, torch.zeros(2, 3))
    assert not caplog.records
    assert capfd.readouterr().err == ""


class Merging(nn.Linear):
    """A LoRA layer as in microsoft/LoRA: `train()` merges the low-rank weights in and out."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.low = nn.Parameter(torch.randn(4, 2))
        self.high = nn.Parameter(torch.randn(2, 4))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            sign = -1 if mode else 1
            self.weight.data += sign * self.low @ self.high
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.merged else y + x @ (self.low @ self.high).T


def state(model: nn.Module) -> object:
    modes = [m.training for m in model.modules()]
    merged = [m.merged for m in model.modules() if isinstance(m, Merging)]
    return modes, merged, {k: v.tolist() for k, v in model.state_dict().items()}


def mixed() -> nn.Sequential:
    model = nn.Sequential(Merging(), nn.Sequential(Merging(), nn.Dropout()), nn.Linear(4, 2))
    model.train()
    model[1].eval()  # frozen: merged already
    return model


def test_a_dry_run_does_not_call_a_train_that_acts() -> None:
    model = mixed()
    before = state(model)
    for _ in range(2):
        read_anatomy(model, torch.zeros(2, 4))
        assert state(model) == before


def test_a_dry_run_does_not_call_eval_of_the_object_either() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    model.train = lambda mode=True: pytest.fail("called")
    read_anatomy(model, torch.zeros(2, 4))


@pytest.mark.parametrize("training", [True, False])
def test_a_real_evaluation_calls_it_and_takes_it_back_to_the_bit(training: bool) -> None:
    model = mixed()
    if not training:
        model.eval()
    before, x = state(model), torch.randn(3, 4)
    for _ in range(3):
        with eval_mode(model):
            assert not any(m.training for m in model.modules())
            assert model[0].merged
            model(x)
        assert state(model) == before


def test_an_evaluation_that_fails_puts_the_modes_back() -> None:
    model = mixed()
    before = state(model)
    with pytest.raises(ZeroDivisionError), eval_mode(model):
        _ = 1 / 0
    assert state(model) == before


class NormsStayFrozen(nn.Sequential):
    """Its own `train` keeps the norms in eval, as many detectors do."""

    def train(self, mode: bool = True) -> NormsStayFrozen:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


def test_modes_that_the_model_would_not_give_itself_are_put_back() -> None:
    model = NormsStayFrozen(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[1].training = True
    with eval_mode(model):
        pass
    assert [m.training for m in model.modules()] == [True] * 4


class Lazy:
    """Answers no question before it is complete, as some objects of pydantic do."""

    __slots__ = ("found",)

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("not complete")


def test_an_object_that_refuses_questions_is_not_asked() -> None:
    model = nn.Linear(2, 2)
    model.lazy = Lazy()  # type: ignore[assignment] # no module
    assert read_anatomy(model, torch.zeros(2, 2)).source == "fake run"


def test_the_order_of_hooks_is_restored_where_one_was_put_first() -> None:
    model = nn.Linear(2, 2)
    called: list[str] = []
    model.register_forward_pre_hook(lambda *_: called.append("second"))
    model.register_forward_pre_hook(lambda *_: called.append("first"), prepend=True)
    with restoring(model):
        model.register_forward_pre_hook(lambda *_: called.append("new"), prepend=True)
    model(torch.ones(1, 2))
    assert called == ["first", "second"]
