"""After a dry run no tensor of it is left, whatever a model caches and wherever."""

from __future__ import annotations

import functools
import gc
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.anatomy import caching_helper
from torch import Tensor, nn

from layergroups import LayerGroups, read_anatomy
from layergroups.anatomy import trace
from layergroups.errors import AnatomyError

WIDTH = 4
EXAMPLE = torch.zeros(2, WIDTH)


def table() -> Tensor:
    return torch.linspace(1, 2, WIDTH)


class Caching(nn.Module):
    """Scales by a table that `find` makes once and then finds again."""

    def __init__(self, find: Callable[[], Tensor]) -> None:
        super().__init__()
        self.find = find
        self.fc = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * self.find())


def in_mapping(cache: Any, value: Callable[[Tensor], Any] = lambda t: t) -> Callable[[], Any]:
    def find() -> Any:
        if "table" not in cache:
            cache["table"] = value(table())
        return cache["table"]

    return find


def in_lru_cache() -> Caching:
    @functools.lru_cache(maxsize=8)
    def find(width: int) -> Tensor:
        return table()

    return Caching(lambda: find(WIDTH))


def in_lru_cache_as_tuple() -> Caching:
    @functools.cache
    def find() -> tuple[dict[str, Tensor], int]:
        return {"table": table()}, WIDTH

    return Caching(lambda: find()[0]["table"])


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 2)

    @staticmethod
    @functools.lru_cache(maxsize=10)
    def make(width: int) -> Tensor:
        return table()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * self.make(WIDTH))


