"""Law 10: an error is of our tree, names what was wrong and a right call, and keeps the cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layergroups
from layergroups import errors
from layergroups.groups import compare_groups
from layergroups.models import TargetUnits
from layergroups.training import FineTunePlan, FlatCos, LabelsPrediction, Thaw
from tests.training.tiny import LabelLoaders, TinyLoaders, tiny_model

lg: Any = layergroups  # without types, for what is wrong on purpose
EXAMPLE = torch.zeros(2, 3, 16, 16)
PATHS = ["0.0", "0.7", "1"]


@dataclass
class Place:
    """Where mistakes are made: a folder of photos, an empty one, a damaged file."""

    photos: Path
    path: Path

    def __post_init__(self) -> None:
        (self.path / "empty").mkdir()
        (self.path / "bad.safetensors").write_bytes(b"junk")

    @cached_property
    def dls(self) -> Any:
        return lg.ImageDataLoaders.from_folder(self.photos, size=32, batch_size=4)

    def groups(self, split: Any = None, **options: Any) -> Any:
        options.setdefault("example_input", EXAMPLE)
        return lg.LayerGroups(tiny_model(), PATHS if split is None else split, **options)

    def learn(self, **options: Any) -> Any:
        made = {"split": PATHS, "progress": False, "path": self.path, **options}
        return lg.Learner(TinyLoaders(n=16), tiny_model(), **made)

    def vision(self, arch: Any = "timm:test_resnet", **options: Any) -> Any:
        return lg.vision_learner(self.dls, arch, **{"pretrained": False, **options})


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Place:
    return Place(folder, tmp_path)


def frozen(place: Place, *names: str) -> Any:
    learn = place.learn()
    learn.freeze(*(names or ["0.0"]))
    return learn


def freeze_all(place: Place) -> None:
    learn = place.learn()
    learn.layer_groups.freeze(*PATHS)
    learn.fit(1)


Mistake = Callable[[Place], object]
# what was wrong, what the message must name (a pattern), and the kind of the cause that it keeps
MISTAKES: dict[str, list[tuple[Mistake, type[Exception], str, type[BaseException] | None]]] = {
    "LayerGroups": [
        (lambda p: lg.LayerGroups("resnet18"), errors.AnatomyError,
         r"'resnet18' is not a torch.nn.Module.*load_model\(", None),
        (lambda p: p.groups(example_input=torch.zeros(2, 5)), errors.AnatomyError, r"\(2, 5\)",
         RuntimeError),
        (lambda p: p.groups(head="classifier"), errors.AnatomyError, "'classifier'", None),
        (lambda p: p.groups(1.5), errors.GroupingError, r"split=1.5.*'auto'", None),
        (lambda p: p.groups([]), errors.GroupingError, r"split=\[\].*a list of module paths", None),
        (lambda p: p.groups(["0.77"]), errors.GroupingError, r"'0.77'\. Did you mean 0.7\?", None),
        (lambda p: p.groups({"a": "("}), errors.GroupingError, r"'\(' of group 'a'", Exception),
        (lambda p: p.groups({"a": 3}), errors.GroupingError, "pattern 3 of group 'a'", TypeError),
        (lambda p: p.groups(lambda m: m.layer4), errors.GroupingError,
         "layer4.*takes the model and returns", AttributeError),
        (lambda p: p.groups(lambda m: None), errors.GroupingError, "returns for each", TypeError),
        (lambda p: p.groups(0), errors.GroupingError, "split=0", None),
        (lambda p: p.groups().freeze("stem"), errors.GroupingError, "'stem'; there are", None),
        (lambda p: p.groups().freeze_to(9), errors.GroupIndexError, "group 9.*give -3 to 2", None),
        (lambda p: p.groups().unfreeze(None), errors.GroupingError, "not by None", None),
        (lambda p: p.groups().thaw(-1), errors.GroupingError, r"epoch=-1.*such as epoch=1", None),
        (lambda p: p.groups(1).freeze(), errors.GroupingError, r"split=2.*freeze\('all'\)", None),
        (lambda p: p.groups().set_rates([1, 2]), errors.GroupingError, "2 learning rates", None),
        (lambda p: p.groups().set_rates({"1": "fast"}), errors.GroupingError, "'fast'", ValueError),
        (lambda p: p.groups().set_rates(None), errors.GroupingError, r"NoneType; give a num", None),
        (lambda p: p.groups().param_groups(lr=-1), errors.GroupingError, "is -1.*>= 0", None),
        (lambda p: p.groups().attach(torch.optim.SGD(tiny_model().parameters(), 0.1)),
         errors.GroupingError, r"groups\.param_groups\(", None),
        (lambda p: p.groups().attach(None), errors.GroupingError, r"groups\.param_groups\(", None),
        (lambda p: compare_groups(None, {}), errors.GroupingError, r"state_dict\(\)", None),
        (lambda p: p.groups().load_state_dict(3), errors.GroupingError, r"state_dict\(\)", None),
        (lambda p: p.groups().load_state_dict({}), errors.GroupingError, r"state_dict\(\)", None),
    ],
    "LayerGroup": [
        (lambda p: p.groups()[3], errors.GroupIndexError, "give -3 to 2, or a name", None),
        (lambda p: p.groups()[1.5], errors.GroupingError, "by name or index, not by 1.5", None),
        (lambda p: p.groups()["tail"].freeze(), errors.GroupingError, "'tail'; there are", None),
    ],
    "decay": [
        (lambda p: p.groups().set_rates(lg.decay("a")), errors.GroupingError, "give numbers",
         ValueError),
        (lambda p: p.groups().set_rates(lg.decay(1e-3, -0.5)), errors.GroupingError, ">= 0", None),
    ],
    "Learner": [
        (lambda p: p.learn().predict(torch.zeros(2, 5)), errors.TrainingError,
         r"inputs of shape \(1, 2, 5\).*takes one item", RuntimeError),
        (lambda p: p.learn().get_preds(3), errors.TrainingError, r"dl=3 must.*test_dl", None),
        (lambda p: p.learn().validate("photos"), errors.TrainingError, "dl='photos' must", None),
        (lambda p: p.learn().tta(torch.zeros(2, 3, 16, 16)), errors.TrainingError,
         r"dl=a tensor must.*\[inputs\]", None),
        (lambda p: p.learn().show_results(dl=3), errors.TrainingError, "dl=3 must", None),
        (lambda p: p.learn(path=None), errors.TrainingError, 'None is not a path.*"models"', None),
        (lambda p: p.learn(groups="auto"), errors.TrainingError, 'split="auto"', None),
        (lambda p: p.learn().save("a\0b"), errors.CheckpointError, "NUL", None),
        (lambda p: p.learn().save(None), errors.CheckpointError, r'learn\.save\("first"\)', None),
        (lambda p: p.learn().export(3), errors.CheckpointError, r'learn\.export\("model"\)', None),
        (lambda p: p.learn().fit(1, checkpoint_dir=3), errors.TrainingError, "checkpoints", None),
        (lambda p: p.learn().fit_one_cycle(1, div="a"), errors.TrainingError, "div=25", None),
        (lambda p: p.learn().fit_one_cycle(1, pct_start=None), errors.TrainingError,
         "from 0 to 1", None),
        (lambda p: p.learn().fine_tune(1, defaults=3), errors.TrainingError,
         r"FineTuneDefaults\(", None),
        (lambda p: p.learn().history.to_csv(3), errors.CheckpointError, "history.csv", None),
        (lambda p: p.learn().plot_schedule("fit", 1, path=3), errors.LayerGroupsError,
         "picture.png", None),
        (lambda p: lg.Learner(TinyLoaders(), "resnet18"), errors.AnatomyError, "load_model", None),
        (lambda p: p.learn(opt_func="adamx").fit(1), errors.TrainingError, "'adamw'", None),
        (lambda p: p.learn(opt_func="lbfgs").fit(1), errors.TrainingError, "partial", ValueError),
        (lambda p: p.learn(loss_func="ce"), errors.TrainingError, "'ce'.*cross_entropy", None),
        (lambda p: p.learn(loss_func=nn.MSELoss), errors.TrainingError, r"MSELoss\(\)", None),
        (lambda p: p.learn(opt_func="timm:lamp").fit(1), errors.TrainingError, "'lamb'", None),
        (lambda p: p.learn(clip=-1), errors.TrainingError, "clip=-1.*such as clip=1", None),
        (lambda p: p.learn(ema=2), errors.TrainingError, r"ema=2.*ema=0\.999", None),
        (lambda p: p.learn(compile="fast"), errors.TrainingError, "compile=True", None),
        (lambda p: p.learn(compile={"backend": "none"}).fit(1), errors.TrainingError,
         "Leave compile= out", Exception),
        (lambda p: p.learn().fit(1, callbacks=[Thaw]), errors.TrainingError, r"zing\(\)", None),
        (lambda p: p.learn().fit_flat_cos(1, pct_start=2), errors.TrainingError,
         "from 0 to 1", None),
        (lambda p: p.learn().fit_flat_cos("1"), errors.TrainingError, "such as", None),
        (lambda p: p.learn().plot_schedule("fit"), errors.ArgumentError, "'epochs'", TypeError),
        (lambda p: p.learn().plot_schedule("cycle", 1), errors.TrainingError, "fit_one_c", None),
        (lambda p: p.learn(metrics=["acc"]), errors.TrainingError, "'acc'.*accuracy", None),
        (lambda p: p.learn(callbacks=[Thaw]), errors.TrainingError, r"zing\(\)", None),
        (lambda p: p.learn(callbacks=[3]), errors.TrainingError, "before_fit", None),
        (lambda p: p.learn(callbacks=3), errors.TrainingError, r"callbacks=\[3\]", None),
        (lambda p: p.learn(wd="a"), errors.TrainingError, r"such as weight_decay=0\.01", None),
        (lambda p: p.learn(weight_decay=-1), errors.TrainingError, "weight_decay=-1", None),
        (lambda p: lg.Learner(None, tiny_model()), errors.TrainingError,
         "no train and no valid.*from_folder", None),
        (lambda p: p.learn().fine_tune(1, base_lr="a"), errors.TrainingError, "base_lr='a'", None),
        (lambda p: p.learn().fit(1, resume=True), errors.TrainingError, "checkpoint_dir=", None),
        (lambda p: p.learn(thresh=5), errors.TrainingError, r"thresh=5 .*thresh=0\.5", None),
        (lambda p: p.learn(loss_func=nn.MSELoss()).fit(1), errors.TrainingError,
         r"\(8, 3\).*targets \(8,\).*vision_learner", None),
        (lambda p: lg.Learner(LabelLoaders(task="some"), tiny_model()), errors.TrainingError,
         "task='some'.*multilabel", None),
        (lambda p: lg.Learner(LabelLoaders(), tiny_model(), loss_func="cross_entropy").fit(1),
         errors.TrainingError, "CrossEntropy does not fit.*'multilabel'.*BCEWithLogits", None),
        (lambda p: p.learn(batch_norm="freeze"), errors.TrainingError, "'update'", None),
        (lambda p: p.learn(mixed_precision="fp32"), errors.TrainingError, "bf16", None),
        (lambda p: p.learn(lr="fast"), errors.GroupingError, r"slice\(low, high\)", None),
        (lambda p: p.learn().lr_find(start_lr="low"), errors.TrainingError, "start_lr='low'", None),
        (lambda p: p.learn().lr_find(end_lr=None), errors.TrainingError, "end_lr=None", None),
        (lambda p: p.learn().lr_find(1, 0.1), errors.TrainingError, "start_lr=1 must be below",
         None),
        (lambda p: p.learn().lr_find(num_it=5), errors.TrainingError, "num_it=5 .*from 20",
         None),
        (lambda p: p.learn().lr_find(num_it="all"), errors.TrainingError, "num_it='all'", None),
        (lambda p: p.learn().lr_find(suggest_funcs="best"), errors.TrainingError,
         "'best' is not a suggestion.*valley", None),
        (lambda p: p.learn().lr_find(suggest_funcs=[]), errors.TrainingError, "at least one", None),
        (lambda p: p.learn().lr_find(by_group="1"), errors.TrainingError, "by_group='1'.*list",
         None),
        (lambda p: p.learn().lr_find(by_group=["tail"]), errors.GroupingError, "'tail'; there are",
         None),
        (lambda p: frozen(p).lr_find(by_group=["1", "0.0"]), errors.TrainingError,
         r"names 0\.0, frozen.*learn\.unfreeze\('0\.0'\)", None),
        (lambda p: frozen(p, *PATHS).lr_find(), errors.TrainingError, "Nothing would train", None),
        (lambda p: p.learn().lr_find(num_it=20, stop_div=False).rates_by("x"), errors.TrainingError,
         "no suggestion 'x'; there are valley", None),
        (lambda p: p.learn().lr_find(num_it=20, stop_div=False).plot("x.txt"),
         errors.LayerGroupsError, r"x\.png", None),
        (lambda p: p.learn().fit(1.5), errors.TrainingError, "epochs=1.5.*such as", None),
        (lambda p: p.learn().fit_one_cycle(1, div=0), errors.TrainingError, "div=25", None),
        (lambda p: p.learn().fine_tune(-1), errors.TrainingError, "epochs=-1", None),
        (freeze_all, errors.TrainingError, r"Nothing would train.*learn\.unfreeze\(\)", None),
        (lambda p: p.learn().load("nothing"), errors.CheckpointError, "no file .*nothing", None),
        (lambda p: p.learn().load("bad"), errors.CheckpointError, "damaged", Exception),
        (lambda p: p.learn().validate([]), errors.TrainingError, r"validate\(dl\)", None),
        (lambda p: p.learn().validate([EXAMPLE]), errors.TrainingError, "inputs only", None),
        (lambda p: p.learn().get_preds([]), errors.TrainingError, "batches are empty", None),
        (lambda p: p.learn().tta(), errors.TrainingError, r"dls\.test_dl\(paths\)", None),
        (lambda p: p.vision().tta(n=0), errors.TrainingError, "n=0.*such as n=4", None),
        (lambda p: p.vision().tta(beta=2), errors.TrainingError, "beta=2.*0 to 1", None),
        (lambda p: p.learn().summary("all"), errors.LayerGroupsError, "'all'.*'layers'", None),
        (lambda p: p.learn().show_results(n=0), errors.LayerGroupsError, "n=0.*n=9", None),
        (lambda p: p.learn().show_results(3), errors.LayerGroupsError, "path=3.*picture.png", None),
        (lambda p: p.learn().grad_cam(EXAMPLE[0], "cat"), errors.LayerGroupsError,
         r"'cat'.*'red'.*learn\.grad_cam\(item", None),
        (lambda p: p.learn().export(p.path / "e"), errors.TrainingError, r"learn\.save\(", None),
        (lambda p: p.vision().export(p.path / "m.tflite"), errors.CheckpointError, ".onnx", None),
        (lambda p: p.learn().predict(EXAMPLE[0], LabelsPrediction), errors.TrainingError,
         r"predict\(item, Prediction\)", None),
        (lambda p: p.learn().lr, errors.NoAttributeError, r"set_rates\(", None),
        (lambda p: setattr(p.learn(), "device", "cuda"), errors.NoAttributeError, "ACCELERATE_",
         None),
        (lambda p: p.learn(opt_func="adaam"), errors.TrainingError,
         "'adam' or '(?!adam')[a-z]+' or", None),
        (lambda p: setattr(p.learn(), "model", None), errors.AnatomyError, "torch.nn.Module", None),
        (lambda p: setattr(p.learn(), "dls", TinyLoaders(vocab=("a", "b"))), errors.TrainingError,
         "a, b.*red, green, blue", None),
    ],
    "EarlyStopping": [
        (lambda p: lg.EarlyStopping(3), errors.TrainingError, 'monitor="valid_loss"', None),
        (lambda p: lg.EarlyStopping(patience=0), errors.TrainingError, "patience=3", None),
        (lambda p: lg.EarlyStopping(min_delta="a"), errors.TrainingError, "min_delta=0.001", None),
        (lambda p: lg.EarlyStopping(mode="up"), errors.TrainingError, "'up'.*\"max\"", None),
        (lambda p: p.learn(callbacks=[lg.EarlyStopping("val_loss")]).fit(1), errors.TrainingError,
         "'val_loss' is not a column of this fit, which has train_loss, valid_loss", None),
    ],
    "ReduceLROnPlateau": [
        (lambda p: lg.ReduceLROnPlateau(factor=10), errors.TrainingError, "factor=10.*0.1", None),
        (lambda p: lg.ReduceLROnPlateau(min_lr=-1), errors.TrainingError, "min_lr=-1", None),
    ],
    "StopOnNaN": [
        (lambda p: p.learn(callbacks=[lg.StopOnNaN]), errors.TrainingError, r"StopOnNaN\(\)", None),
    ],
    "SaveBest": [
        (lambda p: lg.SaveBest(name=3), errors.TrainingError, 'name=3.*name="best"', None),
        (lambda p: p.learn(callbacks=[lg.SaveBest("accuracy")]).fit(1), errors.TrainingError,
         r'metrics=\["accuracy"\]', None),
    ],
    "CSVLog": [
        (lambda p: lg.CSVLog(3), errors.TrainingError, r'CSVLog\("logs/history.csv"\)', None),
        (lambda p: lg.CSVLog(p.path), errors.TrainingError, "logs/history.csv", None),
    ],
    "Trackers": [
        (lambda p: lg.Trackers("board"), errors.TrainingError, "not a tracker.*tensorboard", None),
        (lambda p: lg.Trackers(3), errors.TrainingError, "GeneralTracker", None),
        (lambda p: lg.Trackers("swanlab"), errors.TrainingError, "pip install swanlab", None),
        (lambda p: lg.Trackers([], every=0), errors.TrainingError, "every=10", None),
    ],
    "MixUp": [
        (lambda p: lg.MixUp(alpha=0), errors.TrainingError, "alpha=0 must.*alpha=0.4", None),
        (lambda p: lg.MixUp("a"), errors.TrainingError, "alpha='a'", None),
    ],
    "CutMix": [
        (lambda p: lg.CutMix(p=2), errors.TrainingError, "p=2 must.*p=1", None),
    ],
    "ProgressiveSizes": [
        (lambda p: lg.ProgressiveSizes(224), errors.TrainingError, r"\(\[128, 160, 224\]\)", None),
        (lambda p: lg.ProgressiveSizes([0]), errors.TrainingError, "size=0", errors.DataError),
        (lambda p: p.vision(callbacks=[lg.ProgressiveSizes([16, 24])]).fit(1), errors.TrainingError,
         "24 x 24, but data", None),
    ],
    "LivePlot": [
        (lambda p: lg.LivePlot(seconds=-1), errors.TrainingError, "seconds=-1.*seconds=2", None),
    ],
    "SegmentationDataLoaders": [
        (lambda p: lg.SegmentationDataLoaders.from_folders(None, p.path, classes=["a", "b"]),
         errors.DataError, "None is not a path.*masks", None),
        (lambda p: lg.SegmentationDataLoaders.from_folders(p.path, p.path / "no", classes=["a"]),
         errors.DataError, "masks: there is no folder", None),
    ],
    "TextDataLoaders": [
        (lambda p: lg.TextDataLoaders.from_table(p.path / "no.csv", text="a", label="b", model="x"),
         errors.DataError, "Expected a CSV", FileNotFoundError),
    ],
    "segmentation_learner": [
        (lambda p: lg.segmentation_learner([], "resnet18"), errors.TrainingError,
         "no train and no valid", None),
    ],
    "unet_learner": [
        (lambda p: lg.unet_learner(lg.ImageDataLoaders.from_folder(p.photos, size=32), "resnet18"),
         errors.TrainingError, "SegmentationDataLoaders", None),
    ],
    "text_learner": [
        (lambda p: lg.text_learner([]), errors.TrainingError, "TextDataLoaders.from_table", None),
    ],
    "vision_learner": [
        (lambda p: lg.vision_learner([], "resnet18"), errors.TrainingError,
         r"no train and no valid.*ImageDataLoaders", None),
        (lambda p: p.vision(cut=1.5), errors.CutError, "cut=1.5 is not a place.*0: ", None),
        (lambda p: p.vision("resnet1"), errors.UnknownArchitectureError, "torchvision:resnet18",
         None),
        (lambda p: p.vision(3), errors.UnknownArchitectureError, "load_model", None),
        (lambda p: p.vision(nonsense=1), errors.ArgumentError, "nonsense=", errors.ModelError),
        (lambda p: p.vision(metric=[]), errors.ArgumentError, "mean metrics=", errors.ModelError),
        (lambda p: p.vision(cbs=[]), errors.ArgumentError, r"no argument cbs=.*callbacks",
         errors.ModelError),
        (lambda p: p.vision(y_range=(0, 1)), errors.ModelError, "'multiclass'.*numbers", None),
        (lambda p: p.vision(y_range=5), errors.ModelError, "y_range=5 bounds the numbers",
         None),
        (lambda p: p.vision(cut="nothing"), errors.CutError, "'nothing'.*children of", None),
        (lambda p: p.vision(type("PreTrainedModel", (nn.Linear,), {})(2, 2)), errors.ModelError,
         r"replace_head\(model, dls\.c\)", None),
        (lambda p: p.vision(ps=2), errors.ModelError, "0 <= p < 1, not 2", None),
        (lambda p: p.vision(weights="no.pth"), errors.WeightsError, "no.pth.*Expected", None),
        (lambda p: p.vision(weights=p.path / "bad.safetensors"), errors.WeightsError, "cannot be",
         Exception),
    ],
    "cnn_learner": [
        (lambda p: lg.cnn_learner(None, "resnet18"), errors.TrainingError,
         r"NoneType\) have no train.*from_folder\(", None),
        (lambda p: lg.cnn_learner(p.dls, "resnet18", split="auto", split_on="auto"),
         errors.TrainingError, "give one of them", None),
    ],
    "load_learner": [
        (lambda p: lg.load_learner(None), errors.CheckpointError, r'None is not.*\("model"\)',
         None),
        (lambda p: lg.load_learner("a\0b"), errors.CheckpointError, "NUL", None),
        (lambda p: lg.load_learner(p.path / "no"), errors.CheckpointError, r"learn\.export", None),
        (lambda p: lg.load_learner(p.path / "bad.safetensors"), errors.CheckpointError,
         r"is a file.*learn\.load\(", None),
        (lambda p: lg.load_learner(p.path / "empty"), errors.CheckpointError, "learner.json", None),
    ],
    "create_body": [
        (lambda p: lg.create_body("resnet18"), errors.AnatomyError, "load_model", None),
        (lambda p: lg.create_body(tiny_model(), 99), errors.CutError, r"cut=99.*cut=-1", None),
        (lambda p: lg.create_body(tiny_model(), "x"), errors.CutError, "cut='x'.*children", None),
    ],
    "create_head": [
        (lambda p: lg.create_head(8, 2, lin_ftrs=3), errors.ModelError, r"lin_ftrs=\[256\]", None),
        (lambda p: lg.create_head(8, 2, ps=None), errors.ModelError, "0 <= p < 1, not None", None),
        (lambda p: lg.create_head(8, 2, units=3), errors.ModelError, r"TargetUnits\.of\(", None),
        (lambda p: lg.create_head(0, 2), errors.ModelError, "nf=0 .* such as nf=512", None),
        (lambda p: lg.create_head(8, 1.5), errors.ModelError, "n_out=1.5 .* n_out=10", None),
        (lambda p: lg.create_head(8, 1, y_range=(2, 1)), errors.ModelError, r"\(2, 1\)", None),
        (lambda p: lg.create_head(8, 1, units=TargetUnits([0, 1], [1, 1])), errors.ModelError,
         r"TargetUnits\(2\) must be", None),
        (lambda p: TargetUnits([0.4], [0]), errors.ModelError, "above 0", None),
        (lambda p: TargetUnits(["a"], [1]), errors.ModelError, r"TargetUnits\(\[0\.4\]", None),
    ],
    "replace_head": [
        (lambda p: lg.replace_head(nn.ReLU(), 3, example_input=torch.zeros(2, 3)),
         errors.ModelError, r"nn\.Sequential\(model, nn\.Linear", None),
        (lambda p: lg.replace_head("resnet18", 3), errors.AnatomyError, "load_model", None),
        (lambda p: lg.replace_head(tiny_model(), 0), errors.ModelError, "n_out=0", None),
    ],
    "grow_head": [
        (lambda p: lg.grow_head("resnet18", 3), errors.AnatomyError, "load_model", None),
        (lambda p: lg.grow_head(tiny_model(), 2, example_input=EXAMPLE), errors.ModelError,
         "shrink_head", None),
    ],
    "shrink_head": [
        (lambda p: lg.shrink_head(tiny_model(), 4, example_input=EXAMPLE), errors.ModelError,
         r"has 3 outputs.*shrink_head\(model, 2\)", None),
        (lambda p: lg.shrink_head(tiny_model(), [0, 7], example_input=EXAMPLE), errors.ModelError,
         "7", None),
    ],
    "change_input_channels": [
        (lambda p: lg.change_input_channels(tiny_model(), 0, example_input=EXAMPLE),
         errors.ModelError, "channels=0", None),
    ],
    "transplant": [
        (lambda p: lg.transplant(nn.Linear(2, 3), nn.Conv2d(3, 4, 5)), errors.TransplantError,
         "", None),
        (lambda p: lg.transplant("old", tiny_model()), errors.TransplantError,
         r"a str.*transplant\(old_learn", None),
    ],
    "RunReport": [
        (lambda p: lg.RunReport(()), errors.LayerGroupsError, "not 0", None),
        (lambda p: lg.RunReport(("run",)), errors.LayerGroupsError,
         r"RunReport.read\(folder\)", None),
        (lambda p: lg.RunReport.read(3), errors.CheckpointError, "3 is not a path", None),
        (lambda p: lg.RunReport.read(p.path / "empty"), errors.CheckpointError,
         "layergroups train --out", FileNotFoundError),
        (lambda p: lg.RunReport.read(p.path / "bad.safetensors"), errors.CheckpointError,
         "bad.safetensors", ValueError),
        (lambda p: p.learn().report("run.pdf"), errors.LayerGroupsError, r"run\.html", None),
        (lambda p: p.learn().report(3), errors.LayerGroupsError, "3 is not a path", None),
        (lambda p: p.learn().report(title=3), errors.LayerGroupsError, "title=3", None),
        (lambda p: p.learn().report(images="no"), errors.LayerGroupsError, "images='no'", None),
        (lambda p: p.learn().report(p.path / "bad.safetensors" / "run.html"),
         errors.CheckpointError, "bad.safetensors", OSError),
    ],
    "Interpretation": [
        (lambda p: lg.Interpretation.from_learner(None), errors.LayerGroupsError,
         r"from_learner\(learn\)", None),
        (lambda p: lg.Interpretation.from_learner(p.learn(), [EXAMPLE]), errors.TrainingError,
         r"\(inputs, targets\)", None),
        (lambda p: lg.Interpretation.from_learner(p.learn()).residuals(), errors.LayerGroupsError,
         r"class_report\(\)", None),
    ],
    "grad_cam": [
        (lambda p: lg.grad_cam("resnet18", EXAMPLE), errors.AnatomyError, r"load_model\(", None),
        (lambda p: lg.grad_cam(tiny_model(), EXAMPLE[0]), errors.LayerGroupsError,
         r"\(3, 16, 16\).*learn\.grad_cam\(", None),
        (lambda p: lg.grad_cam(tiny_model(), EXAMPLE, 3), errors.LayerGroupsError, "0 to 2", None),
        (lambda p: lg.grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), EXAMPLE),
         errors.AnatomyError, "spatial map", None),
    ],
    "list_models": [
        (lambda p: lg.list_models(3), errors.UnknownArchitectureError, r'list_models\("', None),
    ],
    "load_model": [
        (lambda p: lg.load_model("tf:resnet18"), errors.UnknownArchitectureError, "library", None),
        (lambda p: lg.load_model("resnet18", weights=3), errors.WeightsError,
         '3 is not a path.*weights="resnet18.pth"', None),
        (lambda p: lg.load_model(""), errors.UnknownArchitectureError, "list_models", None),
        (lambda p: lg.load_model("resnet18", pretrained=False, foo=1), errors.ModelError, "foo=1",
         TypeError),
    ],
    "read_anatomy": [
        (lambda p: lg.read_anatomy(None), errors.AnatomyError, "None is not a torch", None),
        (lambda p: lg.read_anatomy(nn.LazyLinear(3)), errors.LazyModuleError, "Run it once", None),
        (lambda p: lg.read_anatomy(tiny_model(), EXAMPLE, head="x"), errors.AnatomyError, "'x'",
         None),
    ],
    "ImageDataLoaders": [
        (lambda p: lg.ImageDataLoaders.from_folder(None), errors.DataError,
         r'None is not a path.*from_folder\("photos"\)', None),
        (lambda p: lg.ImageDataLoaders.from_folder("a\0b"), errors.DataError, "NUL", None),
        (lambda p: lg.ImageDataLoaders.from_table("a\0b"), errors.DataError, "NUL", None),
        (lambda p: p.dls.show_batch(3), errors.DataError, "3 is not a path.*batch.png", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.path / "no"), errors.DataError,
         "Expected a folder", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.path / "empty"), errors.DataError,
         "has no images", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, valid_pct=2), errors.DataError,
         "valid_pct=0.2", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, batch_size=0), errors.DataError,
         "batch_size=64", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, size="a"), errors.DataError, "224",
         None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, augment="strong"), errors.DataError,
         '"rand", "trivial"', None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, balance="yes"), errors.DataError,
         "True for all classes equally often", None),
        (lambda p: p.dls.test_dl(["no.jpg"]), errors.BrokenImagesError, "no.jpg.*skip", None),
        (lambda p: p.dls.test_dl(3), errors.DataError, "nor a list of paths.*a folder", TypeError),
        (lambda p: p.dls.test_dl(["a.jpg"], ["x", "y"]), errors.DataError, "2 labels", None),
        (lambda p: lg.ImageDataLoaders.from_folder(p.photos, channels=0), errors.DataError,
         "channels=0.*channels=3", None),
        (lambda p: lg.ImageDataLoaders.from_lists("a.jpg", "b"), errors.DataError,
         "expected a list", None),
        (lambda p: lg.ImageDataLoaders.from_lists(["a.jpg"], ["b"]), errors.DataError,
         "at least two classes", None),
        (lambda p: lg.ImageDataLoaders.from_lists(["a.jpg"], ["b"], batchsize=2),
         errors.ArgumentError, "mean batch_size=", None),
        (lambda p: lg.ImageDataLoaders.from_table(p.path / "no.csv"), errors.DataError,
         "Expected a CSV", FileNotFoundError),
        (lambda p: lg.ImageDataLoaders.from_table(None), errors.DataError, "not a table", None),
        (lambda p: lg.ImageDataLoaders.from_pattern(p.photos, "("), errors.DataError,
         "not a regular expression.*pattern=r", Exception),
        (lambda p: lg.ImageDataLoaders.from_dataset([1, 2]), errors.DataError, "from_lists", None),
        (lambda p: p.dls.folds(1), errors.DataError, r"folds\(5\)", None),
        (lambda p: p.dls.show_batch(n=0), errors.DataError, "n=9", None),
        (lambda p: p.dls.show_batch(p.path / "a.txt"), errors.DataError, "a.png", None),
    ],
    "CrossEntropy": [
        (lambda p: lg.CrossEntropy(weight="even"), errors.TrainingError, r'"balanced".*\[1', None),
        (lambda p: lg.CrossEntropy(label_smoothing=3), errors.TrainingError, "from 0 to 1", None),
    ],
    "GradualUnfreezing": [
        (lambda p: lg.GradualUnfreezing(every=0), errors.GroupingError, "every=0", None),
    ],
    "FocalLoss": [
        (lambda p: lg.FocalLoss(gamma="a"), errors.TrainingError, "gamma=2", None),
    ],
    "BinaryCrossEntropy": [
        (lambda p: lg.BinaryCrossEntropy(pos_weight="a"), errors.TrainingError, "pos_weight", None),
    ],
    "BinaryFocalLoss": [
        (lambda p: lg.BinaryFocalLoss(gamma=-1), errors.TrainingError, "gamma=2", None),
    ],
    "DiceLoss": [
        (lambda p: lg.DiceLoss(cross_entropy=2), errors.TrainingError, "cross_entropy=0.5", None),
    ],
    "BinaryDiceLoss": [
        (lambda p: lg.BinaryDiceLoss(cross_entropy=2), errors.TrainingError, "=0.5", None),
    ],
    "SumLoss": [
        (lambda p: lg.SumLoss("dice"), errors.TrainingError, "a list of losses: SumLoss", None),
        (lambda p: lg.SumLoss(["dice", "focl"]), errors.TrainingError, "mean focal", None),
        (lambda p: lg.SumLoss(["dice", "focal"], [1]), errors.TrainingError,
         r"each of the 2 losses.*weights=\[0.5, 0.5\]", None),
        (lambda p: lg.SumLoss(["dice", "bce"]), errors.TrainingError,
         "different ways.*several labels BinaryCrossEntropy", None),
    ],
    "training": [
        (lambda p: lg.training.OneCycle(moms=(1.0, 2.0)), errors.TrainingError, "moms=", None),
        (lambda p: lg.training.OneCycle(moms="abc"), errors.TrainingError, "moms=", None),
        (lambda p: FlatCos(pct_start=2), errors.TrainingError, "from 0 to 1", None),
        (lambda p: FineTunePlan(epochs=1, freeze_epochs=-1), errors.TrainingError, "freeze_", None),
        (lambda p: Thaw(every=0), errors.GroupingError, r"every=0.*such as every=2", None),
    ],
}  # fmt: skip
# read by the library or made by it, not called with what a person types
DATA = {"Anatomy", "Cut", "DataError", "History", "InputSpec", "LayerGroupsError",
        "Transplant", "__version__", "L1", "Huber", "MeanSquaredError", "Augmentation", "Callback",
        "EpochRow", "FeatureCacheConfig", "FineTuneDefaults", "Flat", "FlatCos", "OneCycle",
        "Schedule", "Thaw"}  # fmt: skip
CASES = [(entry, i) for entry, rows in MISTAKES.items() for i in range(len(rows))]


@pytest.mark.parametrize(("entry", "number"), CASES)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_mistake_is_answered_with_an_error_that_teaches(
    entry: str, number: int, place: Place
) -> None:
    mistake, kind, words, cause = MISTAKES[entry][number]
    with pytest.raises(errors.LayerGroupsError) as caught:
        mistake(place)
    error = caught.value
    assert type(error) is kind
    message = " ".join(str(error).split())
    assert error.__class__.__module__ == "layergroups.errors"
    assert re.search(words, message), message
    assert not isinstance(error, (StopIteration, AssertionError, KeyError))
    if cause is None:
        assert error.__cause__ is None
    else:
        assert isinstance(error.__cause__, cause)


def test_every_public_entry_point_has_a_mistake_in_the_table() -> None:
    assert set(lg.__all__) - DATA <= set(MISTAKES)


def test_a_name_that_is_not_exported_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no name Learnr\. Did you mean Learner\?"):
        _ = lg.Learnr


def test_all_errors_are_in_one_tree_and_drawn_in_it() -> None:
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    for kind in found:
        assert issubclass(kind, errors.LayerGroupsError)
        assert kind.__name__ in str(errors.__doc__)
        assert kind.__doc__


def test_a_group_that_is_not_there_is_an_index_error_too() -> None:
    """So that code written for a sequence works."""
    groups = lg.LayerGroups(tiny_model(), PATHS, example_input=EXAMPLE)
    with pytest.raises(IndexError):
        groups[3]
