"""Models of libraries for images and volumes: by name a function that gives a model and an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Builders = dict[str, Callable[[], tuple[nn.Module, Any]]]


def images(side: int = 64, n: int = 2, channels: int = 3) -> torch.Tensor:
    """Random images."""
    return torch.rand(n, channels, side, side)


def volumes(side: int = 32, channels: int = 1) -> torch.Tensor:
    """Random volumes."""
    return torch.rand(2, channels, side, side, side)


def timm() -> Builders:
    import timm as lib

    def make(name: str, side: int, **options: Any) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: (lib.create_model(name, pretrained=False, **options), images(side))

    vit = dict(img_size=64, embed_dim=32, depth=6, num_heads=2, num_classes=5)
    return {
        "resnet18, features": make("resnet18", 64, features_only=True),
        "resnet18, no classifier": make("resnet18", 64, num_classes=0),
        "ViT": make("vit_tiny_patch16_224", 64, **vit),
        "ViT, no classifier": make("vit_tiny_patch16_224", 64, **{**vit, "num_classes": 0}),
        "DeiT, distilled": make("deit_tiny_distilled_patch16_224", 64, **vit),
        "ConvNeXt": make("convnext_atto", 64, num_classes=5),
        "FastViT": make("fastvit_t8", 64, num_classes=5),
    }


def torchvision() -> Builders:
    from torchvision import models as m
    from torchvision.models import detection as d
    from torchvision.models.feature_extraction import create_feature_extractor

    small = dict(weights=None, weights_backbone=None, num_classes=5)
    box = dict(small, min_size=64, max_size=96)
    few = dict(min_size=64, max_size=96, rpn_post_nms_top_n_test=20, box_detections_per_img=5)
    pair = [torch.rand(3, 64, 64), torch.rand(3, 72, 64)]
    flow = (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))

    def listed(make: Callable[..., nn.Module], **options: Any) -> Callable[[], Any]:
        return lambda: (make(**options), (pair,))

    def fpn() -> nn.Module:
        backbone = d.backbone_utils.resnet_fpn_backbone
        return backbone(backbone_name="resnet18", weights=None, trainable_layers=5)

    def extractor() -> nn.Module:
        return create_feature_extractor(m.resnet18(num_classes=5), ["layer2", "layer4"])

    return {
        "Faster R-CNN": listed(d.fasterrcnn_mobilenet_v3_large_320_fpn, **box),
        "Mask R-CNN": listed(
            lambda: d.MaskRCNN(fpn(), num_classes=5, **few)
        ),
        "Keypoint R-CNN": listed(
            lambda: d.KeypointRCNN(fpn(), num_classes=2, num_keypoints=5, **few)
        ),
        "RetinaNet": listed(lambda: d.RetinaNet(fpn(), num_classes=5, min_size=64, max_size=96)),
        "FCOS": listed(lambda: d.FCOS(fpn(), num_classes=5, min_size=64, max_size=96)),
        "SSDlite": listed(d.ssdlite320_mobilenet_v3_large, **small),
        "LR-ASPP": lambda: (m.segmentation.lraspp_mobilenet_v3_large(**small), images()),
        "DeepLabV3 with an auxiliary head": lambda: (
            m.segmentation.deeplabv3_mobilenet_v3_large(**small, aux_loss=True), images(),
        ),
        "GoogLeNet with auxiliary heads": lambda: (
            m.googlenet(weights=None, num_classes=5, aux_logits=True, init_weights=False), images(96),
        ),
        "Inception v3 with an auxiliary head": lambda: (
            m.inception_v3(weights=None, num_classes=5, init_weights=False), images(299),
        ),
        "RAFT": lambda: (m.optical_flow.raft_small(weights=None), flow),
        "R3D-18": lambda: (m.video.r3d_18(num_classes=5), torch.rand(2, 3, 4, 32, 32)),
        "MViT": lambda: (m.video.mvit_v1_b(num_classes=5), torch.rand(1, 3, 16, 224, 224)),
        "FPN backbone": lambda: (fpn(), images()),
        "feature extractor (fx)": lambda: (extractor(), images()),
    }  # fmt: skip


def segmentation_models_pytorch() -> Builders:
    import segmentation_models_pytorch as smp

    def make(kind: str, encoder: str = "resnet18", side: int = 64, **options: Any) -> Any:
        return lambda: (
            getattr(smp, kind)(encoder_name=encoder, encoder_weights=None, classes=3, **options),
            images(side),
        )

    kinds = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
             "DeepLabV3Plus", "Segformer", "UPerNet")  # fmt: skip
    more: Builders = {
        "Unet(efficientnet-b0)": make("Unet", "efficientnet-b0"),
        "Unet(mit_b0)": make("Unet", "mit_b0"),
        "Unet(tu-convnext_atto)": make("Unet", "tu-convnext_atto", encoder_depth=4,
                                       decoder_channels=(64, 32, 16, 8)),
        "Unet with a class head": make("Unet", aux_params={"classes": 4}),
        "DPT(tu-vit)": make("DPT", "tu-vit_tiny_patch16_224", 224, encoder_depth=4),
    }  # fmt: skip
    return {kind: make(kind, side=128 if kind == "PAN" else 64) for kind in kinds} | more


def monai() -> Builders:
    from monai.networks import nets as n

    flat = dict(spatial_dims=3, in_channels=1, out_channels=2)
    dyn = dict(flat, kernel_size=[3, 3, 3, 3], strides=[1, 2, 2, 2], upsample_kernel_size=[2, 2, 2],
               filters=[8, 16, 32, 32])  # fmt: skip
    return {
        "UNet": lambda: (
            n.UNet(**flat, channels=(8, 16, 32), strides=(2, 2), num_res_units=2), volumes(),
        ),
        "UNet without residual units": lambda: (
            n.UNet(**flat, channels=(8, 16, 32), strides=(2, 2)), volumes(),
        ),
        "BasicUNet": lambda: (
            n.BasicUNet(3, 1, 2, features=(8, 8, 16, 32, 32, 8)), volumes(),
        ),
        "BasicUNetPlusPlus": lambda: (
            n.BasicUNetPlusPlus(2, 1, 2, features=(8, 8, 16, 32, 32, 8), deep_supervision=True),
            images(32, channels=1),
        ),
        "SegResNet": lambda: (n.SegResNet(3, 8, 1, 2), volumes()),
        "SegResNetVAE": lambda: (
            n.SegResNetVAE((32, 32, 32), spatial_dims=3, init_filters=8, in_channels=1, out_channels=2),
            volumes(),
        ),
        "DynUNet": lambda: (n.DynUNet(**dyn), volumes()),
        "DynUNet with deep supervision": lambda: (
            n.DynUNet(**dyn, deep_supervision=True, deep_supr_num=2), volumes(),
        ),
        "SwinUNETR": lambda: (
            n.SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1),
                        spatial_dims=2), images(64, channels=1),
        ),
        "UNETR": lambda: (
            n.UNETR(1, 2, (32, 32), feature_size=8, hidden_size=32, mlp_dim=64, num_heads=2,
                    spatial_dims=2), images(32, channels=1),
        ),
        "VNet": lambda: (n.VNet(3, 1, 2), volumes()),
        "AttentionUnet": lambda: (
            n.AttentionUnet(2, 1, 2, channels=(8, 16, 32), strides=(2, 2)), images(32, channels=1),
        ),
        "HighResNet": lambda: (n.HighResNet(2, 1, 2), images(32, channels=1)),
        "ViT": lambda: (
            n.ViT(1, (32, 32, 32), (16, 16, 16), hidden_size=32, mlp_dim=64, num_layers=4,
                  num_heads=2, classification=True, num_classes=3, post_activation="x"), volumes(),
        ),
        "ViTAutoEnc": lambda: (
            n.ViTAutoEnc(1, (32, 32), (16, 16), hidden_size=32, mlp_dim=64, num_layers=4,
                         num_heads=2, spatial_dims=2), images(32, channels=1),
        ),
        "DenseNet": lambda: (
            n.DenseNet(3, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2, 2)), volumes(),
        ),
        "ResNet10": lambda: (n.resnet10(spatial_dims=3, n_input_channels=1, num_classes=3), volumes()),
        "EfficientNetBN": lambda: (
            n.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, num_classes=3),
            images(),
        ),
        "SEResNet50": lambda: (n.SEResNet50(spatial_dims=2, in_channels=3, num_classes=3), images()),
        "Regressor": lambda: (
            n.Regressor((1, 32, 32), 3, channels=(8, 16, 16), strides=(2, 2, 2)),
            images(32, channels=1),
        ),
        "VarAutoEncoder": lambda: (
            n.VarAutoEncoder(2, (1, 32, 32), 1, 8, channels=(8, 16), strides=(2, 2)),
            images(32, channels=1),
        ),
        "MILModel": lambda: (n.MILModel(3, pretrained=False, mil_mode="att"), torch.rand(2, 3, 3, 64, 64)),
        "DiffusionModelUNet": lambda: (
            n.DiffusionModelUNet(2, 1, 1, channels=(8, 16), attention_levels=(False, True),
                                 num_res_blocks=1, num_head_channels=8, norm_num_groups=8),
            (images(32, channels=1), torch.tensor([1, 2])),
        ),
        "AutoencoderKL": lambda: (
            n.AutoencoderKL(2, 1, 1, num_res_blocks=(1, 1), channels=(8, 16),
                            attention_levels=(False, False), latent_channels=4, norm_num_groups=8),
            images(32, channels=1),
        ),
        "MedNeXt": lambda: (
            n.MedNeXt(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2,
                      blocks_down=(1, 1, 1), blocks_bottleneck=1, blocks_up=(1, 1, 1)),
            images(32, channels=1),
        ),
        "Discriminator": lambda: (
            n.Discriminator((1, 32, 32), channels=(8, 16, 16), strides=(2, 2, 2)),
            images(32, channels=1),
        ),
    }  # fmt: skip


def vit_pytorch() -> Builders:
    import vit_pytorch as v
    from vit_pytorch.cct import CCT
    from vit_pytorch.cross_vit import CrossViT
    from vit_pytorch.cvt import CvT
    from vit_pytorch.distill import DistillableViT
    from vit_pytorch.max_vit import MaxViT
    from vit_pytorch.na_vit import NaViT
    from vit_pytorch.simple_vit import SimpleViT
    from vit_pytorch.vit_3d import ViT as ViT3D

    base = dict(image_size=64, patch_size=16, num_classes=5, dim=32, depth=4, heads=2, mlp_dim=64)
    ragged = [[torch.rand(3, 64, 64), torch.rand(3, 32, 48)], [torch.rand(3, 48, 64)]]
    return {
        "ViT": lambda: (v.ViT(**base), images()),
        "SimpleViT": lambda: (SimpleViT(**base), images()),
        "CvT": lambda: (CvT(num_classes=5, s1_emb_dim=16, s2_emb_dim=32, s3_emb_dim=48), images()),
        "CCT": lambda: (
            CCT(img_size=64, embedding_dim=32, num_layers=4, num_heads=2, mlp_ratio=2, num_classes=5,
                positional_embedding="learnable"), images(),
        ),
        "MaxViT": lambda: (
            MaxViT(num_classes=5, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1, 1, 1),
                   window_size=2, mbconv_expansion_rate=2), images(),
        ),
        "CrossViT": lambda: (
            CrossViT(image_size=64, num_classes=5, depth=2, sm_dim=16, sm_patch_size=16,
                     sm_enc_depth=1, sm_enc_heads=2, sm_enc_mlp_dim=32, lg_dim=32, lg_patch_size=32,
                     lg_enc_depth=2, lg_enc_heads=2, lg_enc_mlp_dim=64, cross_attn_depth=1,
                     cross_attn_heads=2), images(),
        ),
        "NaViT": lambda: (NaViT(**base), (ragged,)),
        "ViT for video": lambda: (
            ViT3D(image_size=64, image_patch_size=16, frames=4, frame_patch_size=2, num_classes=5,
                  dim=32, depth=4, heads=2, mlp_dim=64),
            torch.rand(2, 3, 4, 64, 64),
        ),
        "DistillableViT": lambda: (DistillableViT(**base), images()),
    }  # fmt: skip


def ultralytics() -> Builders:
    from ultralytics.nn.tasks import (
        ClassificationModel,
        DetectionModel,
        PoseModel,
        SegmentationModel,
    )

    def make(kind: Any, file: str, **options: Any) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: (kind(file, verbose=False, **options), images(64))

    return {
        "yolov8n-cls": make(ClassificationModel, "yolov8n-cls.yaml", nc=5),
        "yolov8n": make(DetectionModel, "yolov8n.yaml", nc=5),
        "yolo11n": make(DetectionModel, "yolo11n.yaml", nc=5),
        "yolov8n-seg": make(SegmentationModel, "yolov8n-seg.yaml", nc=5),
        "yolov8n-pose": make(PoseModel, "yolov8n-pose.yaml", nc=1),
        "yolov10n": make(DetectionModel, "yolov10n.yaml", nc=5),
    }


def lightly() -> Builders:
    from lightly.models import modules as lm
    from torchvision.models import resnet18

    def body() -> nn.Module:
        return nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten())

    class SimSiam(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = body()
            self.projection_head = lm.SimSiamProjectionHead(512, 64, 32)
            self.prediction_head = lm.SimSiamPredictionHead(32, 16, 32)

        def forward(self, x: torch.Tensor) -> Any:
            z = self.projection_head(self.backbone(x))
            return z.detach(), self.prediction_head(z)

    return {
        "SimCLR": lambda: (
            nn.Sequential(body(), lm.SimCLRProjectionHead(512, 64, 32)), images(),
        ),
        "SimSiam": lambda: (SimSiam(), images()),
        "DINO": lambda: (
            nn.Sequential(body(), lm.DINOProjectionHead(512, 64, 32, 128)), images(),
        ),
        "SwaV": lambda: (
            nn.Sequential(body(), lm.SwaVProjectionHead(512, 64, 32), lm.SwaVPrototypes(32, 50)),
            images(),
        ),
    }  # fmt: skip


def efficientnet_pytorch() -> Builders:
    from efficientnet_pytorch import EfficientNet

    return {
        "efficientnet-b0": lambda: (
            EfficientNet.from_name("efficientnet-b0", num_classes=5, image_size=64), images(),
        )
    }  # fmt: skip


def pretrainedmodels() -> Builders:
    import pretrainedmodels as p

    def make(name: str, side: int = 224) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: (getattr(p, name)(num_classes=1000, pretrained=None), images(side))

    return {
        "se_resnet50": make("se_resnet50"),
        "dpn68": make("dpn68"),
        "xception": make("xception"),
    }


def fastai() -> Builders:
    from fastai.tabular.model import TabularModel
    from fastai.text.models import AWD_LSTM, get_text_classifier
    from fastai.text.models.core import get_language_model
    from fastai.vision.learner import create_unet_model, create_vision_model
    from torchvision.models import resnet18

    text = dict(emb_sz=16, n_hid=24, n_layers=2, pad_token=1, output_p=0.1, hidden_p=0.1,
                input_p=0.1, embed_p=0.0, weight_p=0.1, bidir=False)  # fmt: skip
    tokens = torch.randint(2, 50, (2, 12))
    return {
        "vision model": lambda: (create_vision_model(resnet18, 5, pretrained=False), images()),
        "DynamicUnet": lambda: (
            create_unet_model(resnet18, 3, (64, 64), pretrained=False), images(),
        ),
        "TabularModel": lambda: (
            TabularModel([(5, 3), (7, 4)], 6, 3, [20, 10]),
            (torch.randint(0, 5, (4, 2)), torch.rand(4, 6)),
        ),
        "AWD-LSTM text classifier": lambda: (
            get_text_classifier(AWD_LSTM, 50, 3, seq_len=8, config=dict(text), max_len=40), tokens,
        ),
        "AWD-LSTM language model": lambda: (
            get_language_model(
                AWD_LSTM, 50, config={**text, "tie_weights": True, "out_bias": True},
            ),
            tokens,
        ),
    }  # fmt: skip


def kornia() -> Builders:
    from kornia.feature import HardNet, TFeat

    return {
        "HardNet": lambda: (HardNet(pretrained=False), torch.rand(2, 1, 32, 32)),
        "TFeat": lambda: (TFeat(pretrained=False), torch.rand(2, 1, 32, 32)),
    }
