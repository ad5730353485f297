"""Segmentation from two folders to a loaded export: the path of a user."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import LABELS, NAMES, layers, shapes
from torch import nn

from layergroups import (
    BinaryCrossEntropy,
    CrossEntropy,
    DiceLoss,
    FeatureCacheConfig,
    Interpretation,
    SegmentationDataLoaders,
    SumLoss,
    load_learner,
    segmentation_learner,
    unet_learner,
)
from layergroups.data.sources import LayerReader, MaskReader
from layergroups.errors import ArgumentError, LayerGroupsError
from layergroups.reports.run import Cell, record_run
from layergroups.tasks import TASKS, LabelMasksPrediction, MaskPrediction, MaskReport, Meter
from layergroups.training import FitContext, Learner

SMALL: dict[str, Any] = {"size": (48, 64), "batch_size": 4, "num_workers": 0, "cache": False}
TINY = "timm:test_resnet"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def dls(folders: tuple[Path, Path]) -> SegmentationDataLoaders:
    return SegmentationDataLoaders.from_folders(*folders, classes=NAMES, **SMALL)


def learner(dls: SegmentationDataLoaders, **options: Any) -> Learner:
    return segmentation_learner(
        dls, TINY, pretrained=False, seed=1, progress=False, widths=(32, 16), **options
    )


def test_an_unknown_argument_is_refused_by_the_right_name(dls: SegmentationDataLoaders) -> None:
    with pytest.raises(ArgumentError, match=r"^segmentation_learner.* cbs=.*callbacks"):
        learner(dls, cbs=[])


@pytest.fixture(scope="module")
def trained(dls: SegmentationDataLoaders) -> Learner:
    learn = learner(dls)
    learn.fit_one_cycle(8, 1e-2)
    return learn


def test_it_learns_and_gives_a_mask_at_the_size_of_the_image(
    trained: Learner, dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    found = trained.validate()
    assert found["iou"] > 0.5
    assert found["dice"] > found["iou"]
    large = Image.open(dls.valid_images.files[0]).resize((150, 90))
    predicted = trained.predict(large)
    assert isinstance(predicted, MaskPrediction)
    assert predicted.mask.shape == (90, 150)
    assert predicted.probabilities.shape == (3, 48, 64)
    assert sum(predicted.shares.values()) == pytest.approx(1)
    written = Image.open(predicted.save(tmp_path / "mask.png"))
    assert written.mode == "P"
    assert torch.equal(torch.from_numpy(np.array(written)).long(), predicted.mask)
    ((path, other),) = trained.iter_preds([dls.valid_images.files[0]])
    assert other.mask.shape == (48, 64)
    assert path.name.endswith(".jpg")


def test_a_checkpoint_and_a_folder_come_back(
    trained: Learner, dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    trained.path = tmp_path
    trained.save("shapes")
    again = learner(dls, path=tmp_path).load("shapes")
    expected, _ = trained.get_preds()
    assert torch.equal(again.get_preds()[0], expected)
    image = dls.valid_images.files[0]
    loaded = load_learner(trained.export(tmp_path / "export"))
    assert torch.equal(loaded.predict(image).mask, trained.predict(image).mask)
    assert loaded.layer_groups.names == trained.layer_groups.names
    loaded.dls = dls
    assert loaded.validate()["iou"] == pytest.approx(trained.validate()["iou"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_a_single_file_gives_the_same_probabilities(
    trained: Learner, tmp_path: Path, ending: str
) -> None:
    trained.export(tmp_path / f"model.{ending}")  # which compares the file with the learner
    said = json.loads((tmp_path / f"model.{ending}.json").read_text())
    assert said["output"]["shape"] == ["batch", 3, 48, 64]
    assert said["before_the_graph"]["resize_to"] == [48, 64]  # the whole image, and no crop


def test_a_file_follows_its_description_on_images_of_other_shapes(
    trained: Learner, tmp_path: Path
) -> None:
    """The example that runs it without this library gives the learner's mask."""
    program = runpy.run_path(str(Path(__file__).parents[2] / "examples/run_exported.py"))
    image = Image.open(trained.dls.valid_images.files[0]).resize((200, 60))
    image.save(tmp_path / "wide.png")
    trained.export(tmp_path / "model.pt2")
    program["main"]([str(tmp_path / "model.pt2"), str(tmp_path / "wide.png")])
    found = np.asarray(Image.open(tmp_path / "wide.mask.png"))
    assert found.shape == (60, 200)
    assert (found == trained.predict(image).mask.numpy()).mean() > 0.95  # borders are rounded


