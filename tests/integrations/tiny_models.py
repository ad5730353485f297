"""Tiny random models of transformers, and data for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {"vocab_size": 64, "max_position_embeddings": 32}


def bert(kind: str = "SequenceClassification", seed: int = 0, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    n = 2 if kind == "QuestionAnswering" else 3
    config = transformers.BertConfig(**SMALL, **TEXT, num_labels=n, **changes)
    return getattr(transformers, f"BertFor{kind}")(config)


def model_of(kind: str) -> PreTrainedModel:
    """A model with dropout, also norm layers with running statistics for images."""
    torch.manual_seed(0)
    if kind in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
        return bert(kind)
    if kind == "ImageClassification":
        return transformers.ResNetForImageClassification(
            transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3,
                layer_type="basic", image_size=32,
            )
        )  # fmt: skip
    if kind == "ViT":
        return transformers.ViTForImageClassification(
            transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)
        )
    if kind == "AudioClassification":
        return transformers.ASTForAudioClassification(
            transformers.ASTConfig(**SMALL, max_length=32, num_mel_bins=32, num_labels=3)
        )
    if kind == "CLIP":
        vision = {**SMALL, "image_size": 32, "patch_size": 8}
        config = transformers.CLIPConfig(vision_config=vision, num_labels=3)
        return transformers.CLIPForImageClassification(config)
    if kind == "CausalLM":  # the head is tied to the embedding
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=16, n_layer=4, n_head=2, vocab_size=64, n_positions=32,
                bos_token_id=1, eos_token_id=1,
            )
        )  # fmt: skip
    if kind == "SpeechSeq2Seq":
        layers = {f"{part}_layers": 2 for part in ("encoder", "decoder")}
        layers |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
        layers |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
        config = transformers.WhisperConfig(
            vocab_size=64, num_mel_bins=8, d_model=16, max_source_positions=16,
            max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, **layers,
        )  # fmt: skip
        return transformers.WhisperForConditionalGeneration(config)
    assert kind == "Seq2SeqLM"
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=64,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


KINDS = (
    "SequenceClassification", "TokenClassification", "QuestionAnswering", "ImageClassification",
    "ViT", "CLIP", "AudioClassification", "CausalLM", "Seq2SeqLM",
    "SpeechSeq2Seq",
)  # fmt: skip


def items(kind: str = "SequenceClassification", n: int = 24) -> list[dict[str, torch.Tensor]]:
    """What each kind of model takes, with labels that the inputs tell."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for i in range(n):
        ids = torch.randint(3, 64, (8,), generator=draw)
        label = torch.tensor(i % 3)
        if kind == "AudioClassification":
            made.append({"input_values": torch.randn(32, 32, generator=draw), "labels": label})
            continue
        if kind == "SpeechSeq2Seq":
            made.append({"input_features": torch.randn(8, 32, generator=draw), "labels": ids})
            continue
        if kind in ("ImageClassification", "ViT", "CLIP"):
            made.append({"pixel_values": torch.randn(3, 32, 32, generator=draw), "labels": label})
            continue
        ids[0] = 3 + label
        words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if kind == "SequenceClassification":
            words["labels"] = label
        elif kind == "TokenClassification":
            words["labels"] = ids % 3
        elif kind == "QuestionAnswering":
            words |= {"start_positions": label, "end_positions": label + 1}
        else:
            words["labels"] = ids.clone()
        made.append(words)
    return made


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """A run of 6 steps an epoch on the CPU; a dict of `changes` of the arguments."""
    given = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "num_train_epochs": 2,
        "learning_rate": 1e-2, "weight_decay": 0.1, "report_to": "none", "use_cpu": True,
        "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(**given | changes)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    """The names of those that are not the same to the bit."""
    now = model.state_dict()
    assert now.keys() == before.keys()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}
