"""Layer groups under a training loop of one's own: `python examples/plain_loop.py`.

No Learner here: a network, `LayerGroups`, and any torch optimizer. The classifier is replaced by
hand; `sync` brings groups, freezing and optimizer in step with the network again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from layergroups import ImageDataLoaders, LayerGroups, load_model
from layergroups.demo import efficientnet_lite0_weights
from layergroups.demo._demo_weights import ARCHITECTURE
from layergroups.demo._run import PHOTOS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Layer groups under a plain loop.")
    parser.add_argument("folder", nargs="?", default=PHOTOS, help="photos, a folder for each class")
    parser.add_argument("--arch", default=ARCHITECTURE)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1, help="of each of the two phases")
    options = parser.parse_args(arguments)

    weights = efficientnet_lite0_weights() if options.arch == ARCHITECTURE else None
    loaded = load_model(options.arch, weights=weights, pretrained=False)
    network = loaded.model
    photos = ImageDataLoaders.from_folder(
        options.folder, size=options.size, batch_size=options.batch_size, normalize=loaded.input
    )

    example = torch.zeros(2, 3, options.size, options.size)
    groups = LayerGroups(network, example_input=example)
    optimizer = torch.optim.AdamW(groups.param_groups(lr=slice(1e-5, 1e-3)))
    groups.attach(optimizer)  # from now on sync() keeps it in step with the network

    # Surgery: a classifier of 1000 classes out, one of 6 in. Groups and optimizer follow.
    place = groups.anatomy.classifiers[0].path
    features = network.get_submodule(place).in_features
    network.set_submodule(place, nn.Linear(features, photos.c))
    groups.sync()
    print(groups)

    groups.freeze()  # the head alone, then everything
    for _ in range(options.epochs):
        train(network, optimizer, photos)
    groups.unfreeze()
    for _ in range(options.epochs):
        train(network, optimizer, photos)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, photos: ImageDataLoaders) -> None:
    """One epoch. Frozen groups stay in eval mode also after network.train()."""
    network.train()
    for x, y in photos.train:
        optimizer.zero_grad()
        loss = cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in photos.valid)
    n = len(photos.valid_images)
    print(f"last loss {loss.item():.3f}, {right} of {n} validation photos right")


if __name__ == "__main__":
    main()
