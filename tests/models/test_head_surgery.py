"""New classifiers, more outputs, fewer or others in order; and groups that follow."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.models import TiedLanguageModel, TinyResNet, TinyTransformer, image
from tests.models.pictures import assert_same_picture, picture
from torch import Tensor, nn

from layergroups import LayerGroups, read_anatomy
from layergroups.errors import ModelError
from layergroups.models import (
    ConcatLinear,
    TargetUnits,
    create_body,
    create_head,
    grow_head,
    replace_head,
    shrink_head,
)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("resnet18", ("fc",)),
        ("squeezenet1_1", ("classifier.1",)),
        ("vgg11", ("classifier.6",)),
    ],
)
def test_the_classifier_is_found_and_exchanged(name: str, paths: tuple[str, ...]) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    assert replace_head(model, 7) == paths
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_groups_and_optimizer_follow() -> None:
    model = timm.create_model("test_resnet")
    groups = LayerGroups(model)
    optimizer = torch.optim.SGD(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    groups.freeze()
    (path,) = replace_head(model, 3)
    new = model.get_submodule(path)
    change = groups.sync()
    assert change is not None
    assert {group for _, group in change.added} == {"head"}
    assert any(p is new.weight for g in optimizer.param_groups for p in g["params"])
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{path}.weight", f"{path}.bias",
    }  # fmt: skip


def test_two_heads_are_both_exchanged_of_the_same_type() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.a = nn.Linear(4, 5, bias=False)
            self.b = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return self.a(x), self.b(x)

    model = TwoHeads().to(torch.float64)
    assert replace_head(model, 2, example_input=torch.zeros(2, 3, 8, 8)) == ("a", "b")
    assert (model.a.out_features, model.b.out_features) == (2, 2)
    assert model.a.bias is None
    assert model.b.weight.dtype == torch.float64


def test_a_tied_classifier_is_exchanged_and_the_embedding_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = TiedLanguageModel()
    tokens = torch.ones(2, 5, dtype=torch.long)
    embedding = model.embedding.weight
    assert replace_head(model, 3, example_input=tokens) == ("head",)
    assert model.embedding.weight is embedding
    assert model(tokens).shape == (2, 5, 3)


def test_a_network_without_a_classifier_says_so() -> None:
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    with pytest.raises(ModelError, match="no classifier to replace"):
        replace_head(network, 3)


def test_a_head_gives_at_least_one_number() -> None:
    with pytest.raises(ModelError, match="at least 1"):
        replace_head(nn.Linear(2, 2), 0)


@pytest.mark.slow
def test_models_of_transformers() -> None:
    import transformers

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        vocab_size=100, num_labels=2,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    assert replace_head(model, 5) == ("classifier",)
    ids = torch.ones(2, 8, dtype=torch.long)
    out = model(input_ids=ids, labels=torch.tensor([4, 0]))
    assert out.logits.shape == (2, 5)
    assert torch.isfinite(out.loss)


def answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


@settings(max_examples=25, deadline=None)
@given(
    features=st.integers(1, 70),
    old=st.integers(1, 40),
    more=st.integers(1, 40),
    batch=st.integers(1, 17),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    bias=st.booleans(),
    convolution=st.booleans(),
)
def test_the_old_outputs_of_a_grown_head_are_bit_identical(
    features: int,
    old: int,
    more: int,
    batch: int,
    dtype: torch.dtype,
    bias: bool,
    convolution: bool,
) -> None:
    classifier = (
        nn.Conv2d(features, old, 1, bias=bias)
        if convolution
        else nn.Linear(features, old, bias=bias)
    )
    model = nn.Sequential(nn.Conv2d(3, features, 3, padding=1), nn.ReLU(), classifier).to(dtype)
    if not convolution:
        model.insert(2, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    x = torch.randn(batch, 3, 4, 4, dtype=dtype)
    before = answers(model, x)
    grow_head(model, old + more, example_input=x)
    after = answers(model, x)
    assert after.shape[1] == old + more
    assert torch.equal(after[:, :old], before)
    assert after.dtype == dtype
    assert sum(p.ndim == 1 for p in model[-1].parameters()) == (2 if bias else 0)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), classes=st.integers(1, 9))
def test_growing_again_and_again_then_shrinking_gives_each_step_back(
    sizes: list[int], classes: int
) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, classes))
    x = torch.randn(3, 5)
    layer, steps = model[2], [(classes, answers(model, x))]
    for size in sizes:
        grow_head(model, steps[-1][0] + size)
        steps.append((steps[-1][0] + size, answers(model, x)))
    for n, before in steps[-2::-1]:
        shrink_head(model, n)
        assert torch.equal(answers(model, x), before)
    assert model[2] is layer


@settings(max_examples=25, deadline=None)
@given(data=st.data(), parts=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_the_kept_outputs_have_the_weights_that_they_had(data: Any, parts: list[int]) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, parts[0]))
    for end in range(1, len(parts)):
        grow_head(model, sum(parts[: end + 1]))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)][1:]
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    keep = data.draw(st.permutations(range(sum(parts))).flatmap(lambda p: st.just(p[: 1 + p[0]])))
    x = torch.randn(4, 5)
    before = answers(model, x)
    shrink_head(model, keep)
    now = [m for m in model.modules() if isinstance(m, nn.Linear)][1:]
    assert torch.equal(torch.cat([layer.weight for layer in now]), weight[keep])
    assert torch.equal(torch.cat([layer.bias for layer in now]), bias[keep])
    torch.testing.assert_close(answers(model, x), before[:, keep])


def test_old_parameters_stay_and_keep_their_optimizer_state_new_ones_join_the_head() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    optimizer = torch.optim.AdamW(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    weight = model.fc.weight
    model(image()).sum().backward()
    optimizer.step()
    memory = optimizer.state[weight]["exp_avg"].clone()
    assert grow_head(model, 5, example_input=image()) == ("fc",)
    change = groups.sync()
    assert change is not None
    assert dict(change.added) == {"fc.1.weight": "head", "fc.1.bias": "head"}
    assert ("fc.weight", "fc.0.weight") in change.renamed
    assert model.fc[0].weight is weight
    assert torch.equal(optimizer.state[weight]["exp_avg"], memory)
    before = model.fc[1].weight.detach().clone()
    model(image()).sum().backward()
    optimizer.step()
    assert not torch.equal(model.fc[1].weight, before)
    assert {c.path for c in read_anatomy(model, image()).classifiers} == {"fc.0", "fc.1"}


def test_a_grown_head_is_one_for_all_that_follows() -> None:
    model = TinyTransformer()
    grow_head(model, 5, example_input=image())
    assert isinstance(model.head, ConcatLinear)
    assert (model.head.in_features, model.head.out_features) == (16, 5)
    assert replace_head(model, 4, example_input=image()) == ("head",)
    assert type(model.head) is nn.Linear
    assert answers(model, image()).shape == (2, 4)


def test_a_grown_classifier_is_taken_out_as_one_when_a_body_is_cut() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    grow_head(model, 5)
    assert create_body(model)(torch.zeros(2, 3, 160, 160)).shape == (2, 64)


def test_a_tied_classifier_stays_tied_when_it_grows_and_says_so_when_it_is_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = TiedLanguageModel()
    tokens = torch.ones(2, 5, dtype=torch.long)
    before = answers(model, tokens)
    assert grow_head(model, 13, example_input=tokens) == ("head",)
    assert model.head[0].weight is model.embedding.weight
    assert torch.equal(answers(model, tokens)[..., :11], before)
    assert not caplog.records
    shrink_head(model, [12, 0], example_input=tokens)
    assert "head was tied to embedding.weight" in caplog.text
    torch.testing.assert_close(answers(model, tokens)[..., 1], before[..., 0])


def test_frozen_stays_frozen_and_nothing_is_drawn_when_outputs_are_chosen() -> None:
    model = TinyResNet().double()
    model.fc.requires_grad_(False)
    x, state = image(), torch.get_rng_state()
    shrink_head(model, [2, 0], example_input=x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.fc.weight.requires_grad
    assert model.fc.weight.dtype == torch.float64


class UsesWeight(nn.Module):
    """Takes the weight out of its classifier and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(x).relu(), self.fc.weight, self.fc.bias)


