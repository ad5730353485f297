"""Private names of torch stand in one file, and what it says of them is so."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layergroups
from layergroups import _torch
from layergroups.errors import AnatomyError

PACKAGE = Path(layergroups.__file__).parent
# attributes of torch's objects that start with "_"; others of such names are a file's own
INTERNALS = frozenset(
    [
        "_parameters", "_modules", "_buffers", "_version", "_orig_mod", "_compiled_call_impl",
        "_forward_hooks", "_forward_pre_hooks", "_non_persistent_buffers_set", "_cdata",
        "_overloadpacket", "_call_impl", "_apply", "_backward_hooks", "_base",
    ]
)  # fmt: skip


def private_names(source: str) -> Iterator[str]:
    """Private names of torch that a file uses: imports, chains from `torch`, parts of modules."""
    tree = ast.parse(source)
    bound = {"torch", "nn", "F"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            path = [*(node.module or "").split("."), *(a.name for a in node.names)]
            yield from (f"{node.module}: {n}" for n in path if n.startswith("_"))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("torch") and "._" in alias.name:
                    yield alias.name
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.expr = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            of_torch = isinstance(root, ast.Name) and root.id in bound
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if of_torch or (node.attr in INTERNALS and not own):
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in INTERNALS:
            yield repr(node.value)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_torch.py")


@pytest.mark.parametrize("file", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_file_names_a_private_part_of_torch(file: Path) -> None:
    assert list(private_names(file.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "from torch._dynamo import config",
        "from torch.nn.modules.batchnorm import _NormBase",
        "import torch._dynamo",
        "torch._C._autograd.f(x)",
        "nn.modules.batchnorm._NormBase",
        "for p in module._parameters.values(): pass",
        "a.b._version",
        "getattr(m, '_orig_mod')",
    ],
)
def test_the_search_finds_each_kind(line: str) -> None:
    assert list(private_names(line))


def test_names_of_ones_own_are_free() -> None:
    assert not list(private_names("self._modules = 1\nmodel._mine\nself._version"))


def test_groups_are_imported_without_dynamo() -> None:
    code = "import sys, layergroups.groups; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_exports_are_complete_and_sorted() -> None:
    assert _torch.__all__ == sorted(_torch.__all__)
    assert all(hasattr(_torch, name) for name in _torch.__all__)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_parameter("bias", None)
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.inner = nn.Linear(2, 2)


def test_what_a_module_holds_itself() -> None:
    part = Part()
    assert list(_torch.own_parameters(part)) == ["weight", "bias"]
    assert list(_torch.own_tensors(part)) == ["weight", "kept", "scratch"]
    assert list(_torch.own_modules(part)) == ["inner"]
    assert [_torch.is_persistent(part, n) for n in ("kept", "scratch")] == [True, False]
    handles = [part.register_forward_hook(lambda *_: None)]
    handles.append(part.register_forward_pre_hook(lambda *_: None))
    assert len(_torch.forward_hooks(part)) == len(_torch.forward_pre_hooks(part)) == 1
    assert {id(m) for m in _torch.each_module(part)} == {id(m) for m in part.modules()}


def test_wrappers_are_taken_off() -> None:
    model = Part()
    wrapped = torch.compile(nn.DataParallel(model))
    assert _torch.unwrap(wrapped) is model
    assert _torch.is_compiled(wrapped)
    with pytest.raises(AnatomyError, match="load_model"):
        _torch.unwrap("resnet18")


def test_a_module_compiled_in_place_can_run_as_it_was() -> None:
    model = Part()
    model.compile()
    assert _torch.is_compiled(model)
    _torch.call_uncompiled(model)
    assert not _torch.is_compiled(model)


def test_version_counters() -> None:
    tensor = torch.zeros(2)
    before = _torch.version(tensor)
    tensor.add_(1)
    assert _torch.version(tensor) == before + 1
    _torch.set_versions([tensor], [before])
    assert _torch.version(tensor) == before


def test_views_share_a_storage_key() -> None:
    tensor = torch.zeros(4)
    assert _torch.storage_key(tensor) == _torch.storage_key(tensor[1:])
    assert _torch.storage_key(tensor) != _torch.storage_key(tensor.clone())


def test_many_averages_at_once() -> None:
    averages: list[Tensor] = [torch.zeros(2), torch.zeros(3)]
    _torch.foreach_lerp_(averages, [torch.ones(2), torch.ones(3)], 0.25)
    assert [a.tolist() for a in averages] == [[0.25] * 2, [0.25] * 3]


def test_wrappers_are_known_without_a_search(tmp_path: Path, monkeypatch: Any) -> None:
    _torch.watch_ddp()
    monkeypatch.setattr(_torch.gc, "get_objects", lambda: pytest.fail("a search for wrappers"))
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model, other = nn.Linear(2, 2), nn.Linear(2, 2)
        wrapper = nn.parallel.DistributedDataParallel(nn.Sequential(model))
        groups = layergroups.LayerGroups(model, 1, example_input=torch.zeros(1, 2))
        groups.freeze_to(0)
        assert _torch.ddp_wrappers(model) == [wrapper]
        assert _torch.ddp_wrappers(other) == []
    finally:
        torch.distributed.destroy_process_group()
