"""Where a frozen part ends is found by trial, for any build; the rest runs on what it gave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layergroups.models import DepthFeatures
from layergroups.models._feature_maps import FeatureMap
from layergroups.training.feature_cache._feature_cut import (
    Call,
    NoCutError,
    TensorSpec,
    find_cut,
    foreign_hooks,
    run_frozen_part,
    run_rest,
)


class Branches(nn.Module):
    """Two frozen layers of three reach the head, which also takes the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.head = nn.Linear(5, 3)
        for frozen in (self.stem, self.left, self.right):
            frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        made = self.stem(x)
        both = torch.cat([self.left(made), self.right(made)], 1)
        outputs: Tensor = self.head(both) * len(x)
        return outputs


FROZEN = ["stem", "left", "right"]


def test_all_values_that_the_rest_reads_are_needed_and_no_others() -> None:
    model, x = Branches(), torch.randn(8, 4)
    cut = find_cut(model, FROZEN, x)
    assert cut.needed == (Call("left", 0), Call("right", 0))
    assert [tensor.shape for tensor in cut.tensors] == [(3,), (2,)]
    (values,) = run_frozen_part(model, [cut], x)
    torch.testing.assert_close(run_rest(model, cut, values), model(x))
    assert not any("forward" in vars(module) for module in model.modules())


def test_statistics_of_frozen_maps_are_needed_and_not_the_maps() -> None:
    body = nn.Sequential(*[nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(4)])
    maps = tuple(FeatureMap(str(i), 2 ** (i + 1), 3) for i in range(3))
    model = nn.Sequential(DepthFeatures(body, maps), nn.Linear(3 + 3 * 6, 2))
    frozen = ["0.body.0", "0.body.1"]
    for path in frozen:
        model.get_submodule(path).requires_grad_(False)
    x = torch.randn(4, 3, 32, 32)
    cut = find_cut(model, frozen, x)
    assert sorted(tensor.shape for tensor in cut.tensors) == [(3, 8, 8), (6,), (6,)]
    (values,) = run_frozen_part(model, [cut], x)
    torch.testing.assert_close(run_rest(model, cut, values), model(x))


def test_the_rest_of_the_frozen_layers_does_not_run() -> None:
    model, x = Branches(), torch.randn(8, 4)
    cut = find_cut(model, FROZEN, x)
    (values,) = run_frozen_part(model, [cut], x)
    model.stem.weight.fill_(float("nan"))
    assert run_rest(model, cut, values).isfinite().all()


def test_one_pass_gives_the_values_at_several_cuts() -> None:
    model, x = Branches(), torch.randn(8, 4)
    cuts = [find_cut(model, FROZEN, x), find_cut(model, ["stem"], x)]
    late, early = run_frozen_part(model, cuts, x)
    assert [value.shape for value in late] == [(8, 3), (8, 2)]
    torch.testing.assert_close(early[0], model.stem(x))


def test_what_has_no_row_for_each_item_cannot_be_cached() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(0, keepdim=True)

    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), Mean(), nn.Linear(4, 2))
    with pytest.raises(NoCutError, match="no row for each item"):
        find_cut(model, ["0", "1"], torch.randn(8, 4))


def test_a_frozen_layer_behind_one_that_trains_has_no_constant_values() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2).requires_grad_(False))
    with pytest.raises(NoCutError, match="still train"):
        find_cut(model, ["1"], torch.randn(8, 4))


def test_a_model_that_calls_its_layers_differently_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.times = nn.Linear(4, 4), nn.Linear(4, 2), 1
            self.body.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.body(x)
            outputs: Tensor = self.head(x)
            return outputs

    model, x = Twice(), torch.randn(8, 4)
    cut = find_cut(model, ["body"], x)
    (values,) = run_frozen_part(model, [cut], x)
    model.times = 2
    with pytest.raises(NoCutError, match="more often"):
        run_rest(model, cut, values)
    model.times = 0
    with pytest.raises(NoCutError, match="less often"):
        run_rest(model, cut, values)


def test_hooks_of_others_are_named() -> None:
    model = Branches()
    cut = find_cut(model, FROZEN, torch.randn(8, 4))
    assert foreign_hooks(model, cut) == ""
    model.right.register_forward_hook(lambda *_: None)
    assert foreign_hooks(model, cut) == "right"


def test_the_layout_of_maps_is_part_of_their_spec() -> None:
    maps = torch.randn(3, 4, 5, 5)
    assert not TensorSpec.of(maps, 3).channels_last
    assert TensorSpec.of(maps.to(memory_format=torch.channels_last), 3).channels_last
