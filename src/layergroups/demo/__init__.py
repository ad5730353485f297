"""The demo: fine-tune a pretrained network on photos, without a download."""

from layergroups.demo._demo_weights import efficientnet_lite0_weights
from layergroups.demo._run import PHOTOS, DemoResult, run

__all__ = ["PHOTOS", "DemoResult", "efficientnet_lite0_weights", "run"]