def test_the_groups_are_those_of_the_body_and_the_new_layers(dls: SegmentationDataLoaders) -> None:
    learn = unet_learner(dls, TINY, pretrained=False, progress=False)
    assert learn.layer_groups.names == ("early", "late", "head")
    assert all(name.startswith("1.") for name, _ in learn.layer_groups[-1].named_parameters())
    assert all(learn.layer_groups.reasons)


def test_a_decoder_trains_at_a_larger_rate_than_other_heads(dls: SegmentationDataLoaders) -> None:
    learn = learner(dls)
    learn.fine_tune(1)
    assert learn.plan is not None
    assert learn.plan.rates[-1] == pytest.approx(0.5 * learn.plan.figures.base_lr)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_frozen_body_stays_as_it_is_to_the_bit_and_runs_once(
    folders: tuple[Path, Path],
) -> None:
    """Its maps of several resolutions are cached, and training on them is the same."""
    plain = SegmentationDataLoaders.from_folders(*folders, classes=NAMES, augment=False, **SMALL)
    found = []
    for cached in (True, False):
        learn = learner(plain)
        learn.freeze()
        body = weights_of(learn.model[0])
        history = learn.fit(2, 1e-2, feature_cache=cached)
        assert all(torch.equal(body[n], t) for n, t in learn.model[0].state_dict().items())
        assert ("body_passes" in history[-1].resources) is cached
        found.append(weights_of(learn.model[1]))
    assert all(torch.allclose(t, found[1][n], rtol=1e-3, atol=1e-4) for n, t in found[0].items())


