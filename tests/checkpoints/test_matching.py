"""Which tensors of two models belong together."""

from __future__ import annotations

import copy

import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.models import TiedLanguageModel, TinyResNet, TinyTransformer, image
from torch import Tensor, nn

from layergroups import transplant
from layergroups.checkpoints import TensorReport
from layergroups.models import create_body, create_head, grow_head


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(state(one).values(), state(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def names(reports: tuple[TensorReport, ...]) -> set[str]:
    return {graft.name for graft in reports}


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    norms=st.booleans(),
    wrapped=st.integers(0, 2),
)
def test_identical_models_also_below_other_paths(
    widths: list[int], norms: bool, wrapped: int
) -> None:
    layers: list[nn.Module] = []
    for n_in, n_out in zip([4, *widths], widths, strict=False):
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if norms else []), nn.ReLU()]
    source = nn.Sequential(*layers)
    inner = target = copy.deepcopy(source)
    for parameter in inner.parameters():
        nn.init.normal_(parameter)
    for _ in range(wrapped):
        target = nn.Sequential(target)
    if wrapped > 1 and len(list(source.parameters())) == 2:
        return  # a single layer two steps deeper says too little
    done = transplant(source, target)
    assert same(source, inner)
    assert len(done.carried) == len(source.state_dict())
    assert transplant(target, source).left == ()


def test_a_body_at_another_path_is_found_in_both_directions() -> None:
    whole = torchvision.models.resnet18(weights=None)
    body = create_body(torchvision.models.resnet18(weights=None))
    parts = nn.Sequential(body, create_head(512, 3))
    done = transplant(whole, parts)
    assert names(done.left) == {"fc.weight", "fc.bias"}
    assert all(name.startswith("1.") for name in names(done.not_filled))
    assert {g.reason for g in done.carried} == {"moved: the root → 0"}
    assert torch.equal(parts[0].layer4[1].bn2.running_var, whole.layer4[1].bn2.running_var)
    nn.init.zeros_(parts[0].conv1.weight)
    back = transplant(parts, whole)
    assert len(back.carried) == len(done.carried)
    assert not whole.conv1.weight.any()


def test_models_of_two_libraries() -> None:
    done = transplant(torchvision.models.resnet18(weights=None), timm.create_model("resnet18"))
    assert (len(done.carried), len(done.left), len(done.not_filled)) == (122, 0, 0)


def test_a_layer_goes_as_a_whole_or_stays() -> None:
    source, target = (nn.Sequential(nn.Linear(4, n), nn.BatchNorm1d(n)) for n in (5, 6))
    source.append(nn.Linear(5, 2))
    target.append(nn.Linear(6, 2))  # its bias has the same shape
    source.append(nn.Linear(2, 2))
    target.append(nn.Linear(2, 2))
    source[1].num_batches_tracked += 7
    done = transplant(source, target)
    assert names(done.carried) == {"3.weight", "3.bias"}
    assert target[1].num_batches_tracked == 0
    reasons = {g.name: g.reason for g in done.left}
    assert reasons["0.weight"] == (
        "shape (5, 4), in the target (6, 4); rows go by name with classes="
    )
    assert reasons["2.bias"] == "its layer differs from that of the target"


def test_bare_parameters_of_a_container_go_one_by_one() -> None:
    source, target = TinyTransformer(), TinyTransformer()
    target.pos_embed = nn.Parameter(torch.zeros(1, 5, 16))
    nn.init.normal_(source.cls_token)
    done = transplant(source, target)
    assert torch.equal(source.cls_token, target.cls_token)
    assert names(done.left) == names(done.not_filled) == {"pos_embed"}


def test_a_wrapped_layer_is_found_and_a_grown_head() -> None:
    source, target = TinyResNet(), TinyResNet()
    grow_head(target, 5, example_input=image())
    done = transplant(source, target)
    assert torch.equal(source.fc.weight, target.fc[0].weight)
    assert names(done.not_filled) == {"fc.1.weight", "fc.1.bias"}
    assert {g.reason for g in done.carried} == {"same name", "wrapped: now at .0"}
    shrunk = TinyResNet()
    assert "unwrapped: was at .0" in {g.reason for g in transplant(target, shrunk).carried}
    assert torch.equal(source.fc.weight, shrunk.fc.weight)


def test_tied_weights_are_filled_once() -> None:
    source, target = TiedLanguageModel(), TiedLanguageModel()
    source.head.weight = nn.Parameter(torch.randn(11, 8))  # not tied any more
    done = transplant(source, target)
    assert target.head.weight is target.embedding.weight
    assert torch.equal(target.head.weight, source.head.weight)
    (left,) = done.left
    assert left.name == "embedding.weight"
    assert "ties it to head.weight" in left.reason
    untied = TiedLanguageModel()
    untied.head.weight = nn.Parameter(torch.randn(11, 8))
    transplant(target, untied)
    assert torch.equal(untied.head.weight, untied.embedding.weight)
