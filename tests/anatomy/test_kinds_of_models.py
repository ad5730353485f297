"""Kinds of models beyond image classifiers: where the head is, what trains, and what is said."""

from __future__ import annotations

import collections
import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layergroups import LayerGroups, replace_head
from layergroups.anatomy import Anatomy, read_anatomy
from layergroups.errors import ModelError

VECTORS = torch.zeros(2, 8)
IMAGES = torch.zeros(2, 3, 32, 32)
TOKENS = torch.zeros(2, 6, dtype=torch.long)


class Net(nn.Module):
    """Named layers, and a forward that a test gives."""

    def __init__(self, forward: Any, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.run(self, *args, **named)


def body(n: int = 3) -> nn.Sequential:
    sizes = [8, *[16] * n]
    return nn.Sequential(
        *(m for i in range(n) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()))
    )


def convs(n: int = 4) -> nn.Sequential:
    return nn.Sequential(
        *(m for i in range(n) for m in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU()))
    )


def classifier(forward: Any, **more: Any) -> Net:
    return Net(forward, body=body(), fc=nn.Linear(16, 3), **more)


def head_layers(anatomy: Anatomy) -> set[str]:
    """The outermost names of what is in the head."""
    return {name.split(".")[0] for b in anatomy.head for name in b.parameters}


class Object:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


@dataclasses.dataclass
class Record:
    x: Tensor


Named = collections.namedtuple("Named", "x")  # as people write it


# -- outputs -------------------------------------------------------------------------------------

OUTPUTS = {
    "logits, features": lambda m, x: (m.fc(h := m.body(x)), h),
    "features, logits": lambda m, x: (h := m.body(x), m.fc(h)),
    "object": lambda m, x: Object(predictions=m.fc(m.body(x))),
    "dict of preds and features": lambda m, x: {"features": (h := m.body(x)), "preds": m.fc(h)},
    "dataclass": lambda m, x: Record(m.fc(m.body(x))),
    "with the class that wins": lambda m, x: (y := m.fc(m.body(x)), y.argmax(-1)),
    "logits, every depth": lambda m, x: (
        m.fc(h := m.body[2:](a := m.body[:2](x))), (a, m.body[2:4](a), h)
    ),
    "scaled": lambda m, x: m.fc(m.body(x)) * 0.5 + torch.ones(3),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTPUTS)
def test_each_output_is_judged_by_itself(kind: str) -> None:
    model = classifier(OUTPUTS[kind])
    assert head_layers(read_anatomy(model, VECTORS)) == {"fc"}
    assert replace_head(model, 3, example_input=VECTORS) == ("fc",)
    model(VECTORS)


