"""Law 8: looking leaves weights, buffers, optimizer, random states, modes and gradients alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layergroups import (
    ImageDataLoaders,
    Interpretation,
    LayerGroups,
    Learner,
    read_anatomy,
    vision_learner,
)
from tests.laws.models import TinyResNet, TinyTransformer, image
from tests.training.tiny import TinyLoaders, pretrained, tiny_model

State = dict[str, Any]
EXAMPLE = image()


def model_state(model: nn.Module) -> State:
    """All that a look could change in a model, as values that compare."""
    return {
        "tensors": {n: (id(t), t._version, t.detach().clone()) for n, t in tensors(model)},
        "gradients": {n: (p.requires_grad, None if p.grad is None else p.grad.clone())
                      for n, p in model.named_parameters()},
        "modes": {n: m.training for n, m in model.named_modules()},
        "modules": {n: id(m) for n, m in model.named_modules()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks))
                  for n, m in model.named_modules()},
    }  # fmt: skip


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def surroundings() -> State:
    kind, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state().clone(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def learner_state(learn: Learner) -> State:
    groups, opt = learn.groups, learn.opt
    held = [] if opt is None else [
        {k: [id(p) for p in v] if k == "params" else v for k, v in group.items()}
        for group in opt.param_groups
    ]  # fmt: skip
    memory = {} if opt is None else copy.deepcopy(opt.state_dict()["state"])
    return {
        "model": model_state(learn.model),
        "around": surroundings(),
        "groups": (groups.frozen, groups.rates, groups.names, id(groups)),
        "optimizer": (id(opt), held, memory),
        "history": (learn.history, learn.epochs_done),
    }


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two states differ by any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(k for k in b if k not in a)]
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{at}/{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{at}/{i}")]
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [at]


# -- groups --------------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: TinyResNet(width=4, blocks=1),
    "transformer": lambda: TinyTransformer(layers=2),
}
GROUP_LOOKS: dict[str, Callable[[LayerGroups], object]] = {
    "explain": lambda g: (g.explain(), str(g.explain()), g.explain().to_dict()),
    "print": str,
    "repr": repr,
    "html": lambda g: g._repr_html_(),
    "anatomy": lambda g: (str(g.anatomy), g.anatomy.to_dict()),
    "param_groups": lambda g: g.param_groups(weight_decay=0.3),
    "groups": lambda g: [(x.name, x.blocks, x.layers, x.lr, x.frozen, repr(x)) for x in g],
    "state_dict": lambda g: g.state_dict(),
    "sync": lambda g: g.sync(),
    "index": lambda g: (g[0], g[-1:], g["head"], len(g)),
    "read_anatomy": lambda g: read_anatomy(g.model, EXAMPLE),
}


@st.composite
def standings(draw: st.DrawFn) -> tuple[str, list[str], str, list[bool], bool]:
    """A model, frozen groups, norms, modes of modules, and whether there are gradients."""
    kind, norm = draw(st.sampled_from(sorted(MODELS))), draw(st.sampled_from(["freeze", "train"]))
    names = draw(st.lists(st.sampled_from(["early", "late", "head"]), unique=True))
    modes = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    return kind, names, norm, modes, draw(st.booleans())


def set_modes(model: nn.Module, modes: list[bool]) -> None:
    for i, module in enumerate(model.modules()):
        module.training = modes[i % len(modes)]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(standing=standings())
def test_no_look_at_groups_changes_anything(standing: Any) -> None:
    kind, names, norm, modes, gradients = standing
    groups = LayerGroups(MODELS[kind](), example_input=EXAMPLE)
    model = groups.model
    for name in names:
        groups.freeze(name, norm=norm)
    if gradients and len(names) < 3:
        model(EXAMPLE).sum().backward()
    set_modes(model, modes)
    for look, do in GROUP_LOOKS.items():
        before = model_state(model), surroundings(), groups.state_dict()
        do(groups)
        after = model_state(model), surroundings(), groups.state_dict()
        assert differences(before, after) == [], look


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(MODELS)), split=st.sampled_from(["auto", 2, "layerwise"]),
       modes=st.lists(st.booleans(), min_size=3, max_size=3), fixed=st.integers(0, 3))  # fmt: skip
def test_making_groups_changes_nothing(kind: str, split: Any, modes: Any, fixed: int) -> None:
    model = MODELS[kind]()
    for parameter in list(model.parameters())[:fixed]:
        parameter.requires_grad_(False)
    set_modes(model, modes)
    before = model_state(model), surroundings()
    LayerGroups(model, split, example_input=EXAMPLE)
    assert differences(before, (model_state(model), surroundings())) == []


# -- the learner ---------------------------------------------------------------------------------


# a loader of torch's that draws its order, and the seed of its workers, when it is gone through
BATCHES: Any = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.rand(12, 3, 16, 16), torch.arange(12) % 3),
    batch_size=4,
    shuffle=True,
)
LEARNER_LOOKS: dict[str, Callable[[Learner], object]] = {
    "validate": lambda learn: learn.validate(),
    "validate other batches": lambda learn: learn.validate(BATCHES),
    "get_preds": lambda learn: learn.get_preds(with_loss=True),
    "get_preds of other batches": lambda learn: learn.get_preds(BATCHES),
    "predict": lambda learn: learn.predict(torch.ones(3, 16, 16)),
    "save": lambda learn: learn.save("look"),
    "show_results": lambda learn: learn.show_results(),
    "show_results of other batches": lambda learn: learn.show_results(dl=BATCHES),
    "grad_cam": lambda learn: learn.grad_cam(torch.ones(3, 16, 16)),
    "summary": lambda learn: (str(learn.summary()), learn.summary("layers").to_dict()),
    "Interpretation": lambda learn: Interpretation.from_learner(learn).grad_cam([0, 1]),
    "Interpretation of other batches": lambda learn: Interpretation.from_learner(
        learn, BATCHES
    ).images([3]),
    "lr_find": lambda learn: learn.lr_find(num_it=20),
    "print": lambda learn: str(learn.layer_groups),
    "history": lambda learn: (str(learn.history), repr(learn.history)),
}


@cache
def workplace() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp())


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frozen=st.lists(st.sampled_from(["0.0", "0.7"]), unique=True),
    modes=st.lists(st.booleans(), min_size=3, max_size=3),
    trained=st.booleans(),
)
def test_no_look_at_a_learner_changes_anything(
    frozen: list[str], modes: list[bool], trained: bool
) -> None:
    learn = Learner(TinyLoaders(n=16), pretrained(tiny_model()), split=["0.0", "0.7", "1"], seed=0,
                    progress=False, path=workplace(), metrics=["accuracy"])  # fmt: skip
    if frozen:
        learn.layer_groups.freeze(*frozen)
    if trained:
        learn.fit(1)
    set_modes(learn.model, modes)
    for look, do in LEARNER_LOOKS.items():
        before = learner_state(learn)
        do(learn)
        assert differences(before, learner_state(learn)) == [], look


@pytest.mark.slow
def test_an_export_changes_nothing(folder: Path, tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.2, size=32, batch_size=8)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)
    learn.fit(1)
    learn.model.train()
    for look in (lambda: learn.export(tmp_path / "out"), learn.validate, learn.get_preds, learn.tta,
                 lambda: learn.predict(dls.valid_images.files[0])):  # fmt: skip
        before = learner_state(learn)
        look()
        assert differences(before, learner_state(learn)) == []


class Remembers(nn.Module):
    """Makes a table when it first runs and keeps it, as models with position encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 8)
        return x * (self.table * self.weight)


