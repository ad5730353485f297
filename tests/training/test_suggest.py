"""What `suggest_groups` measures and proposes, on models whose answers are known; no trace left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.laws.models import TinyResNet, TinyTransformer
from tests.laws.test_8_looking_changes_nothing import differences
from tests.training.test_lr_find import learner, whole_state
from tests.training.tiny import TinyLoaders
from torch import Tensor, nn

from layergroups.errors import GroupingError, TrainingError
from layergroups.training import Learner
from layergroups.training.evidence import Evidence, Gradients, change_of
from layergroups.training.proposal import GroupProposal, propose

Make = Callable[..., Learner]
NAMES = ["0.0", "0.7", "1"]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frozen=st.lists(st.sampled_from(["0.0", "0.8", "1"]), unique=True),
    norm=st.sampled_from(["freeze", "train"]),
    opt_func=st.sampled_from(["adamw", "sgd"]),
    trained=st.booleans(),
    modes=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_it_leaves_everything_as_it_was(
    frozen: list[str], norm: str, opt_func: str, trained: bool, modes: list[bool]
) -> None:
    learn = learner(opt_func)
    learn.dls.train.batch_size = 4  # type: ignore[attr-defined] # of the tiny batches
    if trained:
        learn.fit(1)
    if frozen:
        learn.layer_groups.freeze(*frozen, norm=norm)
    for i, module in enumerate(learn.model.modules()):
        module.training = modes[i % 3]
    learn.placed_model()
    before = whole_state(learn)
    learn.suggest_groups()
    assert differences(before, whole_state(learn)) == []


def test_an_exception_leaves_no_trace_either() -> None:
    learn = learner()
    learn.dls.train.batch_size = 4  # type: ignore[attr-defined] # of the tiny batches
    left = [25]

    def fails(module: nn.Module, args: object, output: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    learn.model[1][4].register_forward_hook(fails)
    before = whole_state(learn)
    with pytest.raises(KeyboardInterrupt):
        learn.suggest_groups()
    assert differences(before, whole_state(learn)) == []


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: TinyResNet(width=4, blocks=1),
    "transformer": lambda: TinyTransformer(layers=2),
    "timm resnet": lambda: timm.create_model("test_resnet", num_classes=3),
    "timm vit": lambda: timm.create_model("test_vit", num_classes=3, img_size=32),
}


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_block_of_any_model_is_measured(kind: str) -> None:
    torch.manual_seed(0)
    dls = TinyLoaders(n=24, batch_size=6, size=(32, 32))
    learn = Learner(dls, MODELS[kind](), progress=False, seed=0)
    proposal = learn.suggest_groups()
    blocks = learn.layer_groups.anatomy.blocks
    assert [found.name for _, found in proposal.blocks] == [block.name for block in blocks]
    assert [advice.name for advice in proposal.groups] == list(learn.layer_groups.names)
    assert max(found.relative_gradient for _, found in proposal.blocks) > 0
    for _, found in proposal.blocks:
        assert found.relative_gradient >= 0  # 0 before a norm whose scale begins at 0
        assert found.signal_to_noise >= 0
        assert found.change is not None
        assert 0 <= found.change <= 1
    assert max(proposal.rates.values()) == pytest.approx(2e-4)
    learn.fine_tune(1, lr=proposal.rates, store=False)


class Scale(nn.Module):
    """Multiplies by a weight that is large or small."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] / self.weight.detach()[:, None, None]


def test_a_gradient_counts_beside_the_size_of_its_weights() -> None:
    """Two layers of the same function: at a hundredth of the weights, 10,000 times the ratio."""
    torch.manual_seed(0)
    ratios = []
    for size in (0.1, 10.0):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), Scale(size), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        )
        learn = Learner(TinyLoaders(n=24), model, split=["0", "1", "4"], progress=False)
        found = {a.name: a.evidence for a in learn.suggest_groups(train_head=False).groups}
        ratios.append(found["1"].relative_gradient)
    assert ratios[0] / ratios[1] == pytest.approx(1e4, rel=5e-3)


def test_signal_is_told_from_noise() -> None:
    torch.manual_seed(0)
    model = nn.Linear(400, 3, bias=False)
    steady = torch.randn(3, 400)
    for size, low, high in ((0.0, 0.0, 0.03), (1.0, 0.8, 1.25), (3.0, 8.0, 10.0)):
        found = Gradients()
        for _ in range(16):
            model.weight.grad = size * steady + torch.randn(3, 400)
            found.add(model, scale=1.0)
        evidence = found.evidence("all", dict(model.named_parameters()))
        assert low <= evidence.signal_to_noise <= high, size
    model.weight.grad = steady
    same = Gradients()
    for _ in range(3):
        same.add(model, scale=2.0)
    evidence = same.evidence("all", dict(model.named_parameters()))
    assert evidence.signal_to_noise > 1e6
    norm = float(steady.norm() / 2 / model.weight.detach().norm())
    assert evidence.relative_gradient == pytest.approx(norm)


