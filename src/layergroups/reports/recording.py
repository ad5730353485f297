"""From a learner to the record of its run; the learner is left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from layergroups.errors import LayerGroupsError
from layergroups.reports.data_facts import data_facts_of
from layergroups.reports.facts_json import epoch_facts
from layergroups.reports.interpretation import Interpretation
from layergroups.reports.network_picture import stacks_of
from layergroups.reports.outcome import outcome_of
from layergroups.reports.run_facts import NetworkFacts, SetupFacts
from layergroups.reports.run_record import RunRecord
from layergroups.reports.subject import Trained
from layergroups.reports.surroundings import command_line, machine, versions

_OF_DATA: Final = "a split by chance, the order of the photos, and how they are varied"
_OF_LEARNER: Final = "first weights of a new head, dropout and other chances of training"


def record_run(
    learn: Trained,
    *,
    title: str | None = None,
    command: Sequence[str] | None = None,
    interp: Interpretation | None = None,
    measured: bool = True,
    pictures: bool = True,
) -> RunRecord:
    """All that is to be told of a run: history, groups, predictions, data, command, versions.

    The validation data go through the model once, and Grad-CAM looks at a few items.

    Args:
        learn: a learner; training changes nothing in the record afterwards.
        title: of the page; default is the network's name and the data's.
        command: the words of the command that was typed; None takes those of the process.
        interp: what it says of its validation data, if that is known already.
        measured: False leaves the predictions out.
        pictures: False leaves the photos out.
    """
    found = interp or (_interpreted(learn) if measured else None)
    data = data_facts_of(learn.dls, looked_into=measured)
    network = _network(learn)
    name = network.name.rpartition(":")[2]
    return RunRecord(
        title=title or (f"{name} on {data.name}" if data.name else name),
        network=network,
        epochs=epoch_facts(learn.history.to_dict()),
        outcome=None if found is None else outcome_of(found, pictures=pictures),
        data=data,
        setup=SetupFacts(
            command=command_line(command),
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            settings=_settings(learn),
            versions=versions(),
            machine=machine(learn.accelerator),
        ),
    )


def _interpreted(learn: Trained) -> Interpretation | None:
    """What it says of its validation data; None if it has none, or none whose answers are known."""
    try:
        known = len(learn.dls.valid) > 0
        return Interpretation.from_learner(learn) if known else None
    except (LayerGroupsError, TypeError):
        return None


def _network(learn: Trained) -> NetworkFacts:
    groups = learn.layer_groups
    blueprint = getattr(learn, "blueprint", None)
    name = groups.anatomy.model if blueprint is None else str(blueprint.arch)
    return NetworkFacts(name=name, rule=str(groups.rule), groups=tuple(stacks_of(groups)))


def _settings(learn: Any) -> dict[str, str]:
    """How the learner trains, in words."""
    blueprint = getattr(learn, "blueprint", None)
    found = {
        "network": "" if blueprint is None else str(blueprint.arch),
        "loss": _name(learn.loss_func),
        "optimizer": _name(learn.opt_func),
        "weight decay": f"{learn.weight_decay:g}",
        "precision": str(learn.accelerator.mixed_precision).replace("no", "float32"),
        "batches for a step": str(learn.accumulate),
    }
    return {name: value for name, value in found.items() if value} | _seeds(learn)


def _seeds(learn: Any) -> dict[str, str]:
    """The seeds of the data and of the learner, and what each decides."""
    own, of_data = getattr(learn, "seed", None), getattr(learn.dls, "seed", None)
    found = {} if of_data is None else {"seed of the data": f"{of_data}: {_OF_DATA}"}
    said = "none given: first weights of a new head and dropout are by chance"
    return found | {"seed of the learner": said if own is None else f"{own}: {_OF_LEARNER}"}


def _name(thing: object) -> str:
    """What a loss or an optimizer is called."""
    if isinstance(thing, str):
        return thing
    return str(getattr(thing, "__name__", type(thing).__name__))
