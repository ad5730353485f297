"""Layer groups in the training loops of other libraries; each module needs the library of its name.

    layergroups.integrations.transformers    the Trainer: a class, a mixin, a callback
    layergroups.integrations.lightning       a callback for any LightningModule

`UnfreezeOnPlateau` is a plan for both, as `layergroups.GradualUnfreezing` is.
"""

from layergroups.integrations._unfreezing import UnfreezeOnPlateau

__all__ = ["UnfreezeOnPlateau"]
