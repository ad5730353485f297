"""Law 3 in any order: surgeries, freezing, casts and steps by chance keep every invariant."""

from __future__ import annotations

import copy
import logging

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from layergroups import LayerGroups
from tests.laws.surgeries import assert_agree

WIDTH = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(self.norm(x)))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.early = nn.Sequential(Block(), Block())
        self.late = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype)
        return self.fc(self.late(self.early(self.stem(x))))


class AnyOrder(RuleBasedStateMachine):
    """A plain loop whose author changes the model as chance will have it."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("layergroups").setLevel(logging.ERROR)
        torch.manual_seed(0)
        self.model = Chain()
        self.groups = LayerGroups(
            self.model, ["stem", "late", "fc"], example_input=torch.randn(4, WIDTH)
        )
        made = self.groups.param_groups(lr=1e-2)
        self.body: Optimizer = SGD([g for g in made if g["layer_group"] < 2], momentum=0.9)
        self.head: Optimizer = AdamW([g for g in made if g["layer_group"] == 2])
        self.groups.attach(self.body)
        self.groups.attach(self.head)
        self.counts: dict[nn.Parameter, int] = {}

    def teardown(self) -> None:
        logging.getLogger("layergroups").setLevel(logging.NOTSET)

    @rule(n=st.integers(-3, 2))
    def freeze_to(self, n: int) -> None:
        self.groups.freeze_to(n)

    @rule(part=st.sampled_from(["early", "late"]))
    def append(self, part: str) -> None:
        self.model.get_submodule(part).append(Block().to(self.dtype()))

    @rule(part=st.sampled_from(["early", "late"]), i=st.integers(0, 9))
    def delete(self, part: str, i: int) -> None:
        blocks = self.model.get_submodule(part)
        if len(blocks) > 1:
            del blocks[i % len(blocks)]

    @rule(part=st.sampled_from(["early", "late"]), i=st.integers(0, 9))
    def wrap(self, part: str, i: int) -> None:
        blocks = self.model.get_submodule(part)
        blocks[i % len(blocks)] = nn.Sequential(blocks[i % len(blocks)], nn.Dropout(0.1))

    @rule(part=st.sampled_from(["early", "late"]), i=st.integers(0, 9))
    def exchange(self, part: str, i: int) -> None:
        blocks = self.model.get_submodule(part)
        blocks[i % len(blocks)] = Block().to(self.dtype())

    @rule()
    def replace_head(self) -> None:
        self.model.fc = nn.Linear(WIDTH, 3, dtype=self.dtype())

    @rule()
    def swap_head_weight(self) -> None:
        self.model.fc._parameters["weight"] = nn.Parameter(
            torch.randn(3, WIDTH, dtype=self.dtype())
        )

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def cast(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)

    @rule()
    def look(self) -> None:
        self.groups.sync()

    @rule()
    def step(self) -> None:
        self.model.train()
        known = {p: copy.deepcopy(p.detach()) for p in self.model.parameters()}
        frozen = set(self.groups.frozen)
        for optimizer in (self.body, self.head):
            optimizer.zero_grad()
        self.model(torch.randn(8, WIDTH)).square().mean().backward()
        # a parameter put in a module that stays is first seen at the step, and moves at the next
        seen = {p for o in (self.body, self.head) for g in o.param_groups for p in g["params"]}
        for optimizer in (self.body, self.head):
            optimizer.step()
        for group in self.groups:
            for name, p in group.named_parameters():
                if group.frozen:
                    assert torch.equal(p, known[p]), name
                elif not name.endswith("bias"):
                    assert torch.equal(p, known[p]) != (p in seen), name
                if p in self.head.state:
                    self.counts[p] = self.counts.get(p, 0) + (not group.frozen and p in seen)
                    assert float(self.head.state[p]["step"]) == self.counts[p], name
        assert frozen == set(self.groups.frozen)

    @invariant()
    def everything_agrees_after_any_access(self) -> None:
        if self.groups._detector.changed():
            return
        both = copy.copy(self.body)
        both.param_groups = self.body.param_groups + self.head.param_groups
        both.state = {**self.body.state, **self.head.state}
        assert_agree(self.model, self.groups, both)
        for parameter, state in both.state.items():
            for key, value in state.items():
                assert key == "step" or value.dtype == parameter.dtype
        homes = {n: g.name for g in self.groups for n, _ in g.named_parameters()}
        for name, group in homes.items():
            top = name.partition(".")[0]
            assert group == {"stem": "stem", "early": "stem", "late": "late", "fc": "fc"}[top], name

    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


AnyOrder.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestAnyOrder = AnyOrder.TestCase