def test_the_block_of_two_sums_that_answers_is_the_head() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.up(m.body(x))
        return y + m.unit(y)

    up, unit = nn.ConvTranspose2d(8, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    model = Net(forward, body=convs(), up=up, unit=unit)
    assert head_layers(read_anatomy(model, IMAGES)) == {"up", "unit"}


def test_a_unit_length_by_hand_is_one_too() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(m.body(x))
        return y / y.pow(2).sum(-1, keepdim=True).pow(0.5)

    anatomy = read_anatomy(Net(forward, body=body(), fc=nn.Linear(16, 8)), VECTORS)
    assert "unit length" in anatomy.head_reason


def test_several_heads_are_all_in_the_head_with_the_layers_of_their_own() -> None:
    def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
        h = m.body(x)
        return {"pred_boxes": m.box(h), "logits": m.cls(h)}

    box = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model = Net(forward, body=body(), box=box, cls=nn.Linear(16, 3))
    assert head_layers(read_anatomy(model, VECTORS)) == {"box", "cls"}


def test_early_exits_are_heads_and_the_layers_between_them_are_body() -> None:
    def forward(m: Any, x: Tensor) -> list[Tensor]:
        given = []
        for layer, exit_ in zip(m.layers, m.exits, strict=True):
            x = layer(x).relu()
            given.append(exit_(x))
        return given

    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    model = Net(forward, layers=layers, exits=nn.ModuleList(nn.Linear(8, 3) for _ in range(4)))
    groups = LayerGroups(model, example_input=VECTORS)
    assert groups.names == ("early", "late", "head")
    assert head_layers(groups.anatomy) == {"exits"}


def test_of_a_wide_and_a_deep_part_the_last_layers_are_the_head() -> None:
    deep = nn.Sequential(body(), nn.Linear(16, 1))
    model = Net(lambda m, x: m.wide(x) + m.deep(x), wide=nn.Linear(8, 1), deep=deep)
    head = {n for b in read_anatomy(model, VECTORS).head for n in b.parameters}
    assert head == {"wide.weight", "wide.bias", "deep.1.weight", "deep.1.bias"}


def test_an_auxiliary_head_of_training_mode_alone_is_in_the_head_and_trains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.body[:2](x)
        y = m.fc(m.body[2:](h))
        return (y, m.aux(h)) if m.training else y

    model = classifier(forward, aux=nn.Linear(16, 3))
    groups = LayerGroups(model, example_input=VECTORS)
    assert head_layers(groups.anatomy) == {"fc", "aux"}
    assert groups.anatomy.unused == ()
    assert not caplog.records


def test_a_parameter_that_is_returned_is_used(caplog: pytest.LogCaptureFixture) -> None:
    scale = nn.Parameter(torch.ones(()))
    model = classifier(lambda m, x: (m.fc(m.body(x)), m.scale.exp()), scale=scale)
    groups = LayerGroups(model, example_input=VECTORS)
    assert groups.anatomy.unused == groups.anatomy.no_path_to_output == ()
    assert scale in set(groups["head"].parameters())
    assert not caplog.records


def test_an_embedding_of_unit_length_is_no_head_but_a_quaternion_is() -> None:
    def unit(width: int) -> Anatomy:
        def forward(m: Any, x: Tensor) -> Tensor:
            return F.normalize(m.fc(m.body(x)), dim=-1)

        return read_anatomy(Net(forward, body=body(), fc=nn.Linear(16, width)), VECTORS)

    assert not unit(8).has_head
    assert "unit length" in unit(8).head_reason
    assert "head='path'" in unit(8).head_reason
    assert unit(4).has_head


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 21])
def test_a_convolution_of_neighbourhoods_may_be_a_head(classes: int) -> None:
    last = nn.Conv2d(8, classes, 3, padding=1)
    model = Net(lambda m, x: m.head(m.body(x)), body=convs(), head=last)
    assert head_layers(read_anatomy(model, IMAGES)) == {"head"}
    assert replace_head(model, 5, example_input=IMAGES) == ("head",)
    assert model(IMAGES).shape == (2, 5, 32, 32)


def test_a_body_of_convolutions_has_no_head() -> None:
    assert not read_anatomy(convs(), IMAGES).has_head


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Distance(Cosine):
    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, self.weight)


class Outer(Cosine):
    def forward(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-2) * self.weight).sum(-1)


class Turned(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1).contiguous().transpose(0, 1))


@pytest.mark.parametrize("kind", [Cosine, Distance, Outer, lambda: Turned(16, 3)])
def test_a_head_for_each_token_is_found_whatever_it_does_before_its_product(kind: Any) -> None:
    layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    model = Net(
        lambda m, i: m.out(m.body(m.embed(i))), embed=nn.Embedding(9, 16), body=layers, out=kind()
    )
    assert head_layers(read_anatomy(model, TOKENS)) == {"out"}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_head_may_be_followed_by_a_norm(norm: Any) -> None:
    model = classifier(lambda m, x: m.norm(m.fc(m.body(x))), norm=norm(3))
    assert head_layers(read_anatomy(model, VECTORS)) == {"fc", "norm"}


