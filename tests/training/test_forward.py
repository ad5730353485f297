"""A model that takes keywords and gives an object goes through everything that a plain one does."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.training.tiny import TinyBatches, TinyLoaders, moved, snapshot
from torch import Tensor, nn

from layergroups._forward import as_call, call_model, split_batch
from layergroups.data import DataSource, ImageDataLoaders
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import Learner, load_learner


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Classifier(nn.Module):
    """As those of transformers: keywords in, an object with .logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.classifier = nn.Linear(16, 3)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Output:
        kept = values if mask is None else values * mask[..., None]
        hidden = self.encoder(kept).mean(dim=1)
        return Output(self.classifier(hidden), hidden)


@dataclass
class SequenceBatches(TinyBatches):
    """Batches ({"values", "mask"}, class)."""

    read: int = 0

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            self.read += len(x)
            mask = torch.ones(x.shape[:2])
            mask[:, -1] = 0
            yield {"values": x, "mask": mask}, y


@dataclass
class Sequences(TinyLoaders):
    """Three classes of sequences (5, 4)."""

    size: Any = None
    input: Any = field(default=None)

    def _batches(self, n: int, seed: int, **options: Any) -> SequenceBatches:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % 3
        x = torch.randn(n, 5, 4, generator=generator) * 0.5
        x[torch.arange(n), :, y] += 1.0
        return SequenceBatches(x, y, self.batch_size, **options)

    def views(self, *, epoch: int) -> SequenceBatches:
        options = {"noise": self.noise, "epoch": epoch}
        return SequenceBatches(self.train.x, self.train.y, self.batch_size, **options)

    def load(self, item: Any) -> Any:
        return {"values": torch.as_tensor(item), "mask": torch.ones(5)}


def example() -> dict[str, Tensor]:
    return {"values": torch.zeros(2, 5, 4), "mask": torch.ones(2, 5)}


def made(path: Path, **options: Any) -> Learner:
    torch.manual_seed(0)
    model = Classifier()
    groups = LayerGroups(model, ["encoder", "classifier"], example_input=example())
    options = {"lr": 1e-2, "progress": False, "seed": 1, "path": path} | options
    return Learner(Sequences(), model, groups=groups, **options)


def test_it_learns_is_validated_and_predicts(tmp_path: Path) -> None:
    learn = made(tmp_path, metrics="accuracy")
    before = snapshot(learn.model)
    rows = learn.fit(4)
    assert moved(before, learn.model) == set(before)
    assert rows[-1].train_loss < rows[0].train_loss
    assert learn.validate()["accuracy"] > 0.8
    probabilities, targets = learn.get_preds()
    assert probabilities.shape == (18, 3)
    assert torch.equal(targets, learn.dls.valid.y)
    item = learn.dls.valid.x[4]
    assert learn.predict(item).label == learn.dls.vocab[int(targets[4])]