@pytest.mark.parametrize("look", ["validate", "get_preds"])
def test_what_a_model_remembers_while_looked_at_can_be_trained_with(
    look: str, tmp_path: Path
) -> None:
    model = tiny_model()
    model[1].insert(3, Remembers())
    learn = Learner(TinyLoaders(n=16), model, split=2, progress=False, path=tmp_path)
    model[1][3].table = None
    getattr(learn, look)()
    learn.fit(1)
    assert model[1][3].table is not None


def test_the_comparison_itself_sees_every_kind_of_change() -> None:
    model = tiny_model()
    changes: list[Callable[[], object]] = [
        lambda: model[0][0].weight.data.add_(1),
        lambda: model[0][1].running_mean.add_(1),
        lambda: model[0][1].eval(),
        lambda: model[0][0].weight.requires_grad_(False),
        lambda: setattr(model[0][0].bias, "grad", torch.zeros(8)),
        lambda: torch.rand(1),
        lambda: random.random(),
        lambda: numpy.random.rand(),
        lambda: model[0].register_forward_hook(lambda *_: None),
        lambda: setattr(model[0], "note", 1),
        lambda: model[0].append(nn.ReLU()),
    ]
    for change in changes:
        before = model_state(model), surroundings()
        change()
        assert differences(before, (model_state(model), surroundings()))