@pytest.mark.parametrize("bias", [False, True])
def test_a_tied_head_is_the_embedding_and_it_is_said(
    bias: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net(
        lambda m, i: m.out(m.body(m.embed(i))),
        embed=nn.Embedding(9, 8), body=nn.Sequential(body(), nn.Linear(16, 8), nn.ReLU()),
        out=nn.Linear(8, 9, bias=bias),
    )  # fmt: skip
    model.out.weight = model.embed.weight
    groups = LayerGroups(model, example_input=TOKENS)
    assert groups.names == ("embeddings", "early", "late")
    assert "embedding embed" in caplog.text
    groups.freeze("embeddings")
    assert not model.out.weight.requires_grad


def test_replace_head_refuses_what_needs_the_old_number_and_takes_a_path() -> None:
    model = classifier(lambda m, x: m.fc(m.body(x)) + m.prior)
    model.register_buffer("prior", torch.zeros(3))
    before = model.fc
    with pytest.raises(ModelError, match="prior"):
        replace_head(model, 7, example_input=VECTORS)
    assert model.fc is before
    two = classifier(lambda m, x: (m.fc(h := m.body(x)), m.age(h)), age=nn.Linear(16, 1))
    assert replace_head(two, 7, example_input=VECTORS, head="fc") == ("fc",)
    assert two.age.out_features == 1
    groups = LayerGroups(two, example_input=VECTORS, head=["fc", "age"])
    assert head_layers(groups.anatomy) == {"fc", "age"}


# -- several branches ----------------------------------------------------------------------------


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(4)
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return {"last": x.mean(1), "states": states}


def test_each_of_two_towers_has_its_own_early_and_late() -> None:
    def forward(m: Any, x: Tensor, i: Tensor) -> Tensor:
        seen, read = m.image(m.patch(x))["last"], m.text(m.embed(i))["last"]
        return F.normalize(seen, dim=-1) @ F.normalize(read, dim=-1).T * m.scale.exp()

    model = Net(
        forward, patch=nn.Linear(8, 16), embed=nn.Embedding(9, 16), image=Tower(), text=Tower(),
        scale=nn.Parameter(torch.ones(())),
    )  # fmt: skip
    groups = LayerGroups(model, example_input=(torch.zeros(2, 6, 8), TOKENS))
    assert groups.names == ("early", "late")
    layers = [{n.rsplit(".layers.")[0] + n.rsplit(".layers.")[1][0] for n, _ in g.named_parameters()
               if ".layers." in n} for g in groups]  # fmt: skip
    assert layers[0] == {"image0", "image1", "text0", "text1"}
    assert "embed.weight" in dict(groups["early"].named_parameters())
    assert "text.layers.2" in groups["late"].reason
    assert not any("begins a group here" in a.sentence for a in groups.explain().alternatives)


def test_a_decoder_is_a_group_between_its_encoder_and_the_head() -> None:
    model = Net(
        lambda m, a, b: m.out(m.both(m.embed(a), m.embed(b))),
        embed=nn.Embedding(9, 16), both=nn.Transformer(16, 2, 4, 4, 32, batch_first=True),
        out=nn.Linear(16, 9),
    )  # fmt: skip
    groups = LayerGroups(model, example_input=(TOKENS, TOKENS))
    assert groups.names == ("embeddings", "early", "late", "decoder", "head")
    assert all("both.decoder" in n for n, _ in groups["decoder"].named_parameters())
    assert {n.split(".")[3] for n, _ in groups["late"].named_parameters() if "layers" in n} == {
        "2", "3",
    }  # fmt: skip
    halves = LayerGroups(model, 3, example_input=(TOKENS, TOKENS))
    assert all("both.decoder" in n for n, _ in halves[1].named_parameters())


def test_a_recurrent_cell_counts_once() -> None:
    def forward(m: Any, i: Tensor) -> Tensor:
        h = m.embed.weight.new_zeros(len(i), 16)
        for t in range(i.shape[1]):
            h = m.cell(m.embed(i)[:, t], h)
        return m.fc(h)

    model = Net(forward, embed=nn.Embedding(9, 16), cell=nn.GRUCell(16, 16), fc=nn.Linear(16, 3))
    anatomy = read_anatomy(model, torch.zeros(2, 40, dtype=torch.long))
    assert sum(b.weight_ops for b in anatomy.blocks) <= 4


# -- kinds met in libraries ----------------------------------------------------------------------


def convolution(n_in: int, n_out: int, size: int = 3) -> nn.Sequential:
    layers = nn.Conv2d(n_in, n_out, size, padding=size // 2), nn.BatchNorm2d(n_out), nn.ReLU()
    return nn.Sequential(*layers)


def test_a_head_on_one_vector_may_hold_batch_norms() -> None:
    pools = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    new = nn.Sequential(*pools, nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    anatomy = read_anatomy(nn.Sequential(convs(), new), IMAGES)
    assert {n for b in anatomy.head for n in b.parameters} == {
        f"1.{i}.{kind}" for i in (2, 3, 5) for kind in ("weight", "bias")
    }


def test_a_loss_of_squares_is_no_vector_of_unit_length() -> None:
    def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
        y = m.fc(m.body(x))
        return {"loss": y.pow(2).sum() / y.detach().sum(), "logits": y}

    model = Net(forward, body=body(), fc=nn.Linear(16, 8))
    assert head_layers(read_anatomy(model, VECTORS)) == {"fc"}


def test_a_last_residual_block_may_have_norms_inside() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.up(m.body(x))
        return y + m.unit(y)

    unit = nn.Conv2d(2, 2, 3, padding=1)
    model = Net(forward, body=convs(), up=convolution(8, 2), unit=unit)
    assert head_layers(read_anatomy(model, IMAGES)) == {"up", "unit"}


def test_two_maps_of_many_features_are_answers_though_they_are_normalised() -> None:
    model = Net(
        lambda m, x: m.out(m.body(x)),
        body=nn.Sequential(convs(), convolution(8, 64)), out=convolution(64, 2, 1),
    )  # fmt: skip
    assert head_layers(read_anatomy(model, IMAGES)) == {"out"}


def test_the_bias_of_a_tied_layer_is_no_layer_of_a_body() -> None:
    def forward(m: Any, i: Tensor) -> Tensor:
        return F.linear(m.body(m.embed(i)), m.embed.weight) + m.decoder.bias

    model = Net(
        forward, embed=nn.Embedding(9, 8), body=nn.Sequential(body(), nn.Linear(16, 8), nn.ReLU()),
        decoder=Net(None, bias=nn.Parameter(torch.zeros(9))),
    )  # fmt: skip
    assert "embedding embed" in read_anatomy(model, TOKENS).head_reason


def test_a_classifier_of_every_depth_is_the_head() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        for layer in m.layers:
            x = x + layer(x).relu()
            given = m.fc(x)  # those before the last are for training
        return given

    layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
    model = Net(forward, first=nn.Linear(8, 16), layers=layers, fc=nn.Linear(16, 3))
    assert head_layers(read_anatomy(model, VECTORS)) == {"fc"}


def test_boxes_that_each_layer_refines_are_heads_and_the_layers_are_not() -> None:
    def forward(m: Any, x: Tensor) -> dict[str, Any]:
        x, box, logits = m.first(x), x[:, :4], []
        for layer, boxes, kinds in zip(m.layers, m.boxes, m.kinds, strict=True):
            x = layer(torch.cat([x, box], 1)).relu()
            box = box.detach() + boxes(x)
            logits.append(kinds(x))
        return {"pred_boxes": box, "logits": logits}

    def four(n_in: int, n_out: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(n_in, n_out) for _ in range(4))

    model = Net(
        forward, first=nn.Linear(8, 16), layers=four(20, 16), boxes=four(16, 4), kinds=four(16, 3)
    )
    held = {n for b in read_anatomy(model, VECTORS).head for n in b.parameters}
    assert held == {n for n, _ in model.named_parameters() if n.startswith(("boxes", "kinds"))}


def levels(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and classes of three maps, each with a head of its own of two layers."""
    boxes, classes = [], []
    for stage, box, kind in zip(m.stages, m.box, m.kind, strict=True):
        x = stage(x)
        boxes.append(box(x).flatten(2))
        classes.append(kind(x).flatten(2))
    return torch.cat(boxes, 2), torch.cat(classes, 2)


def detector(forward: Any, **more: Any) -> Net:
    def heads(n: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Sequential(convolution(8, 8), nn.Conv2d(8, n, 1)) for _ in range(3))

    stages = nn.ModuleList(
        nn.Sequential(*(convolution(8 if i or j else 3, 8) for j in range(4)), nn.MaxPool2d(2))
        for i in range(3)
    )
    return Net(forward, stages=stages, box=heads(16), kind=heads(3), **more)


def test_heads_on_each_of_several_maps_have_layers_of_their_own() -> None:
    model = detector(levels)
    held = {n for b in read_anatomy(model, IMAGES).head for n in b.parameters}
    assert held == {n for n, _ in model.named_parameters() if not n.startswith("stages")}


def test_boxes_as_a_mean_over_bins_are_heads_with_that_mean() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        boxes, classes = levels(m, x)
        bins = boxes.unflatten(1, (4, 4)).transpose(1, 2).softmax(1)
        placed = torch.cat([m.mean(bins).squeeze(1), classes.sigmoid()], 1)
        return placed, {"boxes": boxes, "scores": classes}

    mean = nn.Conv2d(4, 1, 1, bias=False).requires_grad_(False)
    anatomy = read_anatomy(detector(forward, mean=mean), IMAGES)
    assert head_layers(anatomy) == {"box", "kind", "mean"}


def test_boxes_from_which_masks_are_cut_are_heads_beside_their_classes() -> None:
    def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
        h = m.body(x)
        pooled = h.mean((2, 3))
        boxes = m.box(pooled)
        cut = F.grid_sample(h, boxes.view(-1, 2, 2, 2), align_corners=False)
        return {"boxes": boxes, "labels": m.kind(pooled), "masks": m.mask(cut)}

    layers = {"box": nn.Linear(8, 8), "kind": nn.Linear(8, 3), "mask": nn.Conv2d(8, 2, 1)}
    assert head_layers(read_anatomy(Net(forward, body=convs(), **layers), IMAGES)) == set(layers)


class GraphLayer(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(x)
        return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) + self.bias


def test_a_layer_is_not_divided_between_body_and_head() -> None:
    layers = nn.ModuleList([GraphLayer(8, 16), GraphLayer(16, 16), GraphLayer(16, 3)])

    def forward(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        for layer in m.layers[:2]:
            x = layer(x, edges).relu()
        return m.layers[2](x, edges)

    model = Net(forward, layers=layers)
    anatomy = read_anatomy(model, (torch.rand(5, 8), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])))
    assert {n for b in anatomy.head for n in b.parameters} == {
        "layers.2.lin.weight", "layers.2.bias",
    }  # fmt: skip


def test_deep_supervision_that_runs_in_eval_mode_unused_is_in_the_head() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.body[:4](x)
        m.deep = m.extra(h)  # kept for training
        y = m.out(m.body[4:](h))
        return torch.stack([y, m.deep]) if m.training else y

    heads = {"extra": nn.Conv2d(8, 2, 1), "out": nn.Conv2d(8, 2, 1)}
    anatomy = read_anatomy(Net(forward, body=convs(), **heads), IMAGES)
    assert head_layers(anatomy) == {"extra", "out"}
    assert anatomy.no_path_to_output == ()
    assert sum(len(b.parameters) for b in anatomy.blocks) == 12


class Layer(nn.Module):
    """A residual layer, which may read what an encoder gave."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.crossed = nn.Linear(16, 16) if crossed else None
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        if self.crossed is not None:
            x = x + self.crossed(given).mean(1, keepdim=True)
        return x + self.second(self.first(x).relu())


class Stack(nn.Module):
    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(crossed) for _ in range(4))

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, given)
        return x


class Model(nn.Module):
    """The same class as an encoder with a pooler and as a decoder, as BERT."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.embed = Net(
            lambda m, i: m.word(i) + m.place(i), word=nn.Embedding(9, 16), place=nn.Embedding(9, 16)
        )
        self.stack = Stack(crossed)
        self.pooler = None if crossed else nn.Linear(16, 16)

    def forward(self, i: Tensor, given: Tensor | None = None) -> tuple[Tensor, Any]:
        x = self.stack(self.embed(i), given)
        return x, None if self.pooler is None else self.pooler(x[:, 0]).tanh()


def test_encoder_and_decoder_of_one_class_are_told_apart() -> None:
    def forward(m: Any, i: Tensor, j: Tensor) -> Tensor:
        return m.out(m.decoder(j, m.encoder(i)[0])[0])

    model = Net(forward, encoder=Model(False), decoder=Model(True), out=nn.Linear(16, 9))
    groups = LayerGroups(model, example_input=(TOKENS, TOKENS))
    assert groups.names == ("embeddings", "early", "late", "decoder", "head")
    held = [{n.split(".layers.")[0] for n, _ in g.named_parameters()} for g in groups[1:]]
    assert "decoder.embed.word.weight" in held[2]
    assert not any(name.startswith("decoder") for name in held[0] | held[1])
    assert "encoder.stack" in held[0] & held[1]
    assert not any(name.startswith("encoder") for name in held[2])


def test_a_list_of_parts_of_a_block_is_a_block() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        for mix, feed in m.layers:
            x = x + mix(x)
            x = x + feed(x)
        return m.fc(x)

    def feed() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))

    layers = nn.ModuleList(nn.ModuleList([nn.Linear(16, 16), feed()]) for _ in range(4))
    model = Net(forward, first=nn.Linear(8, 16), layers=layers, fc=nn.Linear(16, 3))
    names = [b.name for b in read_anatomy(model, VECTORS).body]
    assert [name.split(".")[1] for name in names if "." in name] == ["0", "1", "2", "3"]


def test_a_tower_is_opened_down_to_its_layers() -> None:
    def tower() -> nn.Module:
        return Net(
            lambda m, x: m.norm(m.stack(m.patch(x), None)), patch=nn.Linear(8, 16),
            stack=Stack(False), norm=nn.LayerNorm(16),
        )  # fmt: skip

    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.normalize(m.a(x), dim=-1) @ F.normalize(m.b(y), dim=-1).T

    groups = LayerGroups(Net(forward, a=tower(), b=tower()), example_input=(VECTORS, VECTORS))
    early = {n.split(".layers.")[-1][0] for n, _ in groups["early"].named_parameters()
             if ".layers." in n}  # fmt: skip
    assert early == {"0", "1"}


# -- inputs --------------------------------------------------------------------------------------

INPUTS = {
    "object": (lambda m, b: m.fc(m.body(b.x)), (Object(x=VECTORS),)),
    "dataclass, bare": (lambda m, b: m.fc(m.body(b.x)), Record(VECTORS)),
    "named tuple, bare": (lambda m, b: m.fc(m.body(b.x)), Named(VECTORS)),
    "dict as one argument": (lambda m, b: m.fc(m.body(b["x"])), {"x": VECTORS}),
    "UserDict": (lambda m, b: m.fc(m.body(b["x"])), (collections.UserDict(x=VECTORS),)),
    "list of items, bare": (lambda m, items: m.fc(m.body(torch.stack(items))), list(VECTORS)),
    "a number": (lambda m, n: m.fc(m.body(torch.randn(n, 8))), 2),
    "text": (lambda m, t: m.fc(m.body(torch.tensor([[float(len(s))] * 8 for s in t]))),
             (["ab", "c"],)),
    "numpy": (lambda m, a: m.fc(m.body(torch.from_numpy(a))), (VECTORS.numpy(),)),
    "sparse": (lambda m, x, a: m.fc(torch.sparse.mm(a, m.body(x))),
        (VECTORS, torch.eye(2).to_sparse())),
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_all_forms_are_followed(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    forward, example = INPUTS[kind]
    groups = LayerGroups(classifier(forward), example_input=example)
    assert groups.names == ("early", "late", "head")
    assert head_layers(groups.anatomy) == {"fc"}
    assert groups.anatomy.unused == ()


def test_an_object_that_forward_changes_is_as_before() -> None:
    def forward(m: Any, bag: Any) -> Tensor:
        bag.x = m.body(bag.x)
        return m.fc(bag.x)

    bag = Object(x=VECTORS)
    read_anatomy(classifier(forward), (bag,))
    assert bag.x is VECTORS


def test_padding_masks_need_no_nested_tensors() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = Net(
        lambda m, i, pad: m.fc(m.layers(m.embed(i), src_key_padding_mask=pad).mean(1)),
        embed=nn.Embedding(9, 16), layers=nn.TransformerEncoder(layer, 4), fc=nn.Linear(16, 3),
    )  # fmt: skip
    pad = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    anatomy = read_anatomy(model, (TOKENS, pad))
    assert [b.kind for b in anatomy.body].count("TransformerEncoderLayer") == 4
    assert head_layers(anatomy) == {"fc"}


def test_packed_sequences_are_run() -> None:
    def forward(m: Any, packed: Any) -> Tensor:
        return m.fc(m.lstm(packed)[1][0][-1])

    packed = nn.utils.rnn.pack_sequence([torch.ones(5, 8), torch.ones(3, 8)])
    model = Net(forward, lstm=nn.LSTM(8, 16, 2), fc=nn.Linear(16, 3))
    assert head_layers(read_anatomy(model, packed)) == {"fc"}


def test_models_without_memory_take_examples_without_memory() -> None:
    model = classifier(lambda m, x: m.fc(m.body(x))).to("meta")
    assert LayerGroups(model, example_input=VECTORS.to("meta")).names == ("early", "late", "head")


@pytest.mark.parametrize("dims", [1, 3])
def test_a_length_or_a_volume_has_a_resolution_too(dims: int) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    layers = [conv(8 if i else 1, 8, 3, stride=2, padding=1) for i in range(5)]
    model = Net(
        lambda m, x: m.fc(m.body(x).flatten(2).mean(-1)),
        body=nn.Sequential(*layers), fc=nn.Linear(8, 3),
    )  # fmt: skip
    groups = LayerGroups(model, example_input=torch.zeros(2, 1, *[64] * dims))
    assert "falls" in groups["late"].reason
    assert "each image" not in groups["head"].reason


def test_of_vectors_no_resolution_is_said() -> None:
    groups = LayerGroups(classifier(lambda m, x: m.fc(m.body(x))), example_input=VECTORS)
    assert not any("resolution" in reason for reason in groups.reasons)


# -- code ----------------------------------------------------------------------------------------


# Newer versions of torch announce that torch.jit will go; the oldest one we support does not.
SCRIPTING_IS_DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


@SCRIPTING_IS_DEPRECATED
def test_scripted_parts_are_frozen_in_eval_mode() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()))
    model = Net(lambda m, x: m.fc(m.body(x)), body=scripted, fc=nn.Linear(16, 3))
    groups = LayerGroups(model, example_input=VECTORS)
    assert groups.names == ("body", "head")
    groups.freeze()
    model.train()
    before = {k: v.clone() for k, v in scripted.state_dict().items()}
    model(torch.randn(4, 8)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in scripted.state_dict().items())
    assert model.fc.weight.grad is not None


@SCRIPTING_IS_DEPRECATED
@pytest.mark.parametrize("how", ["script", "trace"])
def test_wholly_scripted_models_have_groups(how: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = nn.Sequential(body(), nn.Linear(16, 3)).eval()
    model = torch.jit.script(plain) if how == "script" else torch.jit.trace(plain, VECTORS)
    groups = LayerGroups(model, example_input=VECTORS)
    groups.freeze()
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]
    assert "takes no hooks" in caplog.text


def test_layers_that_no_gradient_reaches_are_named(caplog: pytest.LogCaptureFixture) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = m.body(x)
        return m.fc(h)

    anatomy = LayerGroups(classifier(forward), example_input=VECTORS).anatomy
    assert {n.split(".")[0] for n in anatomy.no_path_to_output} == {"body"}
    assert "get no gradient" in caplog.text


def test_numpy_in_the_middle_stops_the_gradient_not_the_look() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.from_numpy(m.body(x).detach().numpy() * 1))

    anatomy = read_anatomy(classifier(forward), VECTORS)
    assert head_layers(anatomy) == {"fc"}
    assert {n.split(".")[0] for n in anatomy.no_path_to_output} == {"body"}


@pytest.mark.parametrize("embedded", [False, True])
def test_reentrant_checkpointing_is_told(embedded: bool, caplog: pytest.LogCaptureFixture) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        for layer in m.body:
            x = checkpoint(layer, x, use_reentrant=True) if m.training else layer(x)
        return m.fc(x)

    first = nn.Linear(8, 8) if embedded else nn.Identity()
    groups = LayerGroups(
        Net(forward, first=first, body=body(), fc=nn.Linear(16, 3)), example_input=VECTORS
    )
    assert ("get no gradient" in caplog.text) is not embedded
    groups.freeze_to(-2)
    assert "use_reentrant=False" in caplog.text


def test_random_numbers_of_python_and_numpy_are_not_drawn_by_a_look() -> None:
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    expected = random.Random(0).random(), np.random.RandomState(0).rand()
    read_anatomy(
        classifier(lambda m, x: m.fc(m.body(x)) * random.random() * np.random.rand()), VECTORS
    )
    assert (random.random(), np.random.rand()) == expected


def _layer(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.ReLU())


@pytest.mark.parametrize("home", ["both", "apart"])
def test_the_decoder_of_a_unet_is_a_group_of_its_own(home: str) -> None:
    """It begins where maps grow again, and joins earlier ones; an encoder alone has none.

    Encoder and decoder may have a module in common, as the backbone of a detector does.
    """

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        maps, parts = [x], m.both if home == "both" else m
        for step in parts.down:
            maps.append(step(maps[-1]))
        for step, skip in zip(parts.up, maps[-2:0:-1], strict=True):
            larger = F.interpolate(maps[-1], scale_factor=2.0)
            maps.append(step(torch.cat([larger, skip], 1)))
        return m.out(maps[-1])

    widths = (3, 8, 16, 24, 32)
    parts = nn.ModuleDict({
        "down": nn.ModuleList(_layer(*pair, 2) for pair in pairwise(widths)),
        "up": nn.ModuleList(_layer(a + b, b) for a, b in pairwise(widths[:0:-1])),
    })  # fmt: skip
    homes = {"both": Net(None, **parts)} if home == "both" else dict(parts)
    model = Net(forward, **homes, out=nn.Conv2d(8, 5, 1))
    groups = LayerGroups(model, example_input=torch.rand(2, 3, 64, 64))
    assert groups.names == ("early", "late", "decoder", "head")
    own = {n.removeprefix("both.") for n, _ in groups["decoder"].named_parameters()}
    assert {n.split(".")[0] for n in own} == {"up"}
    assert "decoder" in groups["decoder"].reason


def test_one_layer_that_joins_an_earlier_map_is_no_decoder() -> None:
    """Such as an auxiliary classifier, beside a body of many layers."""

    def forward(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = m.early(x)
        return m.out(m.late(early)), m.extra(m.branch(early))

    model = Net(
        forward,
        early=nn.Sequential(_layer(3, 8, 2), *(_layer(8, 8) for _ in range(10))),
        late=nn.Sequential(_layer(8, 16, 2), *(_layer(16, 16) for _ in range(12))),
        branch=_layer(8, 8),
        out=nn.Conv2d(16, 5, 1),
        extra=nn.Conv2d(8, 5, 1),
    )
    assert "decoder" not in LayerGroups(model, example_input=torch.rand(2, 3, 64, 64)).names
