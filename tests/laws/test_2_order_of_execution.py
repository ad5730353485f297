"""Law 2: groups and blocks stand in the order in which data passes through them."""

from __future__ import annotations

from layergroups import LayerGroups
from tests.laws.models import TinyResNet, TinyTransformer, image


def test_a_network_that_was_constructed_from_back_to_front() -> None:
    groups = LayerGroups(TinyResNet(), "layerwise", example_input=image())
    assert groups.names == (
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "head",
    )  # fmt: skip
    assert [n for n, _ in groups[-1].named_parameters()] == ["fc.weight", "fc.bias"]


def test_layers_of_a_group_stand_in_the_order_of_their_first_call() -> None:
    model = TinyResNet()
    called: list[int] = []
    for module in model.modules():
        if not any(module.children()):
            module.register_forward_pre_hook(lambda m, _: called.append(id(m)))
    groups = LayerGroups(model, "auto", example_input=image())
    called.clear()
    model(image())
    assert [id(m) for g in groups for m in g.layers] == list(dict.fromkeys(called))


def test_bare_parameters_stand_with_the_block_that_uses_them_first() -> None:
    groups = LayerGroups(TinyTransformer(), "layerwise", example_input=image())
    assert {"cls_token", "pos_embed"} <= {n for n, _ in groups[0].named_parameters()}


def test_a_rule_by_hand_is_put_in_the_order_of_execution() -> None:
    patterns = {"end": "layer3|fc", "start": "stem|layer1|layer2"}
    groups = LayerGroups(TinyResNet(), patterns, example_input=image())
    assert groups.names == ("start", "end")
