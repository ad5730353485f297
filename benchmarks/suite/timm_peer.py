"""The recipe of timm's train.py with layer decay and its usual augmentation.

train.py is not in timm's wheel, so its steps are rebuilt with timm's own functions, for:

    train.py --opt adamw --lr 5e-4 --weight-decay 0.05 --layer-decay 0.75 --sched cosine
        --warmup-epochs (a tenth) --sched-on-updates --aa rand-m9-mstd0.5-inc1 --reprob 0.25
        --mixup 0.1 --cutmix 1.0 --mixup-prob 0.5 --smoothing 0.1 --model-ema
        --model-ema-decay 0.98 --model-ema-warmup

The epochs of the head's phase are added to those of the network, because it has a single phase.
"""

from __future__ import annotations

import torch
from harness import Fitted, Job, main
from peer_parts import Photos, batches, loss_of, predictions
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3


def fit(job: Job) -> Fitted:
    outputs = len(job.data.vocab)
    statistics = {"mean": job.network.mean, "std": job.network.std, "interpolation": "bicubic"}
    varied = create_transform(
        job.size, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25,
        re_mode="pixel", **statistics,
    )  # fmt: skip
    plain = create_transform(job.size, **statistics)
    loader = batches(Photos(job.data, job.data.train, varied), job.seed, drop_last=True)
    mixup = Mixup(0.1, 1.0, prob=0.5, label_smoothing=0.1, num_classes=outputs)
    classes = job.data.kind == "classes"
    loss_func = SoftTargetCrossEntropy() if classes else loss_of(job.data)

    model = job.network.build(job.weights, outputs)
    optimizer = create_optimizer_v2(model, "adamw", lr=5e-4, weight_decay=0.05, layer_decay=0.75)
    epochs = 1 + job.epochs
    steps = epochs * len(loader)
    schedule, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=steps, warmup_epochs=steps // 10, warmup_prefix=True,
        warmup_lr=1e-6, min_lr=1e-6, step_on_epochs=True,
    )  # fmt: skip
    ema = ModelEmaV3(model, decay=0.98, use_warmup=True)
    step = 0
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            if classes:
                even = len(images) // 2 * 2
                images, targets = mixup(images[:even], targets[:even])
            loss = loss_func(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            ema.update(model, step=step)
            schedule.step(step)
    best = ema.module if isinstance(ema.module, torch.nn.Module) else model
    return Fitted(lambda files: predictions(job, best, plain, files))


if __name__ == "__main__":
    main(fit)
