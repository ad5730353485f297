"""What a caller can see of a network, to compare before and after."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def picture(network: nn.Module, x: Tensor) -> tuple[object, ...]:
    """All that a caller can see of a network: names, kinds, modes, gradients, answers."""
    with torch.no_grad():
        answers = network(x).clone()
    return (
        [(n, type(m), m.training) for n, m in network.named_modules(remove_duplicate=False)],
        [(n, id(p), p.requires_grad) for n, p in network.named_parameters()],
        {n: t.clone() for n, t in network.state_dict().items()},
        answers,
    )


def assert_same_picture(
    one: tuple[object, ...], two: tuple[object, ...], atol: float = 0.0
) -> None:
    assert one[:2] == two[:2]
    torch.testing.assert_close(one[2:], two[2:], rtol=0, atol=atol)