def test_frozen_layers_run_once_and_the_fit_is_the_same(tmp_path: Path, caplog) -> None:
    ends = []
    for store in (True, False):
        learn = made(tmp_path)
        learn.dls.train.noise = learn.dls.noise = 0.0
        learn.freeze_to(-1)
        with caplog.at_level(logging.WARNING, "layergroups"):
            rows = learn.fit(5, feature_cache=store)
        ends.append((learn, rows))
        assert ("cached" in rows[-1].note) == store
    (stored, rows), (plain, others) = ends
    assert [r.train_loss for r in rows] == pytest.approx([r.train_loss for r in others], rel=1e-3)
    assert stored.dls.train.read < plain.dls.train.read
    for name, tensor in stored.model.state_dict().items():
        assert torch.allclose(tensor, plain.model.state_dict()[name], atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_fit_that_was_cut_off_ends_bit_for_bit_where_the_whole_one_ends(
    tmp_path: Path, frozen: bool
) -> None:
    class Dies:
        def after_step(self, run: Any) -> None:
            if run.step == 20:
                raise KeyboardInterrupt

    def learner(path: Path, **options: Any) -> Learner:
        learn = made(path, **options)
        if frozen:
            learn.freeze_to(-1)
        return learn

    folder = {"checkpoint_dir": tmp_path / "c", "checkpoint_every": 3, "resume": True}
    whole = learner(tmp_path)
    whole.fit(6)
    with pytest.raises(KeyboardInterrupt):
        learner(tmp_path, callbacks=[Dies()]).fit(6, **folder)
    resumed = learner(tmp_path)
    resumed.fit(6, **folder)
    assert not moved(snapshot(whole.model), resumed.model)


def test_fine_tune_and_lr_find(tmp_path: Path) -> None:
    learn = made(tmp_path)
    before = snapshot(learn.model)
    found = learn.lr_find(num_it=30, show_plot=False, suggest_funcs="minimum", stop_div=False)
    assert max(found.together.raw) > min(found.together.raw)
    assert not moved(before, learn.model)
    rows = learn.fine_tune(2, 1e-2)
    assert [row.phase for row in rows][:1] == ["head"]


def test_saved_and_exported_it_says_the_same(tmp_path: Path) -> None:
    learn = made(tmp_path)
    learn.fit(2)
    learn.save("a")
    expected, _ = learn.get_preds()
    again = made(tmp_path).load("a")
    assert torch.equal(again.get_preds()[0], expected)


class ImageClassifier(nn.Module):
    """Takes images by name only."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(4, 2)

    def forward(self, *, pixel_values: Tensor) -> Output:
        hidden = self.encoder(pixel_values).flatten(1)
        return Output(self.classifier(hidden), hidden)


class NamedImages(DataSource):
    """Images of a folder as {"pixel_values": image}."""

    def __init__(self, images: ImageDataLoaders) -> None:
        self.images, self.vocab, self.seed = images, images.vocab, images.seed
        self.batch_size, self.input, self.size = images.batch_size, images.input, images.size
        self.task, self.transform_config = images.task, images.transform_config

    task: Any = None
    train = property(lambda self: [({"pixel_values": x}, y) for x, y in self.images.train])
    valid = property(lambda self: [({"pixel_values": x}, y) for x, y in self.images.valid])

    def example(self) -> Any:
        return {"pixel_values": super().example()}

    def load(self, item: Any) -> Any:
        return {"pixel_values": self.images.load(item)}


def test_an_export_of_a_model_that_takes_images_by_name_predicts(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(12)]
    for number, file in enumerate(files):
        Image.new("RGB", (16, 16), (number * 20,) * 3).save(file)
    labels = ["dark"] * 6 + ["bright"] * 6
    images = ImageDataLoaders.from_lists(files, labels, size=16, batch_size=4, num_workers=0)
    learn = Learner(NamedImages(images), ImageClassifier(), progress=False)
    learn.fit(1)
    folder = learn.export(tmp_path / "model")
    loaded = load_learner(folder, model=ImageClassifier())
    assert loaded.layer_groups.names == learn.layer_groups.names
    expected = learn.predict(files[0]).probabilities
    assert torch.allclose(loaded.predict(files[0]).probabilities, expected, atol=1e-6)
    (_, found), *_ = loaded.iter_preds(files)
    assert torch.allclose(found.probabilities, expected, atol=1e-6)
    program = torch.export.load(learn.export(tmp_path / "model.pt2")).module()
    pixels = torch.full((1, 16, 16, 3), 0, dtype=torch.uint8)  # the first file
    assert torch.allclose(program(pixels)[0], expected, atol=1e-5)


def test_compiled_it_takes_keywords_too(tmp_path: Path) -> None:
    learn = made(tmp_path, compile={"backend": "eager"})
    plain = made(tmp_path)
    assert learn.fit(1)[0].train_loss == pytest.approx(plain.fit(1)[0].train_loss, rel=1e-5)


def test_the_forms_of_inputs_and_batches() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert as_call(x) == ((x,), {})
    assert as_call([x, y]) == ((x, y), {})
    assert as_call({"a": x}) == ((), {"a": x})
    assert split_batch({"a": x, "labels": y})[1] is y
    inputs, targets = split_batch({"a": x})
    assert (list(inputs), targets) == (["a"], None)


@pytest.mark.parametrize("outputs", [{"scores": torch.zeros(2)}, (torch.zeros(2),), 3.0])
def test_outputs_without_logits_are_an_error_that_teaches(outputs: Any) -> None:
    with pytest.raises(TrainingError, match="logits"):
        call_model(lambda x: outputs, torch.zeros(2))


@pytest.mark.parametrize("files", [["a.jpg"], [Path("a.jpg")]])
def test_files_in_the_place_of_batches_name_the_call_that_takes_them(files: Any) -> None:
    learn = Learner(TinyLoaders(n=8), nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), split=["1"])
    for call in (learn.get_preds, learn.validate):
        with pytest.raises(TrainingError, match=r"test_dl\(files\)"):
            call(files)


def test_in_a_fit_too(tmp_path: Path) -> None:
    class Bare(Classifier):
        def forward(self, values: Tensor, mask: Tensor | None = None) -> Any:
            return {"scores": super().forward(values, mask).logits}

    model = Bare()
    groups = LayerGroups(model, ["encoder", "classifier"], example_input=example())
    with pytest.raises(TrainingError, match="scores"):
        Learner(Sequences(), model, groups=groups, progress=False).fit(1)
