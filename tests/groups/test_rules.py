"""Rules: how a model is divided, alone and with any loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from tests.laws.models import TinyResNet, TinyTransformer, image
from torch import Tensor, nn

from layergroups import LayerGroups


def spans(groups: LayerGroups) -> list[tuple[str, str]]:
    """First and last block of each group."""
    return [(g.blocks[0].name, g.blocks[-1].name) for g in groups]


def test_auto_is_early_late_head() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image(64))
    assert groups.names == ("early", "late", "head")
    assert spans(groups) == [("stem", "layer2.1"), ("layer3.0", "layer3.1"), ("fc", "fc")]
    assert "the resolution falls" in groups["late"].reason


def test_a_transformer_is_divided_at_half_of_its_layers() -> None:
    groups = LayerGroups(TinyTransformer(layers=6), example_input=image())
    assert spans(groups)[1] == ("layers.3", "layers.5")


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_embeddings_of_tokens_are_a_group_if_early_layers_remain(layers: int) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(9, 16), nn.Embedding(8, 16)
            one = nn.ModuleList([nn.Linear(16, 16)])
            self.layers = one if layers == 1 else TinyTransformer(layers=layers).layers
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.words(x) + self.places(torch.arange(x.shape[1]))
            for layer in self.layers:
                x = layer(x)
            return self.head(x.mean(1))  # type: ignore[no-any-return]

    tokens = torch.randint(9, (2, 8))
    groups = LayerGroups(Reader(), example_input=tokens)
    own = {name for name, _ in groups[0].named_parameters()}
    assert own == {"words.weight", "places.weight"}
    expected = ("early", "late", "head") if layers == 1 else ("embeddings", "early", "late", "head")
    assert groups.names == expected
    assert "embeddings" not in LayerGroups(Reader(), 3, example_input=tokens).names


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_n_groups_are_n_groups(n: int) -> None:
    assert len(LayerGroups(TinyResNet(), n, example_input=image(64))) == n


def test_more_groups_than_blocks_are_as_many_as_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups = LayerGroups(TinyResNet(blocks=1), 9, example_input=image(64))
    assert len(groups) == 5
    assert "5 layer groups, not 9" in caplog.text


def test_by_path_a_group_begins_at_each() -> None:
    groups = LayerGroups(TinyResNet(), ["fc", "layer2"], example_input=image())
    assert groups.names == ("stem", "layer2", "fc")
    assert spans(groups)[1] == ("layer2.0", "layer3.1")


def test_a_path_inside_a_block_is_followed_to_the_layer() -> None:
    groups = LayerGroups(TinyResNet(), ["layer2.0.main.1"], example_input=image())
    first = [n for n, _ in groups[0].named_parameters() if n.startswith("layer2")]
    assert first
    assert not any(n.startswith("layer2.0.main.1") for n in first)


def test_by_pattern() -> None:
    patterns = {"start": "stem|layer1", "rest": r"layer[23]", "end": "fc"}
    groups = LayerGroups(TinyResNet(), patterns, example_input=image())
    assert groups.names == ("start", "rest", "end")
    assert spans(groups)[1] == ("layer2.0", "layer3.1")
    assert [type(m).__name__ for m in groups["start"].layers[:3]] == [
        "Conv2d", "BatchNorm2d", "ReLU",
    ]  # fmt: skip


def test_a_fastai_splitter_works_as_it_is() -> None:
    def params(m: nn.Module) -> list[nn.Parameter]:
        return list(m.parameters())

    def splitter(m: Any) -> list[list[nn.Parameter]]:
        return [params(m.stem) + params(m.layer1), params(m.layer2) + params(m.layer3),
                params(m.fc)]  # fmt: skip

    groups = LayerGroups(TinyResNet(), splitter, example_input=image())
    assert len(groups) == 3
    assert spans(groups)[2] == ("fc", "fc")
    assert groups.rule == "function splitter"


def test_a_function_may_return_modules() -> None:
    def splitter(m: Any) -> list[nn.Module]:
        return [m.stem, nn.ModuleList([m.layer1, m.layer2, m.layer3]), m.fc]

    assert len(LayerGroups(TinyResNet(), splitter, example_input=image())) == 3


def test_the_table_shows_where_and_why() -> None:
    groups = LayerGroups(torchvision.models.resnet18(weights=None))
    text = str(groups)
    for word in ("early", "late", "head", "layer3.0 … layer4.1", "28 → 14", "683,072"):
        assert word in text
    groups.freeze()
    assert str(groups).count("frozen") == 2
    assert max(map(len, text.splitlines())) <= 160


def test_a_group_prints_itself() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    assert repr(groups[-1]) == "LayerGroup(2, 'head', 99 parameters, trains at 0.001)"
    groups.freeze("head")
    assert repr(groups["head"]) == "LayerGroup(2, 'head', 99 parameters, frozen)"


def test_the_state_survives_json() -> None:
    import json

    groups = LayerGroups(TinyResNet(), example_input=image())
    groups.set_rates(slice(1e-5, 1e-3))
    groups.freeze_to(-2)
    state = json.loads(json.dumps(groups.state_dict()))
    other = LayerGroups(TinyResNet(), example_input=image())
    other.load_state_dict(state)
    assert other.state_dict() == groups.state_dict()
    assert not any(p.requires_grad for p in other[0].parameters())
