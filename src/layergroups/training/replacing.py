"""What follows when a learner is given another model or other data."""

from __future__ import annotations

import logging

from torch import nn
from torch.optim import Optimizer

from layergroups.anatomy.looking import unwrap
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, Split
from layergroups.training.loaders import (
    Loaders,
    bound,
    class_names,
    example_of,
    input_of,
    n_classes,
)

_log = logging.getLogger("layergroups")


def regroup(old: LayerGroups, model: nn.Module, split: Split, dls: Loaders) -> LayerGroups:
    """Layer groups of another model by the same rule; freezing and rates go over where they fit.

    A compiled model is the same one in a wrapper: its groups stay as they are.
    """
    if unwrap(model) is old.model:
        return old
    new = LayerGroups(model, split, example_input=example_of(dls))
    if new.names == old.names:
        new.load_state_dict(old.state_dict())
        return new
    new.set_rates(max(old.rates))
    _log.warning(
        "the new model has the layer groups %s, the old one had %s: none is frozen now, and all "
        "have rate %g",
        ", ".join(new.names),
        ", ".join(old.names),
        max(old.rates),
    )
    return new


def carry_optimizer(optimizer: Optimizer, groups: LayerGroups) -> Optimizer | None:
    """The same optimizer over another model's groups; None if they have other names.

    Parameters that both models have keep their state; those of the new one start without any.
    """
    wanted = {group["name"]: group["params"] for group in groups.param_groups()}
    if [group["name"] for group in optimizer.param_groups] != list(wanted):
        _log.warning("the new model has other layer groups: the optimizer starts afresh")
        return None
    for group in optimizer.param_groups:
        group["params"] = wanted[group["name"]]
    alive = {parameter for params in wanted.values() for parameter in params}
    for parameter in [p for p in optimizer.state if p not in alive]:
        del optimizer.state[parameter]
    groups.attach(optimizer)
    return optimizer


def fitting_data(old: Loaders, new: Loaders) -> Loaders:
    """The new data, normalised as the weights need it.

    Raises:
        TrainingError: task, classes or channels are others than the model was made for.
    """
    _check_task(old, new)
    if class_names(new) != class_names(old) and n_classes(old):
        raise TrainingError(
            f"These data have the classes {_shown(class_names(new))}, the model was made for "
            f"{_shown(class_names(old))}. For other classes make a new head: "
            "vision_learner(dls, arch)."
        )
    return bound(new, input_of(old))


def _check_task(old: Loaders, new: Loaders) -> None:
    """The same kind of targets, and images of as many channels."""
    tasks = [getattr(dls, "task", None) for dls in (old, new)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise TrainingError(
            f"These data have the task {tasks[1]!r}, the model was made for {tasks[0]!r}. For "
            "another task make a new learner: vision_learner(dls, arch)."
        )
    specs = [input_of(dls) for dls in (old, new)]
    counts = [None if spec is None else spec.channels for spec in specs]
    if None not in counts and counts[0] != counts[1]:
        raise TrainingError(
            f"These images have {counts[1]} channels, the model takes {counts[0]}. Read them with "
            f"{counts[0]}, or make a new learner: vision_learner(dls, arch)."
        )


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
