"""A model that takes a dict of images and masks, and gives an object; and one without images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.training.test_forward import Classifier, Output, Sequences
from tests.training.tiny import TinyBatches, TinyLoaders, tiny_model
from torch import Tensor, nn

from layergroups import Learner


class ImageClassifier(nn.Module):
    """As those of transformers: keywords in, an object with .logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = tiny_model()

    def forward(self, ids: Tensor, pixel_values: Tensor) -> Output:
        features = self.body(pixel_values) + ids[:, None, None, None]
        return Output(self.head(features), features)


class DictBatches(TinyBatches):
    """Batches ({"ids", "pixel_values"}, class)."""

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield {"ids": y * 0, "pixel_values": x}, y


@dataclass
class DictLoaders(TinyLoaders):
    """The images of `TinyLoaders` in dicts."""

    input: Any = field(default=None)

    def _batches(self, n: int, seed: int, **options: Any) -> DictBatches:
        made = super()._batches(n, seed, **options)
        return DictBatches(made.x, made.y, self.batch_size, **options)

    def load(self, item: Any) -> Any:
        image = super().load(item)
        return {"ids": image.new_zeros(()).long(), "pixel_values": image}


def of_images() -> Learner:
    return Learner(DictLoaders(), ImageClassifier(), split=2, progress=False)


def of_sequences() -> Learner:
    return Learner(Sequences(), Classifier(), progress=False)
