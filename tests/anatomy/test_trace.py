"""What a run of a model shows, and what is done where it cannot run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from tests.anatomy.covered import check_laws
from torch import Tensor, nn

from layergroups.anatomy import Trace, _trace, read_anatomy, trace
from layergroups.anatomy._trace import training_trace
from layergroups.errors import AnatomyError, ExampleInputError, LazyModuleError


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_recurrent_layer_is_not_run_step_by_step(kind: Any, batch_first: bool) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(8, 16, 2, bidirectional=True, batch_first=batch_first)
            self.fc = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer(x)[0].view(*x.shape[:2], 32).mean(1 if batch_first else 0))

    shape = (2, 400, 8) if batch_first else (400, 2, 8)
    found = trace(Reader(), torch.zeros(shape))
    assert len(found.ops) < 200
    assert found.source == "fake run"
    assert sum(op.adds_depth for op in found.ops if "fc.weight" not in op.parameters) == 4


def test_lazy_layers_are_refused_and_left_lazy() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(LazyModuleError, match="Run it once on a real batch first"):
        read_anatomy(model, torch.zeros(2, 3, 8, 8))
    assert isinstance(model[0], nn.LazyConv2d)
    model(torch.zeros(2, 3, 8, 8))
    check_laws(model, torch.zeros(2, 3, 8, 8))


class Stubborn(nn.Module):
    """Branches on a value, so that no fake run comes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).mean((2, 3))
        return self.second(x * 2 if x.sum() > 0 else x)


def test_control_flow_on_values_falls_back_to_a_real_run() -> None:
    anatomy = check_laws(Stubborn())
    assert anatomy.source == "real run"
    assert [c.path for c in anatomy.classifiers] == ["second"]


class NeedsDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
        self.scale = nn.Parameter(torch.ones(8))
        self.answer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("this kernel has no CPU version")


def test_what_cannot_run_here_is_taken_in_the_order_of_registration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    anatomy = check_laws(NeedsDevice())
    assert anatomy.source == "registration order"
    assert "order of registration" in caplog.text
    assert [c.path for c in anatomy.classifiers] == ["answer"]
    assert [n for b in anatomy.head for n in b.parameters] == ["answer.weight", "answer.bias"]


def test_lazy_modules_are_refused_and_left_alone() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(LazyModuleError, match="Run it once on a real batch first"):
        read_anatomy(model, torch.zeros(2, 3, 8, 8))
    assert isinstance(model[0].weight, nn.UninitializedParameter)


class Raising(nn.Module):
    """Raises as it is told to."""

    def __init__(self, error: Exception, cause: Exception | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.error, self.cause = error, cause

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error from self.cause


WORDS = "CUDA backend: the image driver of cuda:0 gives a torch.cuda.HalfTensor, triton custom op"


@pytest.mark.parametrize("error", [ValueError(WORDS), RuntimeError(WORDS), TypeError(WORDS)])
def test_a_mistake_is_not_taken_for_a_missing_kernel_by_its_words(error: Exception) -> None:
    with pytest.raises(AnatomyError) as given:
        read_anatomy(Raising(error), torch.zeros(2, 3, 8, 8))
    assert given.value.__cause__ is error
    with pytest.raises(ExampleInputError) as guessed:
        read_anatomy(Raising(error))
    assert guessed.value.__cause__ is not None
    assert guessed.value.__cause__.__cause__ is error


@pytest.mark.parametrize("error", [NotImplementedError("no kernel"), ImportError("no module")])
def test_a_missing_kernel_is_known_by_the_type_of_the_error(error: Exception) -> None:
    assert read_anatomy(Raising(error)).source == "registration order"
    assert read_anatomy(Raising(RuntimeError("?"), error)).source == "registration order"
    with pytest.raises(AnatomyError) as given:  # who gives an input is told why it does not run
        read_anatomy(Raising(error), torch.zeros(2, 3, 8, 8))
    assert given.value.__cause__ is error


@pytest.mark.parametrize("look", [trace, training_trace])
def test_a_batch_norm_leaves_the_trace_that_torch_would(
    look: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torchvision.models.resnet18()
    quick = look(model, torch.zeros(2, 3, 64, 64))
    assert sum(op.name == "native_batch_norm" for op in quick.ops) == 20
    monkeypatch.setattr(_trace, "_BATCH_NORM", None)
    assert look(model, torch.zeros(2, 3, 64, 64)) == quick


# One process has nothing to shard, and torch says so.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_packed_parameters_are_refused_before_anything_is_run() -> None:
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        model = FullyShardedDataParallel(inner, device_id=torch.device("cpu"))
        before = model(torch.ones(2, 8))
        with pytest.raises(AnatomyError, match="fully_shard"):
            read_anatomy(model, torch.zeros(2, 8))
        assert torch.equal(model(torch.ones(2, 8)), before)
    finally:
        distributed.destroy_process_group()
