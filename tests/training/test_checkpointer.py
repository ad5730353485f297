"""A fit that was cut off goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.tasks.trained import model_for
from tests.training.tiny import LabelLoaders

from layergroups.errors import TrainingError


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(make, tmp_path: Path) -> None:
    dls = LabelLoaders()
    whole = make(model_for(dls), dls=dls).fine_tune(2, 1e-2)

    class Crash:
        def after_epoch(self, run: Any) -> None:
            if run.phase == "late" and run.epoch == 0:
                raise RuntimeError("power cut")

    folder = tmp_path / "runs"
    broken = make(model_for(dls), dls=dls, callbacks=[Crash()])
    with pytest.raises(TrainingError, match="power cut"):
        broken.fine_tune(2, 1e-2, checkpoint_dir=folder)
    again = make(model_for(dls), dls=dls)
    rows = again.fine_tune(2, 1e-2, checkpoint_dir=folder, resume=True)
    assert [row.valid_loss for row in rows] == [row.valid_loss for row in whole]
