"""The order of registration as a trace: what is left where a model cannot be run at all.

Each module that holds parameters counts as one operation on what the one before it gave, in the
order in which the constructor wrote them. Nothing is known of sizes, skips or repeated calls.
"""

from __future__ import annotations

from torch import nn

from layergroups.anatomy.trace import ACTIVATION, INPUT, Call, Op, Trace, Value

_UNRUNNABLE = ("CUDA", "cuda", "backend", "triton", "driver", "custom op")


def cannot_run(error: BaseException | None) -> bool:
    """True where a run failed for want of a kernel or a device, not for a wrong input."""
    while error is not None:
        if isinstance(error, (NotImplementedError, ImportError)):
            return True
        if any(word in str(error) for word in _UNRUNNABLE):
            return True
        error = error.__cause__
    return False


def registration_trace(model: nn.Module) -> Trace:
    """A trace that pretends that all modules run one after the other, as they are registered."""
    walk = _Walk()
    walk.visit(model, "")
    return Trace(
        ops=tuple(walk.ops),
        calls=tuple(sorted(walk.calls, key=lambda c: c.start)),
        values=tuple(walk.values),
        outputs=(len(walk.values) - 1,),
        returned=(),
        first_use=walk.first_use,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        source="registration order",
    )


class _Walk:
    def __init__(self) -> None:
        self.clock = 0
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.values = [Value((2,), INPUT, -1)]
        self.first_use: dict[str, int] = {}
        self._seen: set[int] = set()
        self._inside: list[str] = []

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def visit(self, module: nn.Module, path: str) -> None:
        """Go through a module: first its own parameters, then its children."""
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        start = self._tick()
        self._inside.append(path)
        own = [(f"{path}.{n}".lstrip("."), p) for n, p in module.named_parameters(recurse=False)]
        new = {name: p for name, p in own if id(p) not in self._seen}
        self._seen.update(id(p) for p in new.values())
        if new:
            self._operate(module, new)
        for name, child in module.named_children():
            self.visit(child, f"{path}.{name}".lstrip("."))
        self._inside.pop()
        self.calls.append(Call(path, start, self._tick(), self.values[-1].shape))

    def _operate(self, module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        time = self._tick()
        weight = next((tuple(p.shape) for p in parameters.values() if p.ndim >= 2), ())
        width = weight[0] if weight else self.values[-1].shape[-1]
        shape = (2, width) if isinstance(module, nn.Linear) else (2, width, 2, 2)
        self.values.append(Value(shape, ACTIVATION, len(self.ops)))
        last = len(self.values) - 1
        self.ops.append(
            Op(
                name=type(module).__name__.lower(),
                time=time,
                inside=tuple(self._inside),
                reads=(last - 1,),
                read_shapes=(self.values[last - 1].shape,),
                writes=(last,),
                parameters=tuple(parameters),
                contraction=bool(weight) and not any(module.children()),
                weight_shape=weight,
                flops=0,
            )
        )
        for name in parameters:
            self.first_use[name] = time
