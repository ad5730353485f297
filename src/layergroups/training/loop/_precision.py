"""Device, precision and backward, all through accelerate; nothing here wraps the model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from layergroups._torch import each_module
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(mixed_precision: str | None, **options: Any) -> Accelerator:
    """An Accelerator of this precision, also after another one was made in this process.

    Accelerate keeps its precision in one place for the whole process; two learners of different
    precision would else be an error, or worse, silently share one.

    Args:
        mixed_precision: "no", "bf16", "fp16", or None for what `accelerate launch` has set.
        options: others of an Accelerator.

    Raises:
        TrainingError: the precision is unknown or this machine cannot do it.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    wanted = precision_name(mixed_precision)
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        AcceleratorState._reset_state()
    try:
        made = Accelerator(mixed_precision=wanted, cpu=_is_cpu_job(), **options)
    except (ValueError, ImportError) as cause:
        raise TrainingError(
            f'mixed_precision="{wanted}" does not work here: {cause}. Use "no", "bf16" or "fp16".'
        ) from cause
    made.gradient_accumulation_steps = 1  # the loop does this itself
    return made


def _is_cpu_job() -> bool:
    """Whether a launcher started several processes on a machine without accelerator.

    Accelerate takes them for strangers to each other unless it is told.
    """
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return launched and not torch.accelerator.is_available()


def precision_name(mixed_precision: str | None) -> str:
    """The precision as accelerate calls it; None means its environment variable, else "no"."""
    return mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def launched_accumulation(accumulate: int | None) -> int:
    """Batches for each optimizer step; None means accelerate's environment variable, else 1.

    Raises:
        TrainingError: it is not a whole number from 1.
    """
    wanted = accumulate
    if wanted is None:
        wanted = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise TrainingError(f"accumulate={wanted!r} must be a whole number of batches, 1 or more.")
    return wanted


def to_device(batch: object, device: torch.device) -> object:
    """A batch of tensors, in any nesting of lists, tuples and dicts, on the device."""
    if device.type == "cpu" and type(batch) in (tuple, list):
        pair: Any = batch
        if all(isinstance(part, torch.Tensor) and part.is_cpu for part in pair):
            return batch
    from accelerate.utils import send_to_device

    moved: object = send_to_device(batch, device, non_blocking=device.type == "cuda")
    return moved


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, on the device; parameters stay the same objects. Quick where nothing moves."""
    on_cpu = device.type == "cpu"
    for module in each_module(model):
        for own in (module._parameters, module._buffers):
            for tensor in own.values():
                if tensor is None or (on_cpu and tensor.is_cpu):
                    continue  # quicker to ask than device
                if not _is_on(tensor, device):
                    return model.to(device)
    return model


def _is_on(tensor: torch.Tensor, device: torch.device) -> bool:
    """Whether a tensor is on a device; "cuda" without a number means any."""
    own = tensor.device
    return own.type == device.type and (own.type == "cpu" or device.index in (None, own.index))


def autocast(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Computing in the precision that was asked for; nothing to enter where it is the full one."""
    if accelerator.native_amp:
        mixed: AbstractContextManager[Any] = accelerator.autocast()
        return mixed
    return nullcontext()


def backward(accelerator: Accelerator, loss: torch.Tensor) -> None:
    """Gradients of the loss, scaled in fp16."""
    if accelerator.scaler is None:
        loss.backward()
    else:
        accelerator.backward(loss)


def checked_clip(clip: float | None) -> float | None:
    """The greatest gradient norm; None does not clip.

    Raises:
        TrainingError: it is not a number above 0.
    """
    number = isinstance(clip, (int, float)) and not isinstance(clip, bool)
    if clip is None or (number and 0 < clip < float("inf")):
        return clip
    raise TrainingError(
        f"clip={clip!r} must be the greatest norm of the gradients, a number above 0 such as 1.0, "
        "or None."
    )


def optimizer_step(
    accelerator: Accelerator, optimizer: Optimizer, clip: float | None = None
) -> None:
    """Move the weights, through the gradient scaler in fp16; Ctrl-C waits until all have moved.

    Args:
        accelerator: has the scaler, if there is one.
        optimizer: whose parameters have their gradients, summed over batches and processes.
        clip: the greatest norm of all gradients together, of all layer groups.
    """
    with uninterrupted():
        scaler = accelerator.scaler
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(_with_gradients(optimizer), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def _with_gradients(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


class _Interrupts:
    """Holds back Ctrl-C at a flag while it is the handler of it; setting a handler takes 10 µs."""

    def __init__(self, before: Callable[[int, FrameType | None], object]) -> None:
        self.before = before
        self.holding = False
        self._received: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.holding:
            self._received = (number, frame)
        else:
            self.before(number, frame)

    def release(self) -> None:
        """Let through what was held back, and what comes."""
        received, self.holding, self._received = self._received, False, None
        if received is not None:
            self.before(*received)


@contextmanager
def interrupts() -> Iterator[None]:
    """For a whole fit, so that the many `uninterrupted` moments in it are quick."""
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(before) or isinstance(before, _Interrupts):
        yield
        return
    own = _Interrupts(before)
    signal.signal(signal.SIGINT, own)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is own:  # else somebody has set another meanwhile
            signal.signal(signal.SIGINT, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C for a moment; it is raised on leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Interrupts):
        with interrupts():
            handler = signal.getsignal(signal.SIGINT)
            yield from _held(handler)
        return
    yield from _held(handler)


def _held(handler: object) -> Iterator[None]:
    if not isinstance(handler, _Interrupts) or handler.holding:
        yield
        return
    handler.holding = True
    try:
        yield
    finally:
        handler.release()
