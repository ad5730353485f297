"""Runs of the Trainer in processes of their own: python trainer_script.py SCENARIO FOLDER [STEP].

With a STEP the process kills itself after the checkpoint of that step; a second start resumes.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.integrations.tiny_models import arguments, items, model_of
from transformers import TrainerCallback

from layergroups import GradualUnfreezing, decay
from layergroups.integrations import UnfreezeOnPlateau
from layergroups.integrations.transformers import LayerGroupsTrainer

PLANS = {
    "epochs": lambda: GradualUnfreezing(every=0.5),
    "steps": lambda: GradualUnfreezing(every=5, unit="steps"),
    "loss": lambda: UnfreezeOnPlateau("loss", min_delta=0.2),
    "eval": lambda: UnfreezeOnPlateau("eval_loss", min_delta=10.0),
}


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer(scenario: str, folder: Path) -> LayerGroupsTrainer:
    torch.manual_seed(0)
    extra: dict[str, Any] = {}
    if scenario == "eval":
        extra = {"eval_strategy": "steps", "eval_steps": 2}
    kind = "ImageClassification" if scenario == "steps" else "SequenceClassification"
    return LayerGroupsTrainer(
        model_of(kind),
        arguments(folder, save_strategy="steps", save_steps=4, **extra),
        train_dataset=items(kind),
        eval_dataset=items(n=8),
        layer_lr=decay(1e-2, 0.5),
        unfreeze=PLANS.get(scenario, PLANS["epochs"])(),
    )  # fmt: skip


def main(scenario: str, folder: Path, step: int = 0) -> None:
    run = trainer(scenario, folder)
    if step:
        run.add_callback(Kill(step))
    resumed = any(folder.glob("checkpoint-*"))
    run.train(resume_from_checkpoint=resumed or None)
    tensors = {name: t.clone() for name, t in run.model.state_dict().items()}
    for i, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{key}": t.clone() for key, t in state.items() if torch.is_tensor(t)}
    frozen = torch.tensor(
        [entry.get("learning_rate/early") == 0.0 for entry in run.state.log_history]
    )
    save_file(tensors | {"frozen": frozen}, folder / "end-0.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
