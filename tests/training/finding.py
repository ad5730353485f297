"""A learner on which rates are tried, and all of its state."""

from __future__ import annotations

from typing import Any

import torch
from tests.laws.test_8_looking_changes_nothing import learner_state
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from torch import Tensor, nn

from layergroups.training import Learner

NAMES = ["0.0", "0.7", "1"]


QUICK: dict[str, Any] = {"start_lr": 1e-5, "end_lr": 10, "num_it": 24}


def whole_state(learn: Learner) -> dict[str, Any]:
    """All that law 8 names, and what of groups, data and store it might overlook."""
    groups = learn.groups
    return {
        "learner": learner_state(learn),
        "groups": {k: v for k, v in vars(groups).items() if k in ("_frozen", "_rates", "_fixed")},
        "norms": groups.norms_train,
        "counts": (learn.epochs_done, learn.fits_done, learn.history, learn.opt is None),
        "callbacks": list(map(id, learn.callbacks)),
        "store": {k: id(v) for k, v in vars(learn.cache).items()},
        "data": getattr(learn.dls.train, "epoch", None),
        "grad objects": [id(p.grad) for p in learn.model.parameters()],
        "hooks": [list(map(id, m._forward_pre_hooks.values())) for m in learn.model.modules()],
        "norm policy": learn.norms.state_dict(learn.model),
    }


class Counting(nn.Module):
    """Counts its calls in an attribute, a list, a tensor that is no buffer, and a new buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[int] = []
        self.mean = torch.zeros(8)
        self.register_buffer("peak", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.mean.add_(x.detach().mean((0, 2, 3)))
        self.peak = torch.maximum(self.peak, x.detach().max())
        return x


def learner(opt_func: Any = "adamw", **options: Any) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
        model[0].insert(3, Counting())
    made = {"split": ["0.0", "0.8", "1"], "progress": False, "seed": 0, **options}
    return Learner(TinyLoaders(n=24), model, opt_func=opt_func, **made)
