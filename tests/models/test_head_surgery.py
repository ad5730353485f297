"""replace_head: new classifiers on any model, and groups that follow."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from tests.laws.models import TiedLanguageModel
from torch import Tensor, nn

from layergroups import LayerGroups
from layergroups.errors import ModelError
from layergroups.models import replace_head


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
    with pytest.raises(ModelError, match="at least one"):
        replace_head(nn.Linear(2, 2), 0)


@pytest.mark.slow
def test_models_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
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