class Cosine(nn.Linear):
    """A classifier by angles."""

    def forward(self, x: Tensor) -> Tensor:
        normalize = nn.functional.normalize
        return nn.functional.linear(normalize(x), 9 * self.weight.softmax(0))


def test_a_head_that_is_not_called_cannot_grow_and_stays_as_it_was() -> None:
    model = UsesWeight()
    layer = model.fc
    with pytest.raises(ModelError, match="without calling"):
        grow_head(model, 5)
    assert model.fc is layer
    shrink_head(model, [1])
    assert model(torch.zeros(2, 4)).shape == (2, 1)


def test_only_rows_of_a_weight_can_be_chosen() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Cosine(6, 3, bias=False))
    with pytest.raises(ModelError, match="not rows"):
        shrink_head(model, 2)


class Strict:
    """A config that refuses a number of classes."""

    def __init__(self) -> None:
        self._labels = 3

    @property
    def num_labels(self) -> int:
        return self._labels

    @num_labels.setter
    def num_labels(self, n: int) -> None:
        self._labels = n
        raise ValueError(f"{n} labels are not supported")


class Refuses(nn.Module):
    """Two classifiers, one of them deep inside; the config refuses another number of classes."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config, self.num_labels = config, 3
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 3), "b": nn.Linear(8, 3)})
        self.units = TargetUnits([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3)).tanh()
        return self.units(self.heads["a"](x) + self.heads["b"](x))


class Counts(nn.Module):
    """It counts on three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).mean((2, 3)).tanh() + 1).view(len(x), 3)


