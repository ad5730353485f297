"""An exponential moving average of the weights in a fit.

The average is in the model from the validation of an epoch until the next epoch starts, and after
the fit. So the validated weights are those that are saved, exported and used for predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._torch import foreach_lerp_, is_sharded, shard_like, version
from layergroups.groups import is_norm
from layergroups.training.distributed import whole
from layergroups.training.loop import FitContext
from layergroups.training.state import LearnerState


class EMA:
    """Averages the weights of one fit; the first of its callbacks.

    After step t, average = d * average + (1 - d) * weights, where d is the smaller of the decay and
    (1 + t) / (10 + t), so that the average soon forgets the start of a fit (as TensorFlow's
    ExponentialMovingAverage with `num_updates`). It covers the parameters that train and the
    running statistics of their groups. Frozen parameters, or those with rate 0, have no average and
    do not change. Unfrozen or new parameters start their average at their current values.

    Args:
        learner: the learner of the fit.
        decay: between 0 and 1.
    """

    def __init__(self, learner: LearnerState, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._learner = learner
        self._averages: dict[Tensor, Tensor] = {}
        self._weights: dict[Tensor, Tensor] = {}  # while the averages are in the model
        self._versions: dict[Tensor, int] = {}
        self._structure: object = None
        self._floats: list[Tensor] = []

    def before_epoch(self, run: FitContext) -> None:
        # A version counter shows writes to a tensor. What other code has changed or frozen since
        # the swap stays as it is.
        trains = set(map(id, self._followed()))
        with torch.no_grad():
            for tensor, weights in self._weights.items():
                if id(tensor) in trains and version(tensor) == self._versions[tensor]:
                    tensor.copy_(weights)
                else:
                    self._averages.pop(tensor, None)
        self._weights.clear()

    def after_step(self, run: FitContext) -> None:
        self.steps += 1
        part = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        self._averages = {tensor: self._average(tensor) for tensor in self._followed()}
        pairs = [(a, t.detach().to(a.dtype)) for t, a in self._averages.items()]
        together = [pair for pair in pairs if not is_sharded(pair[0])]
        with torch.no_grad():
            if together:
                averages, tensors = map(list, zip(*together, strict=True))
                foreach_lerp_(averages, tensors, part)
            for average, tensor in pairs:
                if is_sharded(average):
                    average.lerp_(tensor, part)

    def after_fit(self, run: FitContext) -> None:
        self._weights.clear()
        self._averages.clear()

    def before_validate(self, run: FitContext) -> None:
        """Swap the averages in, with running statistics that are equal in all processes."""
        self.swap_in()
        run.replicas.sync_buffers(run.model)
        self._versions = {tensor: version(tensor) for tensor in self._weights}

    def after_all(self, run: FitContext) -> None:
        self.swap_in()

    def swap_in(self) -> None:
        """Put the averages in the model and save its weights, unless they are swapped already."""
        if self._weights:
            return
        with torch.no_grad():
            for tensor in self._followed():
                average = self._averages.get(tensor)
                if average is not None and average.shape == tensor.shape:
                    self._weights[tensor] = tensor.detach().clone()
                    tensor.copy_(average)
        self._versions = {tensor: version(tensor) for tensor in self._weights}

    def state_dict(self) -> dict[str, Any]:
        """Averages, and the weights while the averages are in the model, by name."""
        names = {tensor: name for name, tensor in self._named()}
        held = {"averages": self._averages, "weights": self._weights}
        named = {
            key: whole({names[t]: value for t, value in tensors.items() if t in names})
            for key, tensors in held.items()
        }
        return {"steps": self.steps, **named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = int(state["steps"])
        named = dict(self._named())
        for own, key in ((self._averages, "averages"), (self._weights, "weights")):
            own.clear()
            own.update({named[name]: _placed(t, named[name]) for name, t in state[key].items()})
        self._versions = {tensor: version(tensor) for tensor in self._weights}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        model = self._learner.groups.model  # without the wrapper of torch.compile
        return chain(model.named_parameters(), model.named_buffers())

    def _followed(self) -> list[Tensor]:
        groups = self._learner.layer_groups
        seen = (id(groups.model), len(groups.changes))
        structure = (seen, groups.frozen, groups.rates, groups.norms_train)
        if structure != self._structure:
            fixed = {
                id(buffer)
                for module in groups.inactive_modules(groups.inactive)
                if not (groups.norms_train and is_norm(module))
                for buffer in module.buffers(recurse=False)
            }
            floats = [t for _, t in self._named() if t.is_floating_point() or t.is_complex()]
            self._floats = [t for t in floats if id(t) not in fixed]
            self._structure = structure
        return [t for t in self._floats if t.requires_grad or not isinstance(t, nn.Parameter)]

    def _average(self, tensor: Tensor) -> Tensor:
        known = self._averages.get(tensor)
        if known is None or known.shape != tensor.shape or known.device != tensor.device:
            # In 16 bits, the small updates of an average would round to nothing.
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            return tensor.detach().to(torch.float32 if half else tensor.dtype, copy=True)
        return known


def _placed(saved: Tensor, like: Tensor) -> Tensor:
    if is_sharded(like):
        return shard_like(saved, like)
    return torch.empty_like(like, dtype=saved.dtype, requires_grad=False).copy_(saved)
