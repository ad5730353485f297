"""transformers' Trainer with an image classifier, as in its guide to image classification.

TimmWrapperForImageClassification, random crops and flips, rate 5e-5 with a tenth of warm-up, the
best state of a held-out tenth of the training images at the end. The epochs of the head's phase are
added to those of the network, because the guide has a single phase.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import BATCH, Fitted, Job, main
from peer_parts import Photos, holdout, image_tensor, predictions
from torch import Tensor
from torchvision.transforms import v2
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
)

PROBLEMS = {
    "classes": "single_label_classification",
    "tags": "multi_label_classification",
    "number": "regression",
}


def collate(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    images, targets = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(targets)}


def fit(job: Job) -> Fitted:
    finish = image_tensor(job.network)
    varied = v2.Compose([v2.RandomResizedCrop(job.size), v2.RandomHorizontalFlip(), *finish])
    plain = v2.Compose([v2.Resize(job.size), v2.CenterCrop(job.size), *finish])
    config = TimmWrapperConfig(
        architecture=job.network.timm_name, model_args=job.network.options,
        num_labels=len(job.data.vocab), problem_type=PROBLEMS[job.data.kind],
    )  # fmt: skip
    model = TimmWrapperForImageClassification(config)
    model.timm_model = job.network.build(job.weights, len(job.data.vocab))
    train, held = holdout(job.data.train, 0.1, job.seed)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH,
        "learning_rate": 5e-5, "warmup_steps": 0.1, "num_train_epochs": 1 + job.epochs,
        "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
        "save_total_limit": 1, "remove_unused_columns": False, "report_to": "none",
        "disable_tqdm": True, "seed": job.seed, "use_cpu": True,
    }  # fmt: skip
    trainer = Trainer(
        model,
        TrainingArguments(str(job.scratch / "trainer"), **settings),
        data_collator=collate,
        train_dataset=Photos(job.data, train, varied),
        eval_dataset=Photos(job.data, held, plain),
    )
    trainer.train()
    return Fitted(lambda files: predictions(job, model.timm_model, plain, files))


if __name__ == "__main__":
    main(fit)
