"""From a folder of photos and an architecture's name to a trained, exported, loaded learner."""

import inspect
import json
import logging
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.models.pictures import assert_same_picture, picture
from tests.training.tiny import moved, snapshot
from torch import nn

from layergroups.data import ImageDataLoaders
from layergroups.errors import CheckpointError, LayerGroupsError, ModelError, TrainingError
from layergroups.input_spec import InputSpec
from layergroups.models import load_model
from layergroups.training import Learner, cnn_learner, load_learner, vision_learner
from layergroups.training._learner import LearnerOptions

TINY = "timm:test_resnet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, bluish or reddish."""
    root = tmp_path_factory.mktemp("photos")
    random = numpy.random.default_rng(0)
    for index, name in enumerate(("blue", "red")):
        (root / name).mkdir()
        for number in range(20):
            pixels = random.integers(0, 120, (40, 48, 3), dtype=numpy.uint8)
            pixels[..., 2 - 2 * index] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(folder, size=32, batch_size=8, num_workers=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights that counts as pretrained, with statistics of its own."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model(TINY, pretrained=False).model.train()
        for _ in range(3):
            model(torch.rand(8, 3, 32, 32))
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def learn(photos: ImageDataLoaders, weights: Path, tmp_path: Path) -> Learner:
    return vision_learner(
        photos, TINY, weights=weights, metrics=["accuracy"], seed=1, progress=False, path=tmp_path
    )


def test_body_and_head_the_head_alone_trains_at_first(learn: Learner) -> None:
    assert isinstance(learn.model, nn.Sequential)
    assert len(learn.model) == 2
    assert learn.layer_groups.names[-1] == "head"
    assert learn.layer_groups.frozen == (True,) * (len(learn.layer_groups) - 1) + (False,)
    before = snapshot(learn.model)
    learn.fit(1, 1e-2)
    changed = moved(before, learn.model)
    assert changed
    assert {name.split(".")[0] for name in changed} == {"1"}


def test_without_pretrained_weights_nothing_is_frozen(photos: ImageDataLoaders) -> None:
    learn = vision_learner(photos, TINY, pretrained=False, progress=False)
    assert not any(learn.layer_groups.frozen)


def test_photos_are_normalised_as_the_weights_need(folder: Path, weights: Path) -> None:
    photos = ImageDataLoaders.from_folder(folder, size=32, batch_size=8)
    options = {"pretrained": False, "progress": False}
    learn = vision_learner(photos, "timm:test_vit", img_size=32, **options)
    assert learn.dls.input.mean == (0.5, 0.5, 0.5)
    assert photos.input.mean != (0.5, 0.5, 0.5)


def test_statistics_that_were_asked_for_stay_and_that_is_said(folder: Path, caplog) -> None:
    own = InputSpec(mean=(0.1, 0.2, 0.3))
    photos = ImageDataLoaders.from_folder(folder, size=32, batch_size=8, normalize=own)
    learn = vision_learner(photos, TINY, pretrained=False, progress=False)
    assert learn.dls.input.mean == (0.1, 0.2, 0.3)
    assert "images are normalised" in caplog.text


def test_the_whole_road(learn: Learner, photos: ImageDataLoaders) -> None:
    learn.fine_tune(3, 1e-2)
    learn.fit_one_cycle(1, slice(1e-4, 1e-3))
    assert learn.validate()["accuracy"] > 0.9
    learn.save("done")
    found = learn.predict(photos.valid_images.files[0])
    assert found.label == "blue"
    chances, targets = learn.get_preds(learn.dls.test_dl(photos.valid_images.paths))
    assert targets is None
    assert torch.allclose(chances, learn.get_preds()[0], atol=1e-5)


def test_the_same_seed_makes_the_same_learner(photos: ImageDataLoaders, weights: Path) -> None:
    state = torch.get_rng_state()
    options = {"weights": weights, "seed": 4, "progress": False}
    one, two = (vision_learner(photos, TINY, **options) for _ in range(2))
    assert not moved(snapshot(one.model), two.model)
    assert torch.equal(state, torch.get_rng_state())
    one.fit(1)
    two.fit(1)
    assert not moved(snapshot(one.model), two.model)


def test_options_go_to_the_learner_or_to_the_architecture(photos: ImageDataLoaders) -> None:
    options = {"pretrained": False, "progress": False}
    learn = vision_learner(photos, "timm:test_vit", img_size=32, wd=0.2, **options)
    assert learn.weight_decay == 0.2
    assert learn.blueprint.kwargs == {"img_size": 32}
    with pytest.raises(LayerGroupsError, match="weigth_decay"):
        vision_learner(photos, "timm:test_vit", weigth_decay=0.2, **options)


def test_the_types_of_the_options_are_those_of_the_learner() -> None:
    own = inspect.signature(Learner).parameters
    typed = LearnerOptions.__annotations__
    explicit = {"dls", "model", "groups", "split", "metrics", "loss_func", "opt_func", "seed"}
    assert typed.keys() == own.keys() - explicit
    assert {n: a.__forward_arg__ for n, a in typed.items()} == {n: own[n].annotation for n in typed}


def test_older_names(photos: ImageDataLoaders) -> None:
    options = {"pretrained": False, "progress": False, "lin_ftrs": [], "ps": 0.1}
    learn = cnn_learner(photos, TINY, split_on=2, cut=None, bn_final=True, **options)
    assert len(learn.layer_groups) == 2
    assert isinstance(learn.model[1][-1], nn.BatchNorm1d)
    with pytest.raises(TrainingError, match="split_on"):
        cnn_learner(photos, TINY, split_on=2, split=3, **options)


def test_fact_5_with_the_head_of_resnet18(folder: Path, caplog) -> None:
    photos = ImageDataLoaders.from_folder(folder, size=64, batch_size=16)
    learn = vision_learner(
        photos, "torchvision:resnet18", pretrained=False, progress=False, split="classic"
    )
    learn.freeze()
    learn.fit(1)
    *lower, last = learn.model[-1].children()
    learn.model[-1] = nn.Sequential(*lower, nn.Linear(last.in_features, 2))
    before = snapshot(learn.model)
    caplog.clear()
    learn.fit(1)
    assert len(caplog.records) == 1
    assert {"1.3.weight", "1.3.bias"} <= moved(before, learn.model)
    assert not {name for name in moved(before, learn.model) if name.startswith("0")}
    held = {p for g in learn.opt.param_groups if g["layer_group"] == 2 for p in g["params"]}
    assert set(learn.model[-1][-1].parameters()) <= held


# Export


def test_an_export_predicts_without_the_photos(learn: Learner, tmp_path: Path, photos) -> None:
    learn.fine_tune(1, 1e-2)
    learn.layer_groups.set_rates(slice(1e-5, 1e-3))
    learn.freeze_to(-2)
    folder = learn.export(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["learner.json", "model.safetensors"]
    again = load_learner(folder)
    file = photos.valid_images.files[3]
    ours, theirs = learn.predict(file), again.predict(file)
    assert (ours.label, ours.index) == (theirs.label, theirs.index)
    assert torch.equal(ours.probabilities, theirs.probabilities)
    assert again.layer_groups.state_dict() == learn.layer_groups.state_dict()
    assert again.metrics == ["accuracy"]
    chances, _ = again.get_preds(again.dls.test_dl(photos.valid_images.paths))
    assert torch.allclose(chances, learn.get_preds()[0], atol=1e-5)


def test_groups_made_by_hand_know_their_reasons_after_an_export(
    photos: ImageDataLoaders, tmp_path: Path
) -> None:
    for split in (["1"], 2):
        learn = vision_learner(photos, TINY, pretrained=False, split=split, progress=False)
        saved = learn.layer_groups
        again = load_learner(learn.export(tmp_path / "model")).layer_groups
        assert (again.reasons, again.rule) == (saved.reasons, saved.rule)
        assert again.state_dict() == saved.state_dict()


def test_an_export_can_be_trained_further_with_photos(learn: Learner, tmp_path, photos) -> None:
    learn.fit(1)
    again = load_learner(learn.export(tmp_path / "model"))
    again.progress = False
    with pytest.raises(TrainingError, match=r"learn\.dls ="):
        again.fit(1)
    again.dls = photos
    assert again.dls.input.mean == learn.dls.input.mean
    assert again.validate() == pytest.approx(learn.validate())
    before = snapshot(again.model)
    again.fit(1)
    changed = moved(before, again.model)
    assert {name.split(".")[0] for name in changed} == {"1"}
    assert "1.0.running_mean" in changed
    again.unfreeze()
    again.fit(1)
    assert not {n for n in moved(before, again.model) if n[0] == "0" and "running" in n}
    load_learner(again.export(tmp_path / "further")).predict(photos.valid_images.files[0])


def test_a_head_changed_by_hand_is_exported(learn: Learner, tmp_path: Path, photos) -> None:
    first = next(layer for layer in learn.model[1] if isinstance(layer, nn.Linear))
    before = list(learn.model[1])[: list(learn.model[1]).index(first)]
    learn.model[1] = nn.Sequential(*before, nn.Linear(first.in_features, 2))
    again = load_learner(learn.export(tmp_path / "model"))
    file = photos.valid_images.files[0]
    assert torch.equal(learn.predict(file).probabilities, again.predict(file).probabilities)


@pytest.mark.parametrize("cut", [-2, lambda network: nn.Sequential(*list(network.children())[:-2])])
def test_a_body_cut_by_hand(photos, tmp_path: Path, cut, caplog) -> None:
    learn = vision_learner(photos, TINY, pretrained=False, cut=cut, progress=False)
    caplog.clear()
    folder = learn.export(tmp_path / "model")
    file = photos.valid_images.files[0]
    model = learn.model if caplog.records else None
    again = load_learner(folder, model=model)
    assert torch.equal(learn.predict(file).probabilities, again.predict(file).probabilities)


class OwnBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def test_a_module_of_ones_own_must_be_given_again(photos, tmp_path: Path, caplog) -> None:
    learn = vision_learner(photos, OwnBody(), progress=False)
    learn.fit(1)
    caplog.clear()
    folder = learn.export(tmp_path / "model")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(CheckpointError, match=r"load_learner\(.*model=your_module\)"):
        load_learner(folder)
    other = vision_learner(photos, OwnBody(), progress=False)
    again = load_learner(folder, model=other.model)
    file = photos.valid_images.files[0]
    assert torch.equal(learn.predict(file).probabilities, again.predict(file).probabilities)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_learner(folder, model=nn.Linear(3, 3))


def test_surgery_in_the_body_is_found_at_export(learn: Learner, tmp_path: Path, caplog) -> None:
    for path, module in learn.model[0].named_modules():
        if isinstance(module, nn.ReLU):
            learn.model[0].set_submodule(path, nn.Tanh())
    caplog.clear()
    folder = learn.export(tmp_path / "model")
    assert "different outputs" in json.loads((folder / "learner.json").read_text())["needs_model"]
    assert "will need the model" in caplog.text


def test_export_changes_nothing(learn: Learner, tmp_path: Path) -> None:
    learn.model.train()
    before, state = snapshot(learn.model), torch.get_rng_state()
    modes = [module.training for module in learn.model.modules()]
    learn.export(tmp_path / "model")
    assert not moved(before, learn.model)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in learn.model.modules()]


@pytest.fixture(scope="module")
def exported(photos: ImageDataLoaders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn = vision_learner(photos, TINY, pretrained=False, progress=False)
    return learn.export(tmp_path_factory.mktemp("exported") / "model")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("learner.json", lambda text: text[: len(text) // 2], "damaged"),
        ("learner.json", lambda text: b"[]", "damaged"),
        ("learner.json", lambda text: text.replace(b'"version": 1', b'"version": 9'), "Upgrade"),
        ("learner.json", lambda text: text.replace(b'"classes"', b'"klasses"'), "damaged"),
        ("model.safetensors", lambda text: text[:-5], "damaged"),
    ],
)
def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path, name, damage, says) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(LayerGroupsError, match=says):
        load_learner(folder)


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"learn\.export"):
        load_learner(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cut": "layer9"},
        {"metrics": ["nonsense"]},
        {"split": ["layer9"]},
        {"custom_head": nn.Linear(3, 7), "loss_func": "nonsense"},
        {"lin_ftrs": "many"},
        {"n_classes": 3},
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_failing_vision_learner_leaves_the_module_as_it_was(
    photos: ImageDataLoaders, folder: Path, weights: Path, tmp_path: Path, wrong, channels: int
) -> None:
    dls = photos
    if channels == 1:
        options = {"size": 32, "batch_size": 8, "num_workers": 0}
        dls = ImageDataLoaders.from_folder(folder, channels=1, **options)
    network = load_model(TINY, pretrained=False).model.eval()
    network.get_submodule("conv1").requires_grad_(False)
    x = torch.rand(2, 3, 32, 32)
    before = picture(network, x)
    with pytest.raises(LayerGroupsError):
        vision_learner(dls, network, weights=weights, progress=False, path=tmp_path, **wrong)
    assert_same_picture(picture(network, x), before, atol=1e-6)  # the layout in memory may change


def test_a_module_keeps_its_classifier(photos: ImageDataLoaders) -> None:
    network = load_model("timm:test_vit", pretrained=False, img_size=32).model
    learn = vision_learner(photos, network, pretrained=False, progress=False)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    assert learn.model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


@pytest.mark.parametrize("wrong", [5, nn.Linear, "linear"])
def test_a_head_that_is_not_a_module_is_refused(photos: ImageDataLoaders, wrong: object) -> None:
    with pytest.raises(ModelError, match="custom_head"):
        vision_learner(photos, TINY, pretrained=False, custom_head=wrong)
