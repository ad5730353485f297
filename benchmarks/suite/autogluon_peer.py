"""The recipe of AutoGluon MultiModal's image classifier, rebuilt; not AutoGluon itself.

Of its default configuration: AdamW at 1e-4, weight decay 0.001, rates falling by 0.9 a layer,
cosine with a tenth of warm-up, gradients clipped to norm 1, TrivialAugment on the centre crop, a
fifth of the training images held out and judged twice an epoch, a greedy soup of the best three.
The epochs of the head's phase are added to those of the network, because it has a single phase.
"""

from __future__ import annotations

import copy

import torch
from harness import Fitted, Job, main
from peer_parts import Photos, batches, holdout, image_tensor, loss_of, predictions
from sets import ImageSet
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import get_cosine_schedule_with_warmup

State = dict[str, Tensor]


def mean_of(states: list[State]) -> State:
    return {
        name: torch.stack([s[name] for s in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def fit(job: Job) -> Fitted:
    crop = [v2.Resize(job.size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(job.size)]
    finish = image_tensor(job.network)
    plain = v2.Compose([*crop, *finish])
    varied = v2.Compose([*crop, v2.TrivialAugmentWide(), *finish])
    train, held = holdout(job.data.train, 0.2, job.seed)
    judged = ImageSet(job.data.folder, job.data.kind, job.data.vocab, train, held)
    loader = batches(Photos(job.data, train, varied), job.seed)

    model: nn.Module = job.network.build(job.weights, len(job.data.vocab))
    loss_func = loss_of(job.data)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=1e-3, layer_decay=0.9)
    steps = (1 + job.epochs) * len(loader)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)

    def judge(state: State) -> float:
        model.load_state_dict(state)
        return judged.score(predictions(job, model, plain, held.files))[0]

    best: list[tuple[float, State]] = []
    step, pause = 0, max(1, len(loader) // 2)
    for _ in range(1 + job.epochs):
        for images, targets in loader:
            model.train()
            loss = loss_func(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % pause == 0 or step == steps:
                state = copy.deepcopy(model.state_dict())
                best = sorted([*best, (judge(state), state)], key=lambda pair: -pair[0])[:3]
    soup, reached = [best[0][1]], best[0][0]
    for _, state in best[1:]:
        found = judge(mean_of([*soup, state]))
        if found >= reached:
            soup, reached = [*soup, state], found
    model.load_state_dict(mean_of(soup))
    return Fitted(lambda files: predictions(job, model, plain, files))


if __name__ == "__main__":
    main(fit)