def test_maps_that_do_not_fit_are_computed_again_and_a_line_says_so(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    plain = SegmentationDataLoaders.from_folders(*folders, classes=NAMES, augment=False, **SMALL)
    learn = learner(plain, feature_cache=FeatureCacheConfig(memory=1000, disk=0))
    learn.freeze()
    history = learn.fit(2, 1e-2)
    assert not history[-1].resources.get("body_passes")
    assert "frozen layers" in caplog.text


class StopAt:
    """Ends a fit before a step, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, run: Any) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


def test_a_killed_fit_ends_as_the_unbroken_one_to_the_bit(
    dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    whole = learner(dls)
    whole.fit_one_cycle(2, 1e-2)
    broken = learner(dls)
    folder = {"checkpoint_dir": tmp_path, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        broken.fit_one_cycle(2, 1e-2, callbacks=[StopAt(4)], **folder)
    again = learner(dls)
    again.fit_one_cycle(2, 1e-2, resume=True, **folder)
    expected = whole.model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in again.model.state_dict().items())


@pytest.mark.parametrize(
    "loss",
    [
        "dice",
        "dice+cross_entropy",
        "focal",
        "dice+focal",
        CrossEntropy(weight="balanced"),
        SumLoss([DiceLoss(), CrossEntropy(weight="balanced")]),
    ],
)
def test_losses_of_masks_leave_out_ignored_pixels(dls: SegmentationDataLoaders, loss: Any) -> None:
    learn = learner(dls, loss_func=loss)
    learn.fit(1, 1e-2)
    func = learn.loss_func
    if not isinstance(func, CrossEntropy):
        outputs = torch.randn(2, 3, 4, 4)
        targets = torch.randint(3, (2, 4, 4))
        targets[:, :2] = -100
        other = outputs.clone()
        other[:, :, :2] += torch.randn(2, 3, 2, 4)
        assert func(outputs, targets) == pytest.approx(float(func(other, targets)), abs=1e-6)
    assert learn.get_preds(with_loss=True)[2].shape == (2,)


def test_masks_are_interpreted_by_pixels(trained: Learner, tmp_path: Path) -> None:
    interp = Interpretation.from_learner(trained)
    report = interp.measures()
    assert isinstance(report, MaskReport)
    assert report.mean_iou == pytest.approx(trained.validate()["iou"], abs=1e-6)
    assert interp.confusion_matrix().total == 2 * 48 * 64
    interp.plot_top_losses(2, tmp_path / "top.png")
    trained.show_results(tmp_path / "results.png", n=2)
    trained.report(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert all(text in page for text in ("IoU", "predicted mask", "pixels"))
    assert page.count("background:rgb(128, 0, 0)") == 2  # the class square, in table and legend


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        ({"background": 0, "square": 255, "disc": 7}, (0, 255, 7)),
        ({"background": 0, "square": 300, "disc": 70}, (0, 300, 70)),
        ({"background": "#000000", "square": "#804080", "disc": "#4682b4"},
         ((0, 0, 0), (128, 64, 128), (70, 130, 180))),
    ],
)  # fmt: skip
def test_saved_masks_are_like_those_of_the_training(
    tmp_path: Path, classes: dict[str, Any], values: tuple[Any, ...]
) -> None:
    """Also from an export and by tiles; they can be read to train again."""
    images, masks = shapes(tmp_path)
    small = np.uint8 if isinstance(values[0], tuple) or max(values) < 256 else np.uint16
    for path in masks.iterdir():
        Image.fromarray(np.array(values, small)[np.asarray(Image.open(path))]).save(path)
    dls = SegmentationDataLoaders.from_folders(images, masks, classes=classes, **SMALL)
    learn = learner(dls)
    learn.predict(images / "00.jpg").save(tmp_path / "other folder/00.png")
    assert dls.mask_values == values
    mask = torch.arange(48 * 64).reshape(48, 64) % 3
    loaded = load_learner(learn.export(tmp_path / "export"))
    for predicted in (loaded.predict(images / "00.jpg", tile=32), learn.predict(images / "00.jpg")):
        for name in ("a.png", "a.npy"):
            path = replace(predicted, mask=mask).save(tmp_path / name)
            assert torch.equal(MaskReader(values).open([str(path)]).long(), mask)


def test_a_mask_is_saved_without_loss_or_not_at_all(trained: Learner, tmp_path: Path) -> None:
    predicted = trained.predict(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(LayerGroupsError, match=r"save\(.a.png"):
        predicted.save(tmp_path / "a.jpg")
    many = MaskPrediction(
        torch.tensor([[0, 256]]), torch.rand(300, 1, 2), tuple(map(str, range(300)))
    )
    assert np.asarray(Image.open(many.save(tmp_path / "many.png"))).tolist() == [[0, 256]]


def test_the_masks_with_the_lowest_iou_are_found(dls: SegmentationDataLoaders) -> None:
    """Half right, wrong, right, and of ignored pixels alone; and where its errors are."""
    actual = torch.tensor([0, 1, 1, -100]).reshape(4, 1, 1).repeat(1, 2, 2)
    predicted = actual.clamp_min(0)
    predicted[0, 0] = 2
    predicted[1] = 0
    interp = Interpretation(
        torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float(), actual,
        torch.arange(4.0), (None,) * 4, NAMES, TASKS["segmentation"],
    )  # fmt: skip
    assert interp.ious()[:3].tolist() == [0.25, 0, 1]  # 0.5 of the class 0, none of the class 2
    assert interp.ious()[3].isnan()
    worst = interp.top_losses(None, by="iou")
    assert [(item.index, item.iou) for item in worst] == [(1, 0), (0, 0.25), (2, 1), (3, None)]
    assert interp.top_losses(1, by="iou", largest=False)[0].index == 2
    assert interp.confused_pixels(0, 0, 2).tolist() == [[True, True], [False, False]]
    assert interp.mask_report(1).classes[1].iou == 0
    last = len(interp) - 1
    assert str(interp.mask_report(-1)) == str(interp.mask_report(last))
    for beyond in (last + 1, -last - 2):
        with pytest.raises(LayerGroupsError, match=str(beyond)):
            interp.mask_report(beyond)
    with pytest.raises(LayerGroupsError, match="by="):
        interp.top_losses(by="dice")
    with pytest.raises(LayerGroupsError, match="IoU"):
        replace(interp, predictions=torch.eye(3), targets=torch.arange(3), losses=torch.ones(3),
                paths=(None,) * 3, task=TASKS["multiclass"]).ious()  # fmt: skip


def test_the_report_shows_where_classes_are_confused(trained: Learner) -> None:
    interp = Interpretation.from_learner(trained)
    outcome = record_run(trained, interp=interp).outcome
    assert outcome is not None
    assert [item.iou for item in outcome.worst] == sorted(interp.ious().tolist())
    assert sum(cell.count for cell in outcome.cells) == 2 * 48 * 64
    pictured = [cell for cell in outcome.cells if cell.shown]
    assert pictured
    for cell in pictured:
        shown = [outcome.shown[i] for i in cell.shown]
        first = max(range(2), key=lambda i: int(interp.confused_pixels(i, *place(cell)).sum()))
        assert shown[0].path == interp.paths[first].name  # type: ignore[union-attr] # from files
        assert all(item.thumb.startswith("data:image/jpeg") for item in shown)
        assert cell.actual != cell.predicted
    text = str(trained.report())
    assert all(word in text for word in ("IoU", "Dice", "pixels"))
    assert "items" not in text.partition("Results")[2].partition("Network")[0]


def place(cell: Cell) -> tuple[int, int]:
    return cell.actual, cell.predicted


def test_averaged_views_and_batches_of_other_masks(
    trained: Learner, dls: SegmentationDataLoaders
) -> None:
    images = dls.valid_images.files
    masks = [label.paths[0] for label in dls.valid_images.labels or ()]  # type: ignore[union-attr] # labels are MaskFiles
    assert trained.validate(dls.test_dl(images, masks)) == trained.validate()
    assert trained.tta(n=2)[0].shape == (2, 3, 48, 64)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """A learner of labels that overlap, trained."""
    folders = layers(tmp_path_factory.mktemp("layers"))
    dls = SegmentationDataLoaders.from_folders(*folders, classes=LABELS, overlapping=True, **SMALL)
    learn = learner(dls, thresh=0.4)
    learn.fit_one_cycle(8, 1e-2)
    return learn


def test_labels_that_overlap_are_learned(several: Learner, tmp_path: Path) -> None:
    found = several.validate()
    assert found["iou"] > 0.5
    image = several.dls.valid_images.files[0]
    predicted = several.predict(Image.open(image).resize((150, 90)))
    assert isinstance(predicted, LabelMasksPrediction)
    assert (predicted.mask.dtype, predicted.mask.shape) == (torch.bool, (2, 90, 150))
    assert predicted.mask.all(dim=0).any()  # some pixels have both labels
    assert set(predicted.shares) == set(LABELS)
    tiled = several.predict(image, tile=(48, 64))
    assert torch.equal(tiled.mask, several.predict(image).mask)
    probabilities, targets = several.get_preds()
    assert probabilities.shape == targets.shape == (2, 2, 48, 64)
    for ending in ("tif", "npy"):
        path = predicted.save(tmp_path / f"masks.{ending}")
        again = LayerReader(LABELS).open([str(path)])
        assert torch.equal(again.bool(), predicted.mask)
    with pytest.raises(LayerGroupsError, match=r"save\(.masks.tif"):
        predicted.save(tmp_path / "masks.png")


def test_labels_that_overlap_are_measured(several: Learner, tmp_path: Path) -> None:
    interp = Interpretation.from_learner(several)
    report = interp.measures()
    assert isinstance(report, MaskReport)
    assert report.mean_iou == pytest.approx(several.validate()["iou"], abs=1e-6)
    assert report.total == 2 * 2 * 48 * 64
    assert interp.class_report()["disc"].f1 == report.classes[1].dice
    with pytest.raises(LayerGroupsError, match="confusion_matrix is not available"):
        interp.confusion_matrix()
    several.show_results(tmp_path / "results.png", n=2)
    several.dls.show_batch(tmp_path / "batch.png", n=2)
    several.report(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert "IoU" in page
    assert "Confusion matrix" not in page
    assert several.tta(n=1)[0].shape == (2, 2, 48, 64)


def test_labels_that_overlap_come_back(several: Learner, tmp_path: Path) -> None:
    loaded = load_learner(several.export(tmp_path / "export"))
    valid = several.dls.valid_images
    image = valid.files[0]
    assert torch.equal(loaded.predict(image).mask, several.predict(image).mask)
    masks = [label.paths[0] for label in valid.labels or ()]
    again = loaded.validate(loaded.dls.test_dl(valid.files, masks))
    expected = several.validate()
    assert again["iou"] == pytest.approx(expected["iou"], abs=1e-6)
    assert again["valid_loss"] == pytest.approx(expected["valid_loss"], abs=1e-5)


@pytest.mark.parametrize(
    "loss",
    ["dice+bce", "binary_focal", "dice+binary_focal", BinaryCrossEntropy(pos_weight="balanced")],
)
def test_losses_of_labels_leave_out_ignored_pixels(several: Learner, loss: Any) -> None:
    learn = learner(several.dls, loss_func=loss)
    learn.fit(1, 1e-2)
    outputs = torch.randn(2, 2, 4, 4)
    targets = torch.randint(2, (2, 2, 4, 4)).float()
    targets[:, 0, :2] = -100
    other = outputs.clone()
    other[:, 0, :2] += torch.randn(2, 2, 4)
    func = learn.loss_func if isinstance(loss, str) else BinaryCrossEntropy(pos_weight=[3.0, 1.0])
    assert func(outputs, targets) == pytest.approx(float(func(other, targets)), abs=1e-6)


def test_ignored_pixels_of_labels_are_not_measured() -> None:
    chances = torch.tensor([[[[0.9, 0.9]], [[0.1, 0.9]]]])
    targets = torch.tensor([[[[1.0, -100.0]], [[0.0, 1.0]]]])
    report = TASKS["multilabel_segmentation"].measures(chances, targets, LABELS)
    assert (report.accuracy, report.total, report.mean_iou) == (1.0, 3, 1.0)
    meter = Meter(["iou", "dice", "accuracy"], 2, "multilabel_segmentation")
    meter.update(chances, targets)
    assert set(meter.compute().values()) == {1.0}


def test_a_whole_model_with_smaller_scores_is_trained_as_it_is(
    dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    """SegFormer of transformers gives scores of a quarter of the sides."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = transformers.SegformerConfig(num_labels=3, decoder_hidden_size=16, **sizes)
    model = transformers.SegformerForSemanticSegmentation(config)
    learn = Learner(dls, model, metrics=["iou"], seed=1, progress=False)
    assert learn.layer_groups.names == ("early", "late", "decoder", "head")
    learn.freeze()
    before = weights_of(model)
    learn.fit(1, 1e-2)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    predictions, targets = learn.get_preds()
    assert predictions.shape == (2, 3, 48, 64)
    assert targets.shape == (2, 48, 64)
    assert learn.predict(dls.valid_images.files[0]).mask.shape == (48, 64)
    learn.show_results(tmp_path / "results.png", n=2)
    unlabelled = learn.get_preds(dls.test_dl(dls.valid_images.files))[0]
    torch.testing.assert_close(unlabelled, predictions)


def test_the_graph_of_a_whole_model_enlarges_its_scores(
    dls: SegmentationDataLoaders, tmp_path: Path
) -> None:
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)]
    learn = Learner(dls, nn.Sequential(*layers), seed=1, progress=False)
    learn.export(tmp_path / "model.pt2")  # which compares it with the learner
    found = torch.export.load(tmp_path / "model.pt2").module()(
        torch.zeros(5, 48, 64, 3, dtype=torch.uint8)
    )
    assert found.shape == (5, 3, 48, 64)


