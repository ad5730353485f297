"""What anatomy says of well-known networks, and why."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from layergroups.anatomy import Anatomy, choose_splits, read_anatomy
from layergroups.errors import AnatomyError, ExampleInputError, LazyModuleError

# architecture, where its body is divided, words of the reason
SPLITS = [
    ("resnet18", "layer3.0", "28 → 14, 1/16 of the image"),
    ("resnet34", "layer3.0", "28 → 14, 1/16 of the image"),
    ("vgg16", "features.17", "56 → 28, the fall nearest to half of the depth (7 of 13"),
    ("vgg16_bn", "features.24", "56 → 28, the fall nearest to half of the depth (7 of 13"),
    ("alexnet", "features.6", "27 → 13"),
    ("mobilenet_v2", "features.7", "28 → 14"),
    ("vit_b_16", "encoder.layers.encoder_layer_6", "the resolution stays the same"),
    ("swin_t", "features.4", "28 → 14"),
]

# architecture, path of the classifier, features that come into it, one vector an image?
HEADS = [
    ("resnet18", "fc", 512, True),
    ("vgg16", "classifier.6", 4096, True),
    ("squeezenet1_1", "classifier.1", 512, False),
    ("convnext_tiny", "classifier.2", 768, True),
    ("densenet121", "classifier", 1024, True),
]


def anatomy_of(name: str) -> Anatomy:
    with torch.device("meta"):
        return read_anatomy(torchvision.models.get_model(name, weights=None))


@pytest.mark.parametrize(("name", "path", "words"), SPLITS)
def test_split_and_its_reason(name: str, path: str, words: str) -> None:
    anatomy = anatomy_of(name)
    ((boundary, reason),) = choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, 2)
    assert boundary.path == path
    assert words in reason


@pytest.mark.parametrize(("name", "path", "features", "flat"), HEADS)
def test_head(name: str, path: str, features: int, flat: bool) -> None:
    (classifier,) = anatomy_of(name).classifiers
    assert (classifier.path, classifier.in_features, classifier.takes_vector) == (
        path,
        features,
        flat,
    )
    assert classifier.out_features == 1000


def test_head_reaches_back_over_all_that_works_on_one_vector() -> None:
    assert [b.name for b in anatomy_of("vgg16").head] == [
        "classifier.0",
        "classifier.3",
        "classifier.6",
    ]


def test_residual_blocks_stay_whole_and_chains_are_opened() -> None:
    anatomy = anatomy_of("resnet18")
    assert [b.name for b in anatomy.blocks] == [
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1",
        "layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc",
    ]  # fmt: skip
    assert anatomy.blocks[0].modules == ("conv1", "bn1", "relu", "maxpool")
    assert all(b.kind == "BasicBlock" for b in anatomy.blocks[1:9])
    kinds = {b.kind for b in anatomy_of("mobilenet_v2").body}
    assert kinds == {"Conv2d", "InvertedResidual"}


def test_tokens_and_positions_belong_to_the_block_that_uses_them_first() -> None:
    anatomy = read_anatomy(timm.create_model("vit_tiny_patch16_224", pretrained=False))
    assert {"cls_token", "pos_embed"} <= set(anatomy.blocks[0].parameters)
    assert anatomy.blocks[0].name == "stem"


def test_order_is_that_of_execution_not_of_the_constructor() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 3)
            self.second = nn.Conv2d(4, 8, 3, stride=2)
            self.first = nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(x)).mean((2, 3)))

    anatomy = read_anatomy(Backwards(), torch.zeros(2, 3, 32, 32))
    assert [b.name for b in anatomy.blocks] == ["first", "second", "last"]
    assert [b.in_head for b in anatomy.blocks] == [False, False, True]


def test_headless_network_says_so() -> None:
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    anatomy = read_anatomy(network)
    assert not anatomy.has_head
    assert "sum of several depths" in anatomy.head_reason


def test_mlp_head_is_the_last_layer_only() -> None:
    mlp = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [b.name for b in read_anatomy(mlp, torch.zeros(4, 10)).head] == ["4"]


def test_lazy_modules_are_refused_and_left_alone() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(LazyModuleError, match="Run it once on a real batch first"):
        read_anatomy(model, torch.zeros(2, 3, 8, 8))
    assert isinstance(model[0].weight, nn.UninitializedParameter)


def test_example_input_is_asked_for_where_none_fits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, 3))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ self.w + b

    with pytest.raises(ExampleInputError, match="example_input="):
        read_anatomy(Odd())
    assert read_anatomy(Odd(), (torch.zeros(2, 3), torch.zeros(2, 3))).blocks[0].parameters == (
        "w",
    )


def test_wrong_example_input_names_the_cause() -> None:
    with pytest.raises(AnatomyError, match=r"of shape \(2, 5\)"):
        read_anatomy(nn.Linear(3, 2), torch.zeros(2, 5))


class Raising(nn.Module):
    """Raises as it is told to."""

    def __init__(self, error: Exception, cause: Exception | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.error, self.cause = error, cause

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error from self.cause


WORDS = "CUDA backend: the image driver of cuda:0 gives a torch.cuda.HalfTensor, triton custom op"


@pytest.mark.parametrize("error", [ValueError(WORDS), RuntimeError(WORDS), TypeError(WORDS)])
def test_a_mistake_is_not_taken_for_a_missing_kernel_by_its_words(error: Exception) -> None:
    with pytest.raises(AnatomyError) as given:
        read_anatomy(Raising(error), torch.zeros(2, 3, 8, 8))
    assert given.value.__cause__ is error
    with pytest.raises(ExampleInputError) as guessed:
        read_anatomy(Raising(error))
    assert guessed.value.__cause__ is not None
    assert guessed.value.__cause__.__cause__ is error


@pytest.mark.parametrize("error", [NotImplementedError("no kernel"), ImportError("no module")])
def test_a_missing_kernel_is_known_by_the_type_of_the_error(error: Exception) -> None:
    assert read_anatomy(Raising(error)).source == "registration order"
    assert read_anatomy(Raising(RuntimeError("?"), error)).source == "registration order"
    with pytest.raises(AnatomyError) as given:  # who gives an input is told why it does not run
        read_anatomy(Raising(error), torch.zeros(2, 3, 8, 8))
    assert given.value.__cause__ is error


def test_prints_and_turns_into_json() -> None:
    import json

    anatomy = anatomy_of("resnet18")
    assert "layer3.0" in str(anatomy)
    assert json.loads(json.dumps(anatomy.to_dict()))["blocks"][9]["name"] == "fc"
