"""Checks of one architecture of torchvision or timm with a new head of 10 classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.coverage import laws
from torch import Tensor, nn

from layergroups.anatomy import Flow, Op, Trace, find_head, trace
from layergroups.models import LoadedModel, load_model
from layergroups.models._cut import Assembled, assemble
from layergroups.models._depths import find_depths

SMALL = 4_000_000
SMALL_SIDE = 260
POOLINGS = ("mean", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "avg_pool2d", "clone")


@dataclass
class Verdict:
    """What the checks said of one architecture."""

    failed: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, check: str, problem: str) -> None:
        """Keep what a check found wrong, if anything."""
        if problem:
            self.failed[check] = problem


def check(name: str) -> Verdict:
    """Run all checks on an architecture, without weights and mostly without arithmetic."""
    loaded, where = build(name)
    verdict = Verdict()
    n_parameters = sum(p.numel() for p in loaded.model.parameters())
    example = torch.zeros(2, loaded.input.channels, *loaded.input.size)
    original = trace(loaded.model, example)
    flow = Flow(original)
    head = find_head(flow)
    made_headless = getattr(loaded.model, "num_classes", 1000) == 0
    verdict.note("head", "" if head.present or made_headless else head.reason)
    verdict.note("normalisation", normalisation(loaded))
    assembled = assemble(loaded, 10, size=loaded.input.size)
    groups = assembled.layer_groups()
    new = trace(assembled.model, assembled.example)
    verdict.note("cover", laws.cover(groups))
    verdict.note("order", laws.order(groups, new))
    verdict.note("groups", laws.enough(groups, 3))
    verdict.note("kept", kept(original, new, assembled, head.start))
    verdict.note("features", features(flow, Flow(new), assembled))
    if len(head.classifiers) == 1 and assembled.cut.removed:
        verdict.note("width", width(head.classifiers[0].in_features, assembled))
    verdict.note("freeze", laws.freezing(groups, assembled.model[1]))
    groups.unfreeze()
    assembled.model.train()
    out = assembled.model(torch.zeros_like(assembled.example, device=where))
    verdict.note("shape", "" if tuple(out.shape) == (2, 10) else f"gives {tuple(out.shape)}")
    verdict.note("backward", laws.backward(groups, out.sum(), laws.leading(new)))
    verdict.note("depths", depths(loaded, groups.names))
    small = n_parameters < SMALL and max(loaded.input.size) <= SMALL_SIDE
    if small:
        verdict.note("numbers", numbers(name))
    verdict.facts = {
        "parameters": n_parameters, "cut": assembled.cut.kind,
        "removed": " ".join(assembled.cut.removed),
        "features": assembled.features, "pooled": assembled.pooled, "groups": len(groups),
        "blocks": len(groups.anatomy.blocks), "source": groups.anatomy.source, "numbers": small,
        "unused": len(groups.anatomy.unused), "split": " | ".join(groups.reasons[1:-1]),
    }  # fmt: skip
    return verdict


def build(name: str) -> tuple[LoadedModel, str]:
    """The architecture on the meta device where it can be built there, otherwise on the CPU."""
    try:
        with torch.device("meta"):
            loaded = load_model(name, pretrained=False)
    except Exception:
        return load_model(name, pretrained=False), "cpu"
    if any(isinstance(m, nn.RNNBase) for m in loaded.model.modules()):
        return load_model(name, pretrained=False), "cpu"  # on meta each step would be an operation
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    if any(t.device.type != "meta" for t in tensors):
        loaded.model.to("meta")
    return loaded, "meta"


def normalisation(loaded: LoadedModel) -> str:
    """Size, mean and std are those that the library tells of the weights."""
    library, _, plain = loaded.name.partition(":")
    if library == "torchvision":
        from torchvision.models import get_model_weights

        preset = get_model_weights(plain).DEFAULT.transforms()
        told = (list(preset.mean), list(preset.std), preset.crop_size[0])
    else:
        config = loaded.model.pretrained_cfg
        told = (list(config["mean"]), list(config["std"]), config["input_size"][-1])
    ours = (list(loaded.input.mean), list(loaded.input.std), loaded.input.size[-1])
    return "" if ours == told else f"{ours}, its weights say {told}"


def depths(loaded: LoadedModel, names: tuple[str, ...]) -> str:
    """What is wrong with features of several depths, the default of `vision_learner`."""
    made = assemble(loaded, 10, size=loaded.input.size, depths=True, concat_pool=False, lin_ftrs=())
    now = made.layer_groups().names
    body = made.model[0]
    if not made.cut.depths:  # tokens that come from no grid are not maps: the output alone is read
        return "maps cannot be read" if find_depths(trace(body, made.example), body) else ""
    return "" if now == names else f"other layer groups: {now}"


def width(taken: int, assembled: Assembled) -> str:
    """The body gives as many features as the old classifier took, or as the first linear layer."""
    several = len(assembled.cut.removed) > 1
    same = taken == assembled.features or several
    return "" if same else f"{assembled.features} features, the classifier took {taken}"


def kept(original: Trace, new: Trace, assembled: Assembled, head_start: int) -> str:
    """Every parameter that the network used is used now, or is of the head and named as removed."""
    used = {n.removeprefix("0.") for n in new.first_use}
    gone = [n for n in original.first_use if n not in used]
    body = [n for n in gone if original.first_use[n] < head_start]
    if body:
        return f"taken out, but of the body: {laws.some(body)}"
    lost = [n for n in gone if not _named(n, assembled)]
    return f"bypassed: {laws.some(lost)}" if lost else ""


Signature = tuple[str, tuple[str, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]


def features(old: Flow, new: Flow, assembled: Assembled) -> str:
    """The body runs what led to the old classifier, on the same weights, in the same order."""
    head = find_head(old)
    starts = {c.time for c in head.classifiers}
    replaced = bool(assembled.cut.removed)
    finals = [op for op in old.trace.ops if op.time in starts and replaced]
    if finals:
        before = _signatures(old, _ancestors(old, [v for op in finals for v in op.reads]), "")
    else:
        before = _signatures(old, _ancestors(old, list(old.trace.outputs)), "")
    body = next(c for c in new.trace.calls if c.path == "0")
    born = {v: op.time for op in new.trace.ops for v in op.writes}
    later = new.between(body.end, new.trace.calls[0].end)
    given = [v for op in later for v in op.reads if born.get(v, body.end) < body.end]
    now = _signatures(new, _ancestors(new, given), "0.")
    if len(finals) > 1:  # what several classifiers take is put together in other ways
        before, now = ([s for s in signatures if s[1]] for signatures in (before, now))
    shorter = min(len(before), len(now))
    if before[:shorter] != now[:shorter]:
        at = next(i for i in range(shorter) if before[i] != now[i])
        return f"operation {at} of the body differs: {now[at][:3]}, was {before[at][:3]}"
    rest = before[shorter:] or now[shorter:]
    lost = [n for signature in rest for n in signature[1] if not _named(n, assembled)]
    if lost:
        return f"the features differ by {laws.some(lost)}"
    untaken = [s for s in before[shorter:] if s[0] not in POOLINGS]
    if untaken and not untaken[0][1]:  # not part of a named layer
        return f"the body stops before {untaken[0][0]}"
    after = [s[0] for s in now[shorter:]]
    harmless = {"add", "cat", "div", "mean", "clone", "mul", "stack", "sum"}
    odd = [n for n in after if n not in harmless]
    return f"the body goes on after the classifier: {', '.join(odd)}" if odd else ""


def _named(parameter: str, assembled: Assembled) -> bool:
    """Whether the cut names the parameter, or a module around it, as removed."""
    gone = assembled.cut.removed + assembled.cut.idle
    return any(parameter == path or parameter.startswith(f"{path}.") for path in gone)


def _ancestors(flow: Flow, values: list[int]) -> list[Op]:
    found: dict[int, Op] = {}
    todo = list(values)
    while todo:
        op = flow.producer(todo.pop())
        if op is not None and op.time not in found:
            found[op.time] = op
            todo.extend(op.reads)
    return [found[t] for t in sorted(found)]


def _signatures(flow: Flow, ops: list[Op], prefix: str) -> list[Signature]:
    return [
        (
            op.name,
            tuple(n.removeprefix(prefix) for n in op.parameters),
            op.weight_shape,
            tuple(flow.shape(v) for v in op.writes),
        )
        for op in ops
    ]


def numbers(name: str) -> str:
    """On real tensors the body's features, pooled, are what the old classifier received."""
    torch.manual_seed(0)
    loaded = load_model(name, pretrained=False)
    network = loaded.model.eval()
    example = torch.randn(2, loaded.input.channels, *loaded.input.size)
    head = find_head(Flow(trace(network, example)))
    if not head.present:
        with torch.no_grad():
            received = [network(example)]
            body = assemble(loaded, 10, size=loaded.input.size).model[0].eval()
            return _same(body(example), received)
    modules = {p: network.get_submodule(p) for p in {c.path for c in head.classifiers}}
    received: list[Tensor] = []
    # the first of the layers that are replaced together receives what the body must give
    handles = [m.register_forward_pre_hook(_keep(received)) for m in modules.values()]
    every: dict[str, Tensor] = {}
    handles += [
        m.register_forward_pre_hook(_keep_named(every, path))
        for path, m in network.named_modules() if path
    ]  # fmt: skip
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    assembled = assemble(loaded, 10, size=loaded.input.size)
    body = assembled.model[0].eval()
    with torch.no_grad():
        now = body(example)
    first = [p for p in every if p in assembled.cut.removed]
    wanted = [every[first[0]]] if first and len(modules) == 1 else received
    problem = _same(now, wanted)
    assembled.model.train()
    groups = assembled.layer_groups()
    groups.unfreeze()
    reached = laws.backward(
        groups,
        assembled.model(example).sum(),
        [n for b in groups.anatomy.blocks for n in b.parameters],
    )
    return problem or reached


def _keep(into: list[Tensor]) -> Any:
    return lambda module, args: into.append(args[0].clone())


def _keep_named(into: dict[str, Tensor], path: str) -> Any:
    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            into.setdefault(path, args[0].clone())

    return keep


def _same(now: Tensor, wanted: list[Tensor]) -> str:
    target = torch.stack([w.flatten(1) for w in wanted]).mean(0) if len(
        {w.flatten(1).shape for w in wanted}) == 1 else wanted[-1].flatten(1)  # fmt: skip
    best = float("inf")
    for pooled in _poolings(now, target):
        if pooled.shape == target.shape:
            scale = target.abs().max().clamp_min(1e-12)
            best = min(best, float((pooled - target).abs().max() / scale))
    return "" if best < 1e-4 else f"pooled features differ by {best:.2g}"


def _poolings(features: Tensor, target: Tensor) -> Iterator[Tensor]:
    yield features.flatten(1)
    if features.ndim == 4:
        yield features.mean((2, 3))
        per = target.shape[1] / features.shape[1]
        side = round(per**0.5)
        if side * side == per and side > 1:
            yield nn.functional.adaptive_avg_pool2d(features, side).flatten(1)
