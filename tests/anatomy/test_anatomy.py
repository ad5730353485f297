"""What anatomy says of well-known networks, and why."""

from __future__ import annotations

import pytest
import timm
import torch
from tests.anatomy.covered import anatomy_of, check_laws, small
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from layergroups.anatomy import read_anatomy
from layergroups.anatomy._anatomy import _may_checkpoint as may_checkpoint


def test_prints_and_turns_into_json() -> None:
    import json

    anatomy = anatomy_of("resnet18")
    assert "layer3.0" in str(anatomy)
    assert json.loads(json.dumps(anatomy.to_dict()))["blocks"][9]["name"] == "fc"


def test_wrappers_are_looked_through() -> None:
    model = small()
    plain = read_anatomy(model).to_dict()
    assert read_anatomy(torch.compile(model)).to_dict() == plain
    assert read_anatomy(nn.DataParallel(model)).to_dict() == plain


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_a_distributed_model_is_looked_through() -> None:
    model = small()
    plain = read_anatomy(model).to_dict()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert read_anatomy(wrapped).to_dict() == plain
    finally:
        torch.distributed.destroy_process_group()


def test_parametrized_weights_are_seen_through() -> None:
    model = small()
    model[4] = weight_norm(model[4])
    anatomy = check_laws(model)
    assert [(c.path, c.in_features) for c in anatomy.classifiers] == [("4", 8)]
    assert {n for b in anatomy.head for n in b.parameters} == {
        "4.bias", "4.parametrizations.weight.original0", "4.parametrizations.weight.original1",
    }  # fmt: skip


def test_a_switch_that_turns_checkpointing_on_is_no_checkpointing() -> None:
    class Stage(nn.Linear):
        use_it = False

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x) if self.use_it else super().forward(x)

    class Switch(nn.Sequential):
        def set_grad_checkpointing(self) -> None:
            for stage in self:
                stage.grad_checkpointing = True

    assert may_checkpoint(nn.Sequential(Stage(3, 3)))
    assert not may_checkpoint(Switch(nn.Linear(3, 3)))
    assert not may_checkpoint(timm.create_model("convnextv2_atto"))
