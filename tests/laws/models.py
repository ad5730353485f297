"""Small models of many shapes, for the laws."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def run(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """A conv-bn-relu run."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(run(channels_in, channels, stride), run(channels, channels))
        self.drop = nn.Dropout(0.2)
        same = channels_in == channels and stride == 1
        self.way = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.drop(self.main(x)) + self.way(x))


class TinyResNet(nn.Module):
    """Stem, three stages of residual blocks, pool, classifier; constructed from back to front."""

    def __init__(self, width: int = 8, blocks: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * width, classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.layer3 = self._stage(2 * width, 4 * width, blocks)
        self.layer2 = self._stage(width, 2 * width, blocks)
        self.layer1 = self._stage(width, width, blocks, stride=1)
        self.stem = run(3, width, 2)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int = 2) -> nn.Sequential:
        first = Residual(channels_in, channels, stride)
        return nn.Sequential(first, *(Residual(channels, channels) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.pool(x).flatten(1))


class TinyTransformer(nn.Module):
    """Patches, a class token, position embeddings, layers, a norm, a classifier."""

    def __init__(self, width: int = 16, layers: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class TiedLanguageModel(nn.Module):
    """Token embedding whose weight is also the head's; one layer that is never used."""

    def __init__(self, words: int = 11, width: int = 8) -> None:
        super().__init__()
        self.head = nn.Linear(width, words, bias=False)
        self.never = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.embedding = nn.Embedding(words, width)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens)))


def image(side: int = 32) -> Tensor:
    """Two images of noise."""
    return torch.randn(2, 3, side, side)
