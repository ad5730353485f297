"""Pages that the system had to clear are counted, which no other process disturbs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from layergroups.training.hardware import _allocator as heap
from layergroups.training.hardware._allocator import keep_freed_memory

_SCRIPT = """
import resource
import torch
from layergroups.training.hardware._allocator import keep_freed_memory

def cleared():
    "Pages cleared while 48 MB, more than glibc keeps by itself, are taken and freed eight times."
    for _ in range(3):
        torch.ones(12 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(12 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

usually = cleared()
with keep_freed_memory():
    with keep_freed_memory():
        assert cleared() < usually / 4
    assert cleared() < usually / 4, "leaving the inner one changed something"
    held = resident()
assert resident() < held - 40 * 2**20
"""


@pytest.fixture(autouse=True)
def _needs_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in heap._OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    heap._glibc.cache_clear()
    if heap._glibc() is None:
        pytest.skip("the allocator is not glibc's")


def test_freed_memory_is_taken_again_inside_and_given_back_after() -> None:
    found = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_an_error_inside_gives_back_too() -> None:
    with pytest.raises(RuntimeError), keep_freed_memory():
        torch.ones(2) @ torch.ones(3)
    assert heap._inside == 0


def test_own_settings_of_the_allocator_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    heap._glibc.cache_clear()
    with keep_freed_memory():
        assert heap._inside == 0
    heap._glibc.cache_clear()


def test_a_fit_reuses_memory(make) -> None:
    seen = []

    class Looks:
        def after_step(self, run) -> None:
            seen.append(heap._inside)

    make(callbacks=[Looks()]).fit(1)
    assert seen
    assert min(seen) >= 1  # a fit may be entered from a recipe that has
    assert heap._inside == 0
