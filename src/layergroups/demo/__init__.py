"""The demo: fine-tune a pretrained network on photos or texts, without a download."""

from layergroups.demo._demo_weights import ARCHITECTURE, efficientnet_lite0_weights
from layergroups.demo._run import PHOTOS, SIZE, DemoResult, run
from layergroups.demo._run_text import TEXTS, minilm_folder, run_text

__all__ = [
    "ARCHITECTURE", "PHOTOS", "SIZE", "TEXTS", "DemoResult", "efficientnet_lite0_weights",
    "minilm_folder", "run", "run_text",
]  # fmt: skip