class OfClass(nn.Module):
    tables: ClassVar[dict[str, Tensor]] = {}
    last: ClassVar[Tensor | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        if OfClass.last is None:
            OfClass.last = table()
        return self.fc(x * in_mapping(self.tables)() * OfClass.last)


_GLOBAL: dict[str, Tensor] = {}
_name: Tensor | None = None


def in_a_global() -> Caching:
    def find() -> Tensor:
        global _name
        if _name is None:
            _name = table()
        return _name * in_mapping(_GLOBAL)()

    return Caching(find)


def in_a_helper(helper: Any) -> Caching:
    def find() -> Tensor:
        if helper.table is None:
            helper.table = table()
        return helper.table

    model = Caching(find)
    model.helper = helper
    return model


class Slots:
    __slots__ = ("table",)

    def __init__(self) -> None:
        self.table = None


def in_a_nonlocal() -> Caching:
    found: Tensor | None = None

    def find() -> Tensor:
        nonlocal found
        if found is None:
            found = table()
        return found

    return Caching(find)


def by_a_hook() -> Caching:
    seen: dict[str, Tensor] = {}
    model = Caching(lambda: seen.get("x", torch.ones(WIDTH)))
    model.fc.register_forward_pre_hook(lambda m, args: seen.update(x=args[0][0]))
    return model


def nested() -> Caching:
    cache: Any = {"deep": [OrderedDict(), deque()]}

    def find() -> Tensor:
        if not cache["deep"][1]:
            cache["deep"][1].append((table(), 3))
        return cache["deep"][1][0][0] * in_mapping(cache["deep"][0])()

    model = Caching(find)
    model.cache = cache
    return model


def by_default_argument() -> Caching:
    def find(cache: dict[str, Tensor] = {}) -> Tensor:  # noqa: B006 # the fault of the model
        return in_mapping(cache)()

    return Caching(find)


def on_a_parameter() -> Caching:
    def find() -> Tensor:
        if not hasattr(model.fc.weight, "table"):
            model.fc.weight.table = table()
        return model.fc.weight.table

    model = Caching(find)
    return model


def with_mapping(cache: Any) -> Caching:
    model = Caching(in_mapping(cache))
    model.cache = cache
    return model


def in_an_array_of_objects() -> Caching:
    array = np.full((2, 1), None, dtype=object)

    def find() -> Tensor:
        if array[1, 0] is None:
            array[1, 0] = table()
        return array[1, 0]

    model = Caching(find)
    model.cache = array
    return model


KINDS: dict[str, Callable[[], nn.Module]] = {
    "lru_cache": in_lru_cache,
    "lru_cache, nested": in_lru_cache_as_tuple,
    "lru_cache of a static method": Static,
    "class attributes": OfClass,
    "globals": in_a_global,
    "dict": lambda: with_mapping({}),
    "OrderedDict": lambda: with_mapping(OrderedDict()),
    "defaultdict": lambda: with_mapping(defaultdict(int)),
    "nested": nested,
    "array of objects": in_an_array_of_objects,
    "attribute of a helper": lambda: in_a_helper(SimpleNamespace(table=None)),
    "slot of a helper": lambda: in_a_helper(Slots()),
    "attribute of a parameter": on_a_parameter,
    "nonlocal name": in_a_nonlocal,
    "default argument": by_default_argument,
    "hook": by_a_hook,
    "global of an imported file": lambda: Caching(lambda: caching_helper.table(WIDTH)),
}


_before: dict[int, Tensor] = {}  # the fake tensors of earlier tests, by their id


@pytest.fixture(autouse=True)
def _fresh_caches() -> None:
    global _name
    _name, OfClass.last = None, None
    _before.clear()
    _before.update({id(o): o for o in fakes()})
    for cache in (_GLOBAL, OfClass.tables, caching_helper.TABLES):
        cache.clear()
    Static.make.cache_clear()


def check_real(model: nn.Module, like: Tensor) -> None:
    out = model(torch.ones(2, WIDTH))
    assert type(out) is Tensor
    assert torch.equal(out, like)
    out.sum().backward()


LOOKS: dict[str, Callable[[nn.Module], object]] = {
    "read_anatomy": lambda m: read_anatomy(m, EXAMPLE),
    "trace": lambda m: trace(m, EXAMPLE),
    "explain": lambda m: LayerGroups(m, "layerwise", example_input=EXAMPLE).explain(),
}


OF_EACH = [("read_anatomy", kind) for kind in KINDS] + [
    (look, "lru_cache of a static method") for look in LOOKS if look != "read_anatomy"
]


@pytest.mark.parametrize(("look", "kind"), OF_EACH)
def test_a_model_answers_with_real_tensors_after_a_look(kind: str, look: str) -> None:
    model = KINDS[kind]()
    scale = torch.ones(2, WIDTH) * table() if kind != "hook" else torch.ones(2, WIDTH)
    if kind in ("class attributes", "globals", "nested"):
        scale = scale * table()
    LOOKS[look](model)
    assert not fakes()
    check_real(model, model.fc(scale))


def fakes() -> list[Tensor]:
    """Those that are alive, but for those of earlier tests, such as of torch.export."""
    found = [o for o in gc.get_objects() if type(o).__name__ == "FakeTensor"]
    return [o for o in found if id(o) not in _before]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_cached_before_is_right_afterwards(kind: str) -> None:
    model = KINDS[kind]()
    before = model(torch.ones(2, WIDTH)).detach()
    before = model(torch.ones(2, WIDTH)).detach()  # what a hook saw is in this one
    read_anatomy(model, EXAMPLE)
    check_real(model, before)


def test_a_cache_of_the_model_keeps_its_entries() -> None:
    cache = {"table": table(), "other": 3}
    entries = dict(cache)
    read_anatomy(with_mapping(cache), EXAMPLE)
    assert all(cache[k] is v for k, v in entries.items())
    assert list(cache) == list(entries)


class Failing(nn.Module):
    """Fills its cache, then fails."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_that_fails_leaves_nothing_either(kind: str) -> None:
    inner = KINDS[kind]()
    with pytest.raises(AnatomyError, match=r"nn\.Linear"):
        read_anatomy(Failing(inner), EXAMPLE)
    assert not fakes()
    assert type(inner(torch.ones(2, WIDTH))) is Tensor


@pytest.mark.parametrize("kind", ["lru_cache of a static method", "class attributes", "globals"])
def test_a_failing_look_at_a_model_without_memory_leaves_nothing_either(kind: str) -> None:
    with torch.device("meta"), pytest.raises(AnatomyError):
        read_anatomy(Failing(KINDS[kind]()), EXAMPLE)
    assert not KINDS[kind]()(torch.ones(2, WIDTH)).is_meta


def test_tensors_of_a_model_without_memory_are_not_left_either() -> None:
    with torch.device("meta"):
        read_anatomy(Static(), EXAMPLE)
    assert not Static()(torch.ones(2, WIDTH)).is_meta


def test_where_a_tensor_cannot_be_taken_out_its_holder_is_named() -> None:
    local = threading.local()  # nobody can look into it from outside

    def find() -> Tensor:
        if not hasattr(local, "table"):
            local.table = Entry(table())
        return local.table.value

    model = Caching(find)
    for _look in range(3):  # what the first has left makes the next fail too
        with pytest.raises(AnatomyError, match=r"Entry.*model\(batch\)"):
            read_anatomy(model, EXAMPLE)
    del local.table
    model(torch.ones(2, WIDTH))
    assert read_anatomy(model, EXAMPLE).source == "fake run"


@pytest.mark.parametrize("look", LOOKS)
def test_what_one_look_left_in_a_generator_makes_each_later_look_fail(look: str) -> None:
    def tables() -> Generator[Tensor]:
        made = table()
        while True:
            yield made

    shared = tables()
    first, second = Caching(lambda: next(shared)), Caching(lambda: next(shared))
    for model in (first, first, second):
        with pytest.raises(AnatomyError, match="still held"):
            LOOKS[look](model)


def test_what_a_look_left_is_no_fault_of_other_models() -> None:
    held = iter(lambda: table(), None)

    with pytest.raises(AnatomyError, match="still held"):
        read_anatomy(Caching(lambda: Keep(next(held)).value), EXAMPLE)
    try:
        assert read_anatomy(nn.Linear(WIDTH, 2), EXAMPLE).source == "fake run"
    finally:
        Keep.all.clear()


class Keep:
    all: ClassVar[list[Tensor]] = [torch.zeros(1)] * 20_000  # longer than what is restored

    def __init__(self, value: Tensor) -> None:
        self.value = value
        Keep.all.append(value)


class Entry:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_looking_is_cheap_where_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def search() -> list[object]:
        raise AssertionError("the heap was searched")

    monkeypatch.setattr(gc, "get_objects", search)
    monkeypatch.setattr(gc, "collect", search)
    read_anatomy(nn.Linear(WIDTH, 2), EXAMPLE)


class Untouched:
    @property
    def __dict__(self) -> dict[str, Any]:
        raise AssertionError("this global was looked at")


_LARGE_DATA = [Untouched()]


def test_globals_that_the_code_of_a_model_does_not_name_are_not_looked_at() -> None:
    assert read_anatomy(OfClass(), EXAMPLE).source == "fake run"
    naming = Caching(lambda: table() * len(_LARGE_DATA))
    assert read_anatomy(naming, EXAMPLE).source == "real run"  # the fake one failed by it


def transformers_model(name: str, **config: Any) -> nn.Module:
    import transformers

    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name} yet")
    kind = getattr(transformers, name)
    return kind(
        kind.config_class(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8, **config,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("BeitForImageClassification", {"use_relative_position_bias": True}),
        ("Data2VecVisionForImageClassification", {"use_relative_position_bias": True}),
        ("DINOv3ViTModel", {}),
    ],
)
def test_transformers_models_answer_with_real_tensors_after_a_look(name: str, config: Any) -> None:
    model = transformers_model(name, **config)
    images = torch.rand(2, 3, 32, 32)
    read_anatomy(model, {"pixel_values": images})
    out = model(images)[0]
    assert type(out) is Tensor
    again = transformers_model(name, **config)  # of the same class, never looked at
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images)[0], out)


def test_an_object_that_a_failed_run_complains_about_is_no_leak() -> None:
    """Python keeps the object without an attribute in the error: it goes with the run."""

    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Output(self.linear(x)).flatten()

    with pytest.raises(AnatomyError) as caught:
        read_anatomy(Wrong(), torch.zeros(2, 4))
    assert type(caught.value) is AnatomyError
    assert isinstance(caught.value.__cause__, AttributeError)
