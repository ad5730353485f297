"""The demo: a real network fine-tuned on real photos, without a download."""

from layergroups.demo._run import DemoResult, run
from layergroups.demo._weights import efficientnet_lite0_weights

__all__ = ["DemoResult", "efficientnet_lite0_weights", "run"]