SURGERIES = {
    "replace": lambda m: replace_head(m, 5, example_input=image()),
    "grow": lambda m: grow_head(m, 5, example_input=image()),
    "shrink": lambda m: shrink_head(m, [2, 0], example_input=image()),
}


@pytest.mark.parametrize("make", [lambda: Refuses(Strict()), Counts])
@pytest.mark.parametrize("kind", SURGERIES)
def test_a_failed_surgery_leaves_the_model_as_it_was(kind: str, make: Any) -> None:
    model = make().eval()
    model.stem.weight.requires_grad_(False)
    x = image()
    before = picture(model, x)
    with pytest.raises((ModelError, ValueError)):
        SURGERIES[kind](model)
    assert_same_picture(picture(model, x), before)
    assert getattr(model, "num_labels", 3) == 3
    if isinstance(model, Refuses):
        assert model.config.num_labels == 3
        model.config = None
        SURGERIES[kind](model)
        assert model(image()).shape == (2, {"shrink": 2}.get(kind, 5))


@pytest.mark.parametrize("n", [1, 3, 0, True])
def test_growing_means_more_outputs(n: Any) -> None:
    with pytest.raises(ModelError, match=r"already has|at least 1"):
        grow_head(TinyResNet(), n, example_input=image())


@pytest.mark.parametrize("keep", [0, 3, -1, [], [0, 0], [3], [-1], [True], "01", None, 1.5])
def test_what_to_keep_must_fit(keep: Any) -> None:
    model = TinyResNet()
    layer = model.fc
    with pytest.raises(ModelError, match="shrink_head"):
        shrink_head(model, keep, example_input=image())
    assert model.fc is layer


def test_a_norm_of_the_outputs_is_named_where_a_head_cannot_grow() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), create_head(8, 3, bn_final=True))
    with pytest.raises(ModelError, match=r"1\.9"):
        grow_head(model, 5)


def test_models_of_timm_know_their_new_number_of_classes() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    grow_head(model, 5)
    assert model.num_classes == 5
    shrink_head(model, [4, 0])
    assert model.num_classes == 2


@pytest.mark.slow
def test_models_of_transformers_keep_the_names_of_their_old_classes() -> None:
    import transformers

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=100, id2label={0: "a", 1: "b"},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    before = model(input_ids=ids).logits
    grow_head(model, 3)
    out = model(input_ids=ids, labels=torch.tensor([2, 0]))
    assert torch.equal(out.logits[:, :2], before)
    assert torch.isfinite(out.loss)
    assert model.config.id2label == {0: "a", 1: "b", 2: "LABEL_2"}
    shrink_head(model, [2, 1])
    assert model.config.id2label == {0: "LABEL_2", 1: "b"}
    assert model.num_labels == model.config.num_labels == 2


class Fixed(dict[str, int]):
    """A config that nobody may change, as that of diffusers."""

    def update(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("not to be changed")

    clear = pop = update  # type: ignore[assignment] # they refuse as well


class GivesLoss(nn.Module):
    """Computes its loss from the tokens that come in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.config = Fixed(classes=9)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.fc(self.embed(x)).flatten(0, 1), x.flatten())


def test_fewer_outputs_than_targets_are_refused_and_nothing_is_changed() -> None:
    model, tokens = GivesLoss(), torch.arange(8).view(2, 4)
    with pytest.raises(ModelError, match="fc"):
        replace_head(model, 3, example_input=tokens)
    assert model.fc.out_features == 9
    assert model.config == {"classes": 9}
    assert replace_head(model, 12, example_input=tokens) == ("fc",)
    model(tokens).backward()