def test_the_last_layer_of_a_whole_model_takes_few_steps_on_cached_maps(
    dls: SegmentationDataLoaders,
) -> None:
    """A step on maps is dear, and has a class for each pixel."""
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    learn = Learner(dls, nn.Sequential(*layers, nn.Conv2d(32, 3, 1)), seed=1, progress=False)

    class Count:
        steps = 0

        def after_step(self, run: FitContext) -> None:
            self.steps += 1

    learn.callbacks.append(count := Count())
    learn.fine_tune(1)
    assert learn.history[0].frozen == (True, True, False)
    assert 100 <= count.steps < 130


def test_grad_cam_explains_a_class_of_a_mask(trained: Learner, several: Learner) -> None:
    """By the scores of the pixels that are of the class; all 0 if there are none."""
    interp = Interpretation.from_learner(trained)
    heats = [interp.grad_cam([0, 1], target=target) for target in (0, 2)]
    assert all(heat.shape == (2, 48, 64) for heat in heats)
    assert not torch.equal(*heats)
    blank = trained.grad_cam(np.zeros((48, 64, 3), np.uint8), target="disc")
    shown = trained.predict(np.zeros((48, 64, 3), np.uint8)).shares["disc"]
    assert bool(blank.heat.any()) is bool(shown)
    found = trained.grad_cam(trained.dls.valid_images.files[0], target="disc")
    assert found.target == "disc"
    assert "disc" in found.predicted
    assert several.grad_cam(several.dls.valid_images.files[0]).heat.shape == (48, 64)
