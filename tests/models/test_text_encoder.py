"""Encoders pool as they were trained, and this is found in the model and its files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.texts import minilm, model_folder, network, tokenizer, transformers

from layergroups.errors import ModelError, UnknownArchitectureError, WeightsError
from layergroups.models import (
    build_text_encoder,
    check_tokens,
    describe_text_encoder,
    load_text_encoder,
    measured_features,
)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("bert", "cls"),
        ("bert without pooler", "mean"),
        ("distilbert", "mean"),
        ("gpt2", "last"),
        ("t5", "mean"),
    ],
)
def test_pooling_is_found(tmp_path: Path, kind: str, pooling: str) -> None:
    body, reason = load_text_encoder(model_folder(tmp_path, kind))
    assert body.pooling == pooling
    assert reason
    assert load_text_encoder(tmp_path, pooling="mean")[0].pooling == "mean"


def test_a_file_of_sentence_transformers_decides(tmp_path: Path) -> None:
    model_folder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    stated = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    assert load_text_encoder(tmp_path)[0].pooling == "mean"


def test_a_pooler_without_pretrained_weights_is_no_reason(tmp_path: Path) -> None:
    network("bert without pooler").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert load_text_encoder(tmp_path)[0].encoder.pooler is None
    assert config["model_type"] == "bert"


def test_padding_does_not_change_a_vector(tmp_path: Path) -> None:
    for kind in ("bert", "distilbert", "gpt2", "t5"):
        body, _ = load_text_encoder(model_folder(tmp_path / kind, kind))
        ids = torch.tensor([[5, 6, 7]])
        padded = torch.tensor([[5, 6, 7, 0, 0]])
        mask = (padded > 0).long()
        with torch.no_grad():
            one = body(input_ids=ids, attention_mask=torch.ones_like(ids))
            other = body(input_ids=padded, attention_mask=mask)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def saved(folder: Path, kind: str, **settings: Any) -> Path:
    """A tiny encoder of a kind that few use."""
    torch.manual_seed(0)
    size = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **size, **settings)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


TWO = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


@pytest.mark.parametrize(
    ("kind", "features", "settings"),
    [
        ("opt", 8, {"ffn_dim": 32, "word_embed_proj_dim": 8, "max_position_embeddings": 24}),
        (
            "reformer", 32,
            {"attention_head_size": 8, "feed_forward_size": 32, "axial_pos_embds": False,
             "attn_layers": ["local", "lsh"], "max_position_embeddings": 64, "is_decoder": False,
             "num_buckets": 4},
        ),
        (
            "squeezebert", 16,
            {"embedding_size": 16, "intermediate_size": 32, "q_groups": 1, "k_groups": 1,
             "v_groups": 1, "post_attention_groups": 1, "intermediate_groups": 1,
             "output_groups": 1},
        ),
    ],
)  # fmt: skip
def test_the_length_of_a_vector_is_measured(
    tmp_path: Path, kind: str, features: int, settings: dict[str, Any]
) -> None:
    body, _ = load_text_encoder(saved(tmp_path, kind, **settings))
    state = torch.get_rng_state()
    assert measured_features(body, TWO) == features
    assert torch.equal(state, torch.get_rng_state())
    again = build_text_encoder(**describe_text_encoder(body))
    again.load_state_dict(body.state_dict())
    with torch.no_grad():
        assert again(**TWO).shape == (2, features)


def test_tables_of_other_classes_are_checked(tmp_path: Path) -> None:
    settings = {"intermediate_size": 32, "max_position_embeddings": 24, "pad_token_id": 0}
    body, _ = load_text_encoder(saved(tmp_path, "ibert", **settings))
    check_tokens(body, "it", 23, 23)
    with pytest.raises(ModelError, match="24 tokens"):
        check_tokens(body, "it", 23, 24)
    with pytest.raises(ModelError, match="max_length=23"):
        check_tokens(body, "it", 24, 23)


@pytest.mark.parametrize(("kind", "warnings"), [("fnet", 1), ("bert", 0)])
def test_a_model_whose_vectors_padding_changes_is_named(
    tmp_path: Path, kind: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    body, _ = load_text_encoder(saved(tmp_path, kind, intermediate_size=32, pad_token_id=0))
    with caplog.at_level(logging.WARNING, "layergroups"):
        measured_features(body, TWO)
    assert len(caplog.records) == warnings


def test_windows_are_averaged_per_text(tmp_path: Path) -> None:
    body, _ = load_text_encoder(model_folder(tmp_path))
    ids = torch.tensor([[[5, 6, 7], [8, 9, 10]], [[11, 12, 13], [0, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [0, 0, 0]]])
    with torch.no_grad():
        found = body(input_ids=ids, attention_mask=mask)
        alone = body(input_ids=ids.flatten(0, 1)[:3], attention_mask=mask.flatten(0, 1)[:3])
    torch.testing.assert_close(found, torch.stack([alone[:2].mean(0), alone[2]]))


def test_a_description_builds_the_same_encoder_and_runs_no_code_of_others(tmp_path: Path) -> None:
    body, _ = load_text_encoder(model_folder(tmp_path))
    described = json.loads(json.dumps(describe_text_encoder(body)))
    described["config"] |= {
        "auto_map": {"AutoModel": "evil--code"},
        "attn_implementation": "evil/kernel",
    }
    again = build_text_encoder(**described)
    assert again.state_dict().keys() == body.state_dict().keys()
    assert type(again.encoder) is type(body.encoder)
    with pytest.raises(ModelError):
        build_text_encoder({"model_type": "no such kind"}, "mean")


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitectureError):
        load_text_encoder(tmp_path / "nothing")
    model_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 6  # more than the file has weights for
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError):
        load_text_encoder(tmp_path)


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('this code was run')")
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnknownArchitectureError):
        load_text_encoder(tmp_path)


def test_minilm_is_pooled_as_its_file_says() -> None:
    body, _ = load_text_encoder(minilm())
    assert body.pooling == "mean"
    inputs = {name: torch.ones(2, 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    assert measured_features(body, inputs) == 384
