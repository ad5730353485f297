"""Models of transformers and of libraries around it: language, audio, images, both together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.coverage.field.vision import Builders, images
from torch import nn

TEXT = dict(
    vocab_size=99, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
VISION = dict(
    image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=48,
)  # fmt: skip
SEQ2SEQ = dict(
    vocab_size=99, d_model=32, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
    pad_token_id=0, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=2,
)  # fmt: skip
SPEECH = dict(
    vocab_size=40, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
    conv_dim=(16, 16, 16), conv_kernel=(8, 4, 2), conv_stride=(4, 2, 2), num_feat_extract_layers=3,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_length=2,
    do_stable_layer_norm=False,
)  # fmt: skip


def tokens(n: int = 12, high: int = 99) -> dict[str, torch.Tensor]:
    """Token numbers with their mask."""
    return {
        "input_ids": torch.randint(5, high, (2, n)),
        "attention_mask": torch.ones(2, n, dtype=torch.long),
    }


def both(n: int = 12) -> dict[str, torch.Tensor]:
    """Tokens for an encoder and a decoder."""
    return {**tokens(n), "decoder_input_ids": torch.randint(5, 99, (2, 7))}


def transformers_text() -> Builders:
    import transformers as t

    def make(name: str, config: str, example: Any = None, **fields: Any) -> Callable[[], Any]:
        def build() -> tuple[nn.Module, Any]:
            model = getattr(t, name)(getattr(t, config)(**{**TEXT, **fields}))
            return model, tokens() if example is None else example()

        return build

    bert = dict(num_labels=5)
    gqa = dict(num_key_value_heads=2)
    moe = dict(gqa, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8)
    gpt2 = dict(n_embd=32, n_layer=4, n_head=4, n_positions=64)
    t5 = dict(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_decoder_layers=4,
              num_heads=4, decoder_start_token_id=0)  # fmt: skip
    choice = {"input_ids": torch.randint(5, 99, (2, 3, 8))}

    def encoder_decoder() -> tuple[nn.Module, Any]:
        encoder = t.BertConfig(**TEXT)
        decoder = t.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
        config = t.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        config.decoder_start_token_id, config.pad_token_id = 1, 0
        return t.EncoderDecoderModel(config), both()

    def layoutlm() -> dict[str, torch.Tensor]:
        return {**tokens(), "bbox": torch.randint(0, 50, (2, 12, 4)).sort(-1).values}

    def timeseries() -> dict[str, torch.Tensor]:
        past = torch.rand(2, 20)
        return {
            "past_values": past, "past_time_features": torch.rand(2, 20, 1),
            "past_observed_mask": torch.ones(2, 20), "future_values": torch.rand(2, 6),
            "future_time_features": torch.rand(2, 6, 1),
        }  # fmt: skip

    series = dict(prediction_length=6, context_length=13, lags_sequence=[1, 2, 7], input_size=1,
                  num_time_features=1, d_model=16, encoder_layers=2, decoder_layers=2,
                  encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
                  decoder_attention_heads=2)  # fmt: skip
    patches = dict(num_input_channels=2, context_length=32, patch_length=8, patch_stride=8,
                   d_model=16, num_attention_heads=2, num_hidden_layers=4, ffn_dim=32,
                   prediction_length=4, num_targets=3)  # fmt: skip

    def past() -> dict[str, torch.Tensor]:
        return {"past_values": torch.rand(2, 32, 2)}

    def decisions() -> dict[str, torch.Tensor]:
        return {
            "states": torch.rand(2, 5, 6), "actions": torch.rand(2, 5, 3),
            "rewards": torch.rand(2, 5, 1), "returns_to_go": torch.rand(2, 5, 1),
            "timesteps": torch.arange(5).repeat(2, 1), "attention_mask": torch.ones(2, 5),
        }  # fmt: skip

    return {
        "BertForSequenceClassification": make("BertForSequenceClassification", "BertConfig", **bert),
        "BertForTokenClassification": make("BertForTokenClassification", "BertConfig", **bert),
        "BertForQuestionAnswering": make("BertForQuestionAnswering", "BertConfig"),
        "BertForMaskedLM": make("BertForMaskedLM", "BertConfig"),
        "BertForMaskedLM, untied": make("BertForMaskedLM", "BertConfig", tie_word_embeddings=False),
        "BertForPreTraining": make("BertForPreTraining", "BertConfig"),
        "BertForMultipleChoice": make("BertForMultipleChoice", "BertConfig", lambda: choice),
        "BertModel": make("BertModel", "BertConfig"),
        "BertModel without pooler": lambda: (
            t.BertModel(t.BertConfig(**TEXT), add_pooling_layer=False), tokens(),
        ),
        "RobertaForSequenceClassification": make(
            "RobertaForSequenceClassification", "RobertaConfig", **bert
        ),
        "DistilBertForTokenClassification": make(
            "DistilBertForTokenClassification", "DistilBertConfig", dim=32, n_layers=4, n_heads=4,
            hidden_dim=48, num_labels=5,
        ),
        "DebertaV2ForTokenClassification": make(
            "DebertaV2ForTokenClassification", "DebertaV2Config", **bert, relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
        "ModernBertForSequenceClassification": make(
            "ModernBertForSequenceClassification", "ModernBertConfig", **bert, bos_token_id=1,
            eos_token_id=2, cls_token_id=1, sep_token_id=2,
        ),
        "LongformerForTokenClassification": make(
            "LongformerForTokenClassification", "LongformerConfig", lambda: tokens(16), **bert,
            attention_window=8,
        ),
        "CanineForTokenClassification": make(
            "CanineForTokenClassification", "CanineConfig", lambda: tokens(32), num_labels=5,
            num_hash_buckets=64, downsampling_rate=4, local_transformer_stride=16,
            upsampling_kernel_size=4,
        ),
        "LlamaForCausalLM": make("LlamaForCausalLM", "LlamaConfig", **gqa),
        "LlamaForCausalLM, tied": make(
            "LlamaForCausalLM", "LlamaConfig", **gqa, tie_word_embeddings=True
        ),
        "LlamaForSequenceClassification": make(
            "LlamaForSequenceClassification", "LlamaConfig", **gqa, num_labels=5
        ),
        "Qwen3ForCausalLM": make("Qwen3ForCausalLM", "Qwen3Config", **gqa, head_dim=8),
        "Qwen3MoeForCausalLM": make("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **moe),
        "MixtralForCausalLM": make(
            "MixtralForCausalLM", "MixtralConfig", **gqa, num_local_experts=4
        ),
        "Gemma2ForCausalLM": make("Gemma2ForCausalLM", "Gemma2Config", **gqa, head_dim=8),
        "GPT2LMHeadModel": make("GPT2LMHeadModel", "GPT2Config", **gpt2),
        "GPT2DoubleHeadsModel": make(
            "GPT2DoubleHeadsModel", "GPT2Config",
            lambda: {**choice, "mc_token_ids": torch.full((2, 3), 7)}, **gpt2, num_labels=1,
            tie_word_embeddings=False,
        ),
        "MambaForCausalLM": make("MambaForCausalLM", "MambaConfig", state_size=4),
        "Mamba2ForCausalLM": make(
            "Mamba2ForCausalLM", "Mamba2Config", num_heads=8, head_dim=8, state_size=8, n_groups=1,
            chunk_size=8, tie_word_embeddings=False,
        ),
        "RwkvForCausalLM": make("RwkvForCausalLM", "RwkvConfig", attention_hidden_size=32),
        "MptForCausalLM": make(
            "MptForCausalLM", "MptConfig", d_model=32, n_layers=4, n_heads=4, max_seq_len=64
        ),
        "T5ForConditionalGeneration": lambda: (
            t.T5ForConditionalGeneration(t.T5Config(**t5)), both(),
        ),
        "T5 v1.1": lambda: (
            t.T5ForConditionalGeneration(t.T5Config(**t5, feed_forward_proj="gated-gelu")), both(),
        ),
        "T5EncoderModel": lambda: (t.T5EncoderModel(t.T5Config(**t5)), tokens()),
        "BartForConditionalGeneration": lambda: (
            t.BartForConditionalGeneration(t.BartConfig(**SEQ2SEQ)), both(),
        ),
        "BartForSequenceClassification": lambda: (
            t.BartForSequenceClassification(t.BartConfig(**SEQ2SEQ, num_labels=5)),
            {"input_ids": torch.cat([torch.randint(5, 99, (2, 11)), torch.full((2, 1), 2)], 1)},
        ),
        "MarianMTModel": lambda: (t.MarianMTModel(t.MarianConfig(**SEQ2SEQ)), both()),
        "EncoderDecoderModel of two BERTs": encoder_decoder,
        "LayoutLMForTokenClassification": make(
            "LayoutLMForTokenClassification", "LayoutLMConfig", layoutlm, **bert,
            max_2d_position_embeddings=64,
        ),
        "TimeSeriesTransformerForPrediction": lambda: (
            t.TimeSeriesTransformerForPrediction(t.TimeSeriesTransformerConfig(**series)),
            timeseries(),
        ),
        "AutoformerForPrediction": lambda: (
            t.AutoformerForPrediction(
                t.AutoformerConfig(**series, label_length=5, moving_average=3)
            ),
            timeseries(),
        ),
        "PatchTSTForClassification": lambda: (
            t.PatchTSTForClassification(t.PatchTSTConfig(**patches)), past(),
        ),
        "PatchTSTForPrediction": lambda: (
            t.PatchTSTForPrediction(t.PatchTSTConfig(**patches)), past(),
        ),
        "DecisionTransformerModel": lambda: (
            t.DecisionTransformerModel(
                t.DecisionTransformerConfig(state_dim=6, act_dim=3, hidden_size=32, n_layer=4,
                                            n_head=4, max_ep_len=20)
            ),
            decisions(),
        ),
    }  # fmt: skip


def transformers_other() -> Builders:
    import transformers as t

    def seen(name: str, config: str, side: int = 32, **fields: Any) -> Callable[[], Any]:
        def build() -> tuple[nn.Module, Any]:
            model = getattr(t, name)(getattr(t, config)(**{**VISION, **fields}))
            return model, {"pixel_values": images(side)}

        return build

    def heard(name: str, config: str = "Wav2Vec2Config", **fields: Any) -> Callable[[], Any]:
        def build() -> tuple[nn.Module, Any]:
            model = getattr(t, name)(getattr(t, config)(**{**SPEECH, **fields}))
            return model, {"input_values": torch.randn(2, 2000)}

        return build

    swin = dict(image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 2, 1],
                num_heads=[2, 2, 2, 2], window_size=2,
                out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    detr = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=9,
                num_labels=5)  # fmt: skip
    whisper = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 30,
               "max_target_positions": 32, "suppress_tokens": None,
               "begin_suppress_tokens": None}  # fmt: skip
    del whisper["forced_eos_token_id"], whisper["max_position_embeddings"]
    video = dict(num_frames=4, num_labels=5)

    def resnet() -> Any:
        return t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                              layer_type="basic", out_features=["stage2", "stage3", "stage4"])  # fmt: skip

    def last() -> Any:
        config = resnet()
        config.out_features = ["stage4"]
        return config

    def clip(name: str) -> tuple[nn.Module, Any]:
        text = {**TEXT, "projection_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
        config = getattr(t, f"{name}Config")(
            text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16
        )
        ids = torch.cat([torch.randint(5, 98, (2, 7)), torch.full((2, 1), 2)], 1)
        return getattr(t, f"{name}Model")(config), {"input_ids": ids, "pixel_values": images(32)}

    def segformer() -> tuple[nn.Module, Any]:
        config = t.SegformerConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], num_labels=5,
                                   num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16)  # fmt: skip
        return t.SegformerForSemanticSegmentation(config), {"pixel_values": images(64)}

    def rtdetr() -> tuple[nn.Module, Any]:
        backbone = t.RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32],
                                        depths=[1, 1, 1, 1], layer_type="basic",
                                        out_features=["stage2", "stage3", "stage4"])  # fmt: skip
        config = t.RTDetrConfig(
            backbone_config=backbone, d_model=32, encoder_hidden_dim=32, encoder_layers=1,
            encoder_in_channels=[16, 24, 32], decoder_in_channels=[32, 32, 32], decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
            decoder_ffn_dim=48, num_queries=9, num_denoising=0, num_labels=5, anchor_image_size=None,
        )  # fmt: skip
        return t.RTDetrForObjectDetection(config), {"pixel_values": images(64)}

    def maskformer() -> tuple[nn.Module, Any]:
        parts = dict(backbone_config=t.SwinConfig(**swin), decoder_config=t.DetrConfig(**detr))
        config = t.MaskFormerConfig(
            **parts, fpn_feature_size=32, mask_feature_size=32, num_labels=5
        )
        return t.MaskFormerForInstanceSegmentation(config), {"pixel_values": images(64)}

    def mask2former() -> tuple[nn.Module, Any]:
        config = t.Mask2FormerConfig(
            backbone_config=t.SwinConfig(**swin), feature_size=32, mask_feature_size=32,
            hidden_dim=32, encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1,
            decoder_layers=3, num_attention_heads=4, num_queries=9, num_labels=5,
        )  # fmt: skip
        return t.Mask2FormerForUniversalSegmentation(config), {"pixel_values": images(64)}

    def llava() -> tuple[nn.Module, Any]:
        config = t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**VISION),
            text_config=t.LlamaConfig(**TEXT, num_key_value_heads=2), image_token_index=98,
            image_token_id=98, vision_feature_layer=-1, tie_word_embeddings=False,
        )  # fmt: skip
        ids = torch.cat([torch.full((2, 16), 98), torch.randint(5, 90, (2, 6))], 1)
        return t.LlavaForConditionalGeneration(config), {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images(32),
        }  # fmt: skip

    def captioner() -> tuple[nn.Module, Any]:
        decoder = t.GPT2Config(vocab_size=99, n_embd=32, n_layer=4, n_head=4, n_positions=64,
                               add_cross_attention=True)  # fmt: skip
        config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            t.ViTConfig(**VISION), decoder
        )
        return t.VisionEncoderDecoderModel(config), {
            "pixel_values": images(32), "decoder_input_ids": torch.randint(5, 99, (2, 7)),
        }  # fmt: skip

    def vilt() -> tuple[nn.Module, Any]:
        config = t.ViltConfig(**{**VISION, **TEXT}, num_labels=5)
        example = {**tokens(), "token_type_ids": torch.zeros(2, 12, dtype=torch.long),
                   "pixel_values": images(32), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.long)}  # fmt: skip
        return t.ViltForQuestionAnswering(config), example

    def sam() -> tuple[nn.Module, Any]:
        config = t.SamConfig(
            vision_config=dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                               mlp_dim=48, output_channels=16, image_size=64, patch_size=8,
                               window_size=2, global_attn_indexes=[1, 3], num_pos_feats=8),
            prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=8,
                                       mask_input_channels=4),
            mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_attention_heads=4,
                                     iou_head_hidden_dim=16),
        )  # fmt: skip
        points = torch.rand(1, 1, 2, 2) * 64
        return t.SamModel(config), {"pixel_values": images(64, 1), "input_points": points}

    return {
        "ViTForImageClassification": seen("ViTForImageClassification", "ViTConfig", num_labels=5),
        "ViTMAEForPreTraining": seen(
            "ViTMAEForPreTraining", "ViTMAEConfig", decoder_hidden_size=16,
            decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=32,
        ),
        "ViTForMaskedImageModeling": seen("ViTForMaskedImageModeling", "ViTConfig", encoder_stride=8),
        "BeitForImageClassification": seen(
            "BeitForImageClassification", "BeitConfig", num_labels=5,
            use_relative_position_bias=True,
        ),
        "Data2VecVisionForImageClassification": seen(
            "Data2VecVisionForImageClassification", "Data2VecVisionConfig", num_labels=5,
            use_relative_position_bias=True,
        ),
        "Dinov2Model": seen("Dinov2Model", "Dinov2Config"),
        "Dinov2ForImageClassification": seen(
            "Dinov2ForImageClassification", "Dinov2Config", num_labels=5
        ),
        "DINOv3ViTModel": seen("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2),
        "SegformerForSemanticSegmentation": segformer,
        "UperNetForSemanticSegmentation": lambda: (
            t.UperNetForSemanticSegmentation(
                t.UperNetConfig(backbone_config=t.SwinConfig(**swin), hidden_size=16, num_labels=5,
                                auxiliary_channels=16, auxiliary_in_channels=64)
            ),
            {"pixel_values": images(64)},
        ),
        "DPTForDepthEstimation": seen(
            "DPTForDepthEstimation", "DPTConfig", backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, is_hybrid=False,
        ),
        "YolosForObjectDetection": seen(
            "YolosForObjectDetection", "YolosConfig", image_size=[32, 32],
            num_detection_tokens=5, num_labels=5,
        ),
        "DetrForObjectDetection": lambda: (
            t.DetrForObjectDetection(
                t.DetrConfig(**detr, use_timm_backbone=False, backbone_config=last(), backbone=None,
                             use_pretrained_backbone=False)
            ),
            {"pixel_values": images(64)},
        ),
        "DeformableDetrForObjectDetection": lambda: (
            t.DeformableDetrForObjectDetection(
                t.DeformableDetrConfig(**detr, use_timm_backbone=False, backbone_config=resnet(),
                                       backbone=None, use_pretrained_backbone=False,
                                       num_feature_levels=3)
            ),
            {"pixel_values": images(64)},
        ),
        "RTDetrForObjectDetection": rtdetr,
        "MaskFormerForInstanceSegmentation": maskformer,
        "Mask2FormerForUniversalSegmentation": mask2former,
        "SamModel": sam,
        "VideoMAEForVideoClassification": lambda: (
            t.VideoMAEForVideoClassification(t.VideoMAEConfig(**VISION, **video, tubelet_size=2)),
            {"pixel_values": torch.rand(2, 4, 3, 32, 32)},
        ),
        "TimesformerForVideoClassification": lambda: (
            t.TimesformerForVideoClassification(t.TimesformerConfig(**VISION, **video)),
            {"pixel_values": torch.rand(2, 4, 3, 32, 32)},
        ),
        "CLIPModel": lambda: clip("CLIP"),
        "SiglipModel": lambda: clip("Siglip"),
        "VisionEncoderDecoderModel": captioner,
        "LlavaForConditionalGeneration": llava,
        "ViltForQuestionAnswering": vilt,
        "Wav2Vec2ForCTC": heard("Wav2Vec2ForCTC"),
        "Wav2Vec2ForSequenceClassification": heard(
            "Wav2Vec2ForSequenceClassification", num_labels=5, classifier_proj_size=16
        ),
        "HubertForCTC": heard("HubertForCTC", "HubertConfig"),
        "WhisperForConditionalGeneration": lambda: (
            t.WhisperForConditionalGeneration(t.WhisperConfig(**whisper)),
            {"input_features": torch.rand(2, 8, 60),
             "decoder_input_ids": torch.randint(5, 99, (2, 7))},
        ),
        "WhisperForAudioClassification": lambda: (
            t.WhisperForAudioClassification(
                t.WhisperConfig(**whisper, num_labels=5, classifier_proj_size=16)
            ),
            {"input_features": torch.rand(2, 8, 60)},
        ),
        "ASTForAudioClassification": lambda: (
            t.ASTForAudioClassification(
                t.ASTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                            intermediate_size=48, patch_size=8, frequency_stride=4, time_stride=4,
                            max_length=24, num_mel_bins=16, num_labels=5)
            ),
            {"input_values": torch.rand(2, 24, 16)},
        ),
    }  # fmt: skip


def peft() -> Builders:
    import peft as lib
    import transformers as t

    def classifier() -> nn.Module:
        return t.BertForSequenceClassification(t.BertConfig(**TEXT, num_labels=5))

    def llama(**fields: Any) -> nn.Module:
        return t.LlamaForCausalLM(t.LlamaConfig(**TEXT, num_key_value_heads=2, **fields))

    def lora(model: nn.Module, **options: Any) -> nn.Module:
        return lib.get_peft_model(model, lib.LoraConfig(r=2, **options))

    return {
        "LoRA on a BERT classifier": lambda: (
            lora(classifier(), task_type="SEQ_CLS", target_modules=["query", "value"]), tokens(),
        ),
        "LoRA on Llama": lambda: (
            lora(llama(), task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]), tokens(),
        ),
        "LoRA on a tied Llama": lambda: (
            lora(llama(tie_word_embeddings=True), task_type="CAUSAL_LM",
                 target_modules=["q_proj", "v_proj"]), tokens(),
        ),
        "IA3 on a BERT classifier": lambda: (
            lib.get_peft_model(classifier(), lib.IA3Config(
                task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[],
            )), tokens(),
        ),
    }  # fmt: skip


def sentence_transformers() -> Builders:
    import sentence_transformers as s
    import transformers as t
    from sentence_transformers import models as parts
    from tokenizers import Tokenizer, models, pre_tokenizers

    def build(*more: nn.Module) -> tuple[nn.Module, Any]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            t.BertModel(t.BertConfig(**TEXT)).save_pretrained(folder)
            words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *map(str, range(97))])}
            raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
            raw.pre_tokenizer = pre_tokenizers.Whitespace()
            t.PreTrainedTokenizerFast(
                tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]"
            ).save_pretrained(folder)
            body = parts.Transformer(folder)
        pooling = parts.Pooling(32)
        return s.SentenceTransformer(modules=[body, pooling, *more], device="cpu"), (tokens(),)

    return {
        "bi-encoder": build,
        "bi-encoder with Dense": lambda: build(parts.Dense(32, 16)),
        "bi-encoder of unit length": lambda: build(parts.Normalize()),
    }


def open_clip() -> Builders:
    import open_clip as lib

    vision = dict(image_size=32, layers=4, width=32, head_width=8, patch_size=8)
    text = dict(context_length=8, vocab_size=99, width=32, heads=4, layers=4)

    def pair(example: bool = True) -> Any:
        return images(32), torch.randint(1, 99, (2, 8))

    def clip(**changed: Any) -> nn.Module:
        return lib.CLIP(embed_dim=16, vision_cfg={**vision, **changed}, text_cfg=text)

    return {
        "CLIP, ViT": lambda: (clip(), pair()),
        "CLIP, ResNet": lambda: (
            clip(layers=(1, 1, 1, 1), width=8, head_width=8, patch_size=None, image_size=64),
            (images(64), pair()[1]),
        ),
        "CustomTextCLIP": lambda: (lib.CustomTextCLIP(16, vision, text), pair()),
        "image tower with a classifier": lambda: (
            nn.Sequential(clip().visual, nn.Linear(16, 5)), images(32),
        ),
    }  # fmt: skip


def x_transformers() -> Builders:
    import x_transformers as x

    def decoder(**options: Any) -> nn.Module:
        return x.TransformerWrapper(
            num_tokens=99,
            max_seq_len=32,
            attn_layers=x.Decoder(dim=32, depth=4, heads=2),
            **options,
        )

    ids = torch.randint(0, 99, (2, 16))
    return {
        "decoder": lambda: (decoder(), ids),
        "decoder, tied": lambda: (decoder(tie_embedding=True), ids),
        "encoder with classes": lambda: (
            x.TransformerWrapper(
                num_tokens=99, max_seq_len=32, attn_layers=x.Encoder(dim=32, depth=4, heads=2),
                logits_dim=5, use_cls_token=True,
            ),
            ids,
        ),
        "autoregressive, gives the loss": lambda: (x.AutoregressiveWrapper(decoder()), ids),
        "ViTransformerWrapper": lambda: (
            x.ViTransformerWrapper(
                image_size=32, patch_size=8, num_classes=5,
                attn_layers=x.Encoder(dim=32, depth=4, heads=2),
            ),
            images(32),
        ),
    }  # fmt: skip