def test_the_change_is_that_of_linear_cka() -> None:
    torch.manual_seed(0)

    def gram(rows: Tensor) -> Tensor:
        rows = rows - rows.mean(dim=0)
        return rows @ rows.T

    x = torch.randn(40, 6, dtype=torch.float64)
    turned = x @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert change_of(gram(x), gram(3 * turned + 1)) == pytest.approx(0, abs=1e-12)
    y = x + 0.3 * torch.randn(40, 6, dtype=torch.float64)
    a, b = x - x.mean(0), y - y.mean(0)
    cka = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert change_of(gram(x), gram(y)) == pytest.approx(1 - float(cka))


def test_a_block_whose_outputs_do_not_change_is_seen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
    model[0].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    learn = Learner(TinyLoaders(n=48), model, split=["0", "2", "6"], progress=False)
    first, second, head = learn.suggest_groups(base_lr=1e-2).groups
    assert first.evidence.change == pytest.approx(0, abs=1e-5)
    assert second.evidence.change > 1e-4  # type: ignore[operator] # it has an output
    assert first.frozen
    assert not head.frozen


def some(name: str, relative: float, ratio: float = 1.0, change: float | None = 0.1) -> Evidence:
    return Evidence(name, 10, relative, ratio, change)


def proposal(*found: Evidence) -> GroupProposal:
    return propose(found, [(f.name, f) for f in found], base_lr=1e-3, batches=4, head_batches=0)


def test_what_hardly_moves_is_frozen_and_all_else_trains_at_one_rate() -> None:
    still, idle = some("still", 2.0, change=5e-4), some("idle", 0.0, change=0.05)
    made = proposal(still, idle, some("c", 0.4, 1e-9, change=None), some("d", 1.0))
    assert made.rates == {"still": 0, "idle": 0, "c": 1e-3, "d": 1e-3}
    assert made.frozen == ("still", "idle")
    reasons = [advice.reason for advice in made.groups]
    assert reasons[0].endswith("its outputs change little, 0.5% of the largest change")
    assert reasons[1].endswith("it gets no gradient")
    assert reasons[2].endswith("nothing speaks for freezing it")
    assert reasons[3].endswith("its outputs change, 100% of the largest change")


def test_the_last_group_always_trains() -> None:
    assert proposal(some("a", 1.0), some("b", 0.0, 0.0, 0.0)).rates == {"a": 1e-3, "b": 1e-3}
    assert proposal(some("all", 0.0, 0.0, None)).rates == {"all": 1e-3}


def test_it_is_taken_over_by_apply_or_by_what_is_printed(make: Make) -> None:
    made = proposal(some("0.0", 3.0, change=0.0), some("0.7", 0.5), some("1", 1.0))
    one, other = make(), make()
    one.freeze()
    made.apply(one)
    assert one.groups.frozen == (True, False, False)
    assert one.groups.rates == (1e-3, 1e-3, 1e-3)
    _, *lines = str(made).partition("which is")[2].splitlines()
    other.freeze()
    for line in lines:
        exec(line.strip(), {"learn": other})  # what it tells to type
    assert other.groups.state_dict() == one.groups.state_dict()
    with pytest.raises(GroupingError, match="tail"):
        proposal(some("tail", 1.0)).apply(one)


def test_a_rate_of_zero_is_a_frozen_group_in_fine_tune(make: Make) -> None:
    learn = make()
    start = learn.model[0][0].weight.detach().clone()
    made = proposal(some("0.0", 3.0, change=0.0), some("0.7", 0.5), some("1", 1.0))
    learn.fine_tune(1, lr=made.rates)
    assert torch.equal(learn.model[0][0].weight, start)


def test_it_prints_all_that_was_measured(make: Make) -> None:
    made = make(dls=TinyLoaders(n=48)).suggest_groups()
    text = str(made)
    for advice in made.groups:
        assert f"{advice.name}:" in text
        assert advice.reason in " ".join(text.split())
    for _, found in made.blocks:
        assert f"{found.relative_gradient:.2g}" in text
    assert "Measured on 3 training batches, after the last group had trained on 3 others" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert made.to_dict()["blocks"][0]["group"] == "0.0"


def test_a_head_that_has_trained_is_not_trained_again(make: Make, tmp_path: Path) -> None:
    learn = make()
    assert learn.suggest_groups().head_batches == 3
    learn.fit(1)
    assert learn.suggest_groups().head_batches == 0
    assert learn.suggest_groups(train_head=True, batches=3).head_batches == 3


def test_mistakes_are_told(make: Make) -> None:
    learn = make()

    def loss(outputs: Tensor, targets: Tensor) -> Any:
        return outputs.sum() * float("nan")

    learn.loss_func = loss
    with pytest.raises(TrainingError, match="The loss is nan at step 0 of training the head"):
        learn.suggest_groups()
    with pytest.raises(TrainingError, match="The loss is nan"):
        learn.suggest_groups(train_head=False)
    single = make(dls=TinyLoaders(n=4, batch_size=1))
    with pytest.raises(TrainingError, match="training batch has one item"):
        single.suggest_groups(train_head=False)
