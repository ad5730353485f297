"""Files that run without this library, tried by what their users would run them with."""

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from layergroups import LayerGroups
from layergroups.checkpoints import Portable, trial_pixels, write_portable
from layergroups.checkpoints._export_file import _run_pt2, clean_copy
from layergroups.data import EvalTransform
from layergroups.data.image._transforms import normalise
from layergroups.errors import CheckpointError
from layergroups.groups._freezing import StayInEval
from layergroups.input_spec import InputSpec
from layergroups.models._heads import AdaptiveConcatPool2d
from layergroups.tasks import task_named

SIZE = (12, 10)
SPEC = InputSpec(mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5))
WANTED = Portable(
    classes=("a", "ß"),
    transform=EvalTransform(SIZE, SPEC, 0.9),
    activation=lambda outputs: outputs.softmax(1),
    loss="CrossEntropyLoss",
    task=task_named("multiclass"),
)
FORMATS = ["pt2", pytest.param("onnx", marks=pytest.mark.slow)]


def tiny() -> nn.Sequential:
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
    head = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2))
    body[1].running_mean.add_(0.3)
    torch.random.set_rng_state(generator)
    return nn.Sequential(body, head)


def says(model: nn.Module, pixels: Tensor) -> Tensor:
    """The probabilities of the model itself, which keeps its modes."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        answer = model.eval()(normalise(pixels, SPEC)).softmax(1)
    for module, training in modes:
        module.training = training
    return answer


def write(path: Path, model: nn.Module, **options: Any) -> Path:
    pixels = trial_pixels(SIZE)
    if "expected" not in options:
        options["expected"] = says(model, pixels)
    return write_portable(path, model, WANTED, inputs={"pixels": pixels}, **options)


def run(path: Path, pixels: Tensor) -> Tensor:
    """As a stranger would run the file."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(pixels)
    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(["probabilities"], {"pixels": pixels.numpy()})[0])


def description_in(path: Path) -> dict[str, Any]:
    """What the file itself says of itself."""
    if path.suffix == ".pt2":
        extra = {"description.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["description.json"])
    session = onnxruntime.InferenceSession(str(path))
    return json.loads(session.get_modelmeta().custom_metadata_map["layergroups"])


@pytest.mark.parametrize("ending", FORMATS)
def test_pixels_go_in_and_probabilities_come_out(ending: str, tmp_path: Path) -> None:
    model = tiny()
    path = write(tmp_path / "new" / f"m.{ending}", model)
    for n in (1, 2, 7):
        pixels = torch.randint(0, 256, (n, *SIZE, 3), dtype=torch.uint8)
        assert torch.allclose(run(path, pixels), says(model, pixels), atol=1e-5)
    said = json.loads((tmp_path / "new" / f"m.{ending}.json").read_text(encoding="utf-8"))
    assert said["checked"]["largest_difference"] < 1e-4
    inside = description_in(path)
    assert inside == {key: value for key, value in said.items() if key != "checked"}
    assert said["classes"] == ["a", "ß"]
    assert said["input"]["shape"] == ["batch", 12, 10, 3]
    assert said["before_the_graph"]["resize_to_cover"] == [13, 11]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.json"]


def test_onnx_calls_the_number_of_images_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", tiny())
    session = onnxruntime.InferenceSession(str(path))
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == [
        "batch", "batch"
    ]  # fmt: skip


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = tiny()
    groups = LayerGroups(model, ["0.0", "1"], example_input=torch.zeros(2, 3, *SIZE))
    model.train()
    groups.freeze()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trains = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    write(tmp_path / "m.PT2", model)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert trains == [parameter.requires_grad for parameter in model.parameters()]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_copy_has_the_users_hooks_but_not_those_of_freezing() -> None:
    model = tiny().half()
    groups = LayerGroups(model, ["0.0", "1"], example_input=torch.zeros(2, 3, *SIZE))
    groups.freeze()
    model[1].register_forward_pre_hook(lambda *_: None)

    def hooks(of: nn.Module) -> list[Any]:
        return [hook for module in of.modules() for hook in module._forward_pre_hooks.values()]

    before = hooks(model)
    assert any(isinstance(hook, StayInEval) for hook in before)
    copied = clean_copy(model)
    (kept,) = hooks(copied)
    assert not isinstance(kept, StayInEval)
    assert hooks(model) == before
    assert not copied.training
    assert copied[1][3].weight.dtype == torch.float32
    assert model[1][3].weight.dtype == torch.float16


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :2] * (2 if x.sum() > 0 else 3)


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :2] + torch.rand(2)


def test_a_model_that_cannot_be_captured_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("an older file", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cannot capture Branching.*torch\.where") as caught:
        write(path, Branching())
    assert caught.value.__cause__ is not None
    assert path.read_text(encoding="utf-8") == "an older file"


def test_a_file_that_says_something_else_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("an older file", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is 0\.\d+ in the file and 0\."):
        write(path, Drawing())
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]
    assert path.read_text(encoding="utf-8") == "an older file"


def test_an_output_of_another_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(5, 2\).*\(5, 3\)"):
        write(tmp_path / "m.pt2", tiny(), expected=torch.zeros(4, 3))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r'onnx: pip install "layergroups\[onnx\]".*\.pt2'):
        write(tmp_path / "m.onnx", tiny())
    assert list(tmp_path.iterdir()) == []


class Unknown(nn.Module):
    """Uses an operation that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x).mean((2, 3))[:, :2]


@pytest.mark.slow
def test_the_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"bessel_j0.*learn\.export\(folder\)"):
        write(tmp_path / "m.onnx", Unknown())


def test_a_graph_that_does_not_run_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    shapes = {"input": {0: torch.export.Dim("batch")}}
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(4, 3),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    wrong = {"input": torch.zeros(1, 4)}
    with pytest.raises(CheckpointError, match=r"input of shape \(1, 4\).*learn\.export\(folder\)"):
        _run_pt2(path, wrong)


class WithLogits(nn.Module):
    """As the models of transformers and of torchvision's segmentation give their outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = tiny(), kind

    def forward(self, pixel_values: Tensor) -> Any:
        logits = self.inner(pixel_values)
        if self.kind == "object":
            return ImageClassifierOutput(logits=logits)
        return {"out": logits, "aux": logits * 2}


@pytest.mark.parametrize("kind", ["object", "dict"])
@pytest.mark.parametrize("ending", FORMATS)
def test_the_file_gives_what_the_logits_of_an_output_mean(
    kind: str, ending: str, tmp_path: Path
) -> None:
    pixels = trial_pixels(SIZE)
    expected = says(tiny(), pixels)
    path = write(tmp_path / f"m.{ending}", WithLogits(kind), expected=expected)
    assert torch.allclose(run(path, pixels), expected, atol=1e-5)
