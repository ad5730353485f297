"""A table of the layers of a model: output shapes, parameters, what trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from torch import Tensor, nn

from layergroups._formatting import Printable, memory, name_of, pairs, table
from layergroups._paths import parent
from layergroups._torch import tree_leaves
from layergroups.anatomy import first_trace
from layergroups.errors import LayerGroupsError
from layergroups.groups import LayerGroups

if TYPE_CHECKING:
    from torch.optim import Optimizer


_HEADINGS = ("layer", "type", "output", "parameters", "trains", "group")
DETAILS: Final = ("blocks", "layers")


@dataclass(frozen=True)
class LayerRow:
    name: str  # its path; the name of a parameter that belongs directly to a container
    kind: str  # its class
    shape: tuple[int, ...]  # of its output for one item; empty if unknown
    parameters: int  # that no earlier row counts
    trainable: int  # how many of them train
    group: str


@dataclass(frozen=True)
class ModelSummary(Printable):
    """A model as a table of its blocks or layers; prints as a table, converts to JSON."""

    model: str  # class of the network
    rows: tuple[LayerRow, ...]  # in the order of execution; together they hold every parameter once
    detail: str  # "blocks" or "layers"
    parameters: int  # of all rows
    trainable: int  # how many of them train
    flops: int  # for one image, twice the multiply-adds, as far as torch has formulas
    weight_bytes: int  # of parameters and buffers
    gradient_bytes: int  # of the gradients of trainable parameters
    optimizer_bytes: int | None  # of the optimizer state; None before the first fit
    optimizer: str  # its name
    loss: str  # its name
    _columns = 120

    @property
    def frozen(self) -> int:
        """Parameters that do not train."""
        return self.parameters - self.trainable

    @property
    def facts(self) -> dict[str, str]:
        """The totals below the table, as text."""
        later = "created at the first fit"
        own = later if self.optimizer_bytes is None else memory(self.optimizer_bytes)
        return {
            "parameters": f"{self.parameters:,d}",
            "train": f"{self.trainable:,d}",
            "frozen": f"{self.frozen:,d}",
            "computation": f"{self.flops / 1e9:.2f} GFLOPs per image",
            "memory": f"{memory(self.weight_bytes)} weights, {memory(self.gradient_bytes)} "
            f"gradients, optimizer: {own}",
            "optimizer": self.optimizer,
            "loss": self.loss,
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __rich__(self) -> Group:
        rows = []
        for row in self.rows:
            shape = "×".join(map(str, row.shape)) or "-"
            size = f"{row.parameters:,d}" if row.parameters else "-"
            rows.append((row.name, row.kind, shape, size, _trains(row), row.group))
        title = f"{self.model}, its {self.detail}"
        shown = table(_HEADINGS, rows, left=(_HEADINGS[1], _HEADINGS[-1]), title=title)
        return Group(shown, pairs((f"{name}:", text) for name, text in self.facts.items()))


def model_summary(
    groups: LayerGroups,
    *,
    detail: str = "blocks",
    optimizer: Optimizer | None = None,
    opt_func: object = "adamw",
    loss_func: object = None,
    example_input: Any = None,
) -> ModelSummary:
    """Summarise a model and its layer groups; see `Learner.summary`."""
    if detail not in DETAILS:
        raise LayerGroupsError(f"detail={detail!r} must be 'blocks' or 'layers'.")
    left = dict(groups.model.named_parameters())
    homes = {name: group.name for group in groups for name, _ in group.named_parameters()}
    if detail == "blocks":
        rows = _block_rows(groups, left)
    else:
        rows = _layer_rows(groups, left, homes, example_input)
    rows += [
        LayerRow(name, "never used", (), *_counts([p]), homes[name]) for name, p in left.items()
    ]
    tensors = [*groups.model.parameters(), *groups.model.buffers()]
    trained = [p for p in groups.model.parameters() if p.requires_grad]
    return ModelSummary(
        model=groups.network,
        rows=tuple(rows),
        detail=detail,
        parameters=sum(row.parameters for row in rows),
        trainable=sum(row.trainable for row in rows),
        flops=sum(block.flops for block in groups.anatomy.blocks),
        weight_bytes=_bytes(tensors),
        gradient_bytes=_bytes(trained),
        optimizer_bytes=None if optimizer is None else _bytes(tree_leaves(dict(optimizer.state))),
        optimizer=name_of(opt_func if optimizer is None else optimizer),
        loss=name_of(loss_func),
    )


def _block_rows(groups: LayerGroups, left: dict[str, nn.Parameter]) -> list[LayerRow]:
    rows = []
    for group in groups:
        for block in group.blocks:
            held = [left.pop(name) for name in block.parameters if name in left]
            shape = tuple(block.shape)
            rows.append(LayerRow(block.name, block.kind, shape, *_counts(held), group.name))
    return rows


def _layer_rows(
    groups: LayerGroups, left: dict[str, nn.Parameter], homes: dict[str, str], example_input: Any
) -> list[LayerRow]:
    _, found = first_trace(groups.model, example_input)
    modules = dict(groups.model.named_modules())
    first = {call.path: call for call in reversed(found.calls)}
    group_of = {block.index: group.name for group in groups for block in group.blocks}
    layers = groups.anatomy.layers
    timed: list[tuple[int, LayerRow]] = []
    for path in sorted(first, key=lambda path: first[path].start):
        module, names = modules[path], [n for n in left if parent(n) == path]
        if not _is_layer(module, path):
            continue
        home = homes[names[0]] if names else group_of.get(layers.get(path, 0), groups.names[-1])
        counts = _counts([left.pop(name) for name in names])
        shape = first[path].shape[1:]
        timed.append(
            (first[path].start, LayerRow(path, type(module).__name__, shape, *counts, home))
        )
    for name in [n for n in left if n in found.first_use]:
        row = LayerRow(name, "parameter", (), *_counts([left.pop(name)]), homes[name])
        timed.append((found.first_use[name], row))
    return [row for _, row in sorted(timed, key=lambda pair: pair[0])]


def _is_layer(module: nn.Module, path: str) -> bool:
    """A module without children, or with direct parameters and children without any."""
    if not path or isinstance(module, nn.Identity):
        return False
    if not any(module.children()):
        return True
    own = any(True for _ in module.parameters(recurse=False))
    return own and not any(any(True for _ in child.parameters()) for child in module.children())


def _counts(held: Iterable[nn.Parameter]) -> tuple[int, int]:
    sizes = [(p.numel(), p.requires_grad) for p in held]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


def _trains(row: LayerRow) -> str:
    if not row.parameters:
        return "-"
    if not row.trainable:
        return "frozen"
    return "yes" if row.trainable == row.parameters else f"{row.trainable:,d}"


def _bytes(values: Sequence[Any]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))
