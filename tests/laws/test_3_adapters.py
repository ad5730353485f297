"""Law 3 with low-rank adapters of peft: they join the groups of their layers, the rest is fixed."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from layergroups import LayerGroups, Learner
from tests.laws.surgeries import optimizer_states
from tests.training.tiny import TinyLoaders, tiny_model


def vit() -> nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=4, embed_dim=24, num_heads=2, num_classes=3
    )


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=32, num_labels=3, max_position_embeddings=20,
    )  # fmt: skip
    return BertForSequenceClassification(config)


PHOTOS = torch.randn(2, 3, 32, 32)
TOKENS = torch.arange(16).reshape(2, 8)
MODELS: dict[str, Any] = {
    "vit": (vit, PHOTOS, ["qkv", "fc1"]), "bert": (bert, TOKENS, ["query", "value"]),
}  # fmt: skip


def make(name: str) -> tuple[nn.Module, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    groups = LayerGroups(model, example_input=MODELS[name][1])
    optimizer = AdamW(groups.param_groups(lr=1e-2))
    groups.attach(optimizer)
    step(name, model, optimizer)
    return model, groups, optimizer


def step(name: str, model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    out = model(MODELS[name][1])
    getattr(out, "logits", out).square().mean().backward()
    optimizer.step()


def inject(name: str, model: nn.Module, **options: Any) -> None:
    config = peft.LoraConfig(
        target_modules=MODELS[name][2], r=2, init_lora_weights=False, **options
    )
    peft.inject_adapter_in_model(config, model)


def moved(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("freeze_to", [0, -1, -2])
def test_adapters_train_in_the_groups_of_their_layers(
    name: str, freeze_to: int, caplog: pytest.LogCaptureFixture
) -> None:
    model, groups, optimizer = make(name)
    groups.freeze_to(freeze_to)
    group_of = {n: g.name for g in groups for n, _ in g.named_parameters()}
    states = optimizer_states(optimizer)
    inject(name, model)
    before = weights(model)
    caplog.clear()
    if freeze_to == -1:  # nothing trains: the head is frozen by peft, the adapters by their groups
        groups.sync()
    else:
        step(name, model, optimizer)

    (change,) = groups.changes
    assert caplog.messages == [str(change)]
    base = {n for n in before if "lora" not in n}
    assert set(change.fixed) == base
    assert f"{len(base)} parameters found with requires_grad=False" in str(change)
    for adapter, group in change.added:
        layer = adapter.partition(".lora_")[0]
        assert group == group_of[f"{layer}.weight"]
    trains = {n for n, group in change.added if not groups[group].frozen}
    assert moved(before, model) == trains
    assert {id(p) for p in states} <= {id(p) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("name", MODELS)
def test_gradual_unfreezing_unfreezes_adapters_only(name: str) -> None:
    model, groups, optimizer = make(name)
    groups.freeze()
    inject(name, model)
    groups.sync()
    for n in range(-2, -len(groups) - 1, -1):
        groups.freeze_to(n)
        before = weights(model)
        step(name, model, optimizer)
        open_groups = {i for i in range(len(groups)) if not groups[i].frozen}
        expected = {
            k
            for g in groups
            if g.index in open_groups
            for k, _ in g.named_parameters()
            if "lora" in k
        }
        assert moved(before, model) == expected


def test_a_new_head_after_the_adapters_trains() -> None:
    model, groups, optimizer = make("vit")
    groups.freeze()
    inject("vit", model)
    model.head = nn.Linear(24, 5)
    before = weights(model)
    step("vit", model, optimizer)
    assert moved(before, model) == {"head.weight", "head.bias"}


def test_a_head_put_in_at_once_with_adapters_can_be_saved_with_them() -> None:
    model, _, optimizer = make("vit")
    inject("vit", model, modules_to_save=["head"])
    before = weights(model)
    step("vit", model, optimizer)
    now = moved(before, model)
    head = {n for n in now if n.startswith("head.")}
    assert head
    assert all("lora" in n for n in now - head)


@pytest.mark.parametrize("merge", [True, False])
def test_merged_or_unloaded_the_base_follows_its_groups_again(merge: bool) -> None:
    model, groups, optimizer = make("vit")
    groups.freeze()
    config = peft.LoraConfig(target_modules=["qkv"], r=2, init_lora_weights=False)
    whole = peft.get_peft_model(model, config)
    groups.unfreeze()
    step("vit", model, optimizer)
    assert (whole.merge_and_unload() if merge else whole.unload()) is model
    change = groups.sync()
    assert change is not None
    assert set(change.released) == {n for n, _ in model.named_parameters()}
    assert all("lora" in n for n in change.removed)
    assert all(p.requires_grad for p in model.parameters())
    before = weights(model)
    step("vit", model, optimizer)
    assert "blocks.0.attn.qkv.weight" in moved(before, model)


def test_of_two_adapters_one_deleted_leaves_the_base_fixed() -> None:
    model, groups, _ = make("vit")
    whole = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], r=2))
    groups.sync()
    whole.add_adapter("second", peft.LoraConfig(target_modules=["qkv"], r=2))
    groups.sync()
    whole.set_adapter("second")
    whole.delete_adapter("default")
    groups.sync()
    groups.unfreeze()
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trains
    assert all("second" in n for n in trains)


def test_requires_grad_frees_parameters_frozen_by_adapters() -> None:
    model, groups, optimizer = make("vit")
    inject("vit", model)
    groups.sync()
    model.get_parameter("norm.weight").requires_grad_(True)
    groups.unfreeze()
    before = weights(model)
    step("vit", model, optimizer)
    assert "norm.weight" in moved(before, model)
    assert "norm.bias" not in moved(before, model)


def test_the_base_of_a_model_with_adapters_stays_frozen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = vit()
    inject("vit", model)
    groups = LayerGroups(model, example_input=PHOTOS)
    assert "the model has adapters" in caplog.text
    groups.unfreeze()
    assert all(p.requires_grad == ("lora" in n) for n, p in model.named_parameters())


def test_unfreeze_says_that_adapters_hold_the_base(caplog: pytest.LogCaptureFixture) -> None:
    model, groups, _ = make("vit")
    inject("vit", model)
    groups.sync()
    caplog.clear()
    groups.unfreeze()
    base = [n for n, _ in model.named_parameters() if "lora" not in n]
    (message,) = caplog.messages
    assert f"{len(base)} parameters" in message
    assert "adapters" in message
    assert not any(model.get_parameter(n).requires_grad for n in base)


def test_parameters_frozen_by_hand_stay_frozen_after_adapters_are_removed() -> None:
    model, groups, _ = make("vit")
    model.get_parameter("norm.weight").requires_grad_(False)
    groups.freeze_to(0)
    whole = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], r=2))
    groups.sync()
    whole.unload()
    groups.sync()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"norm.weight"}


def test_in_the_midst_of_a_fit(tmp_path: Any) -> None:
    class Injects:
        def before_step(self, run: Any) -> None:
            if run.step == 2:
                config = peft.LoraConfig(target_modules=["0.3", "1.4"], r=2)
                peft.inject_adapter_in_model(config, run.model)
                self.before = weights(run.model)

    torch.manual_seed(0)
    learn = Learner(
        TinyLoaders(), tiny_model(), callbacks=[injects := Injects()], progress=False, path=tmp_path
    )
    learn.fit(2, 1e-2)
    now = moved(injects.before, learn.model)
    assert now == {n for n in injects.before if "lora" in n}
    assert len(learn.layer_groups.changes) == 1
