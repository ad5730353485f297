"""Which architectures there are, by family, and which are alike."""

from __future__ import annotations

from collections.abc import Iterable

FAMILIES = (
    "torchvision", "timm", "transformers-image", "transformers-text", "segmentation", "video",
    "detection",
)  # fmt: skip


def names(family: str) -> list[tuple[str, str]]:
    """Architectures of a family, each with the kind that it is a variant of."""
    if family == "torchvision":
        return _torchvision("torchvision.models")
    if family == "segmentation":
        return _torchvision("torchvision.models.segmentation")
    if family == "video":
        return _torchvision("torchvision.models.video")
    if family == "detection":
        return _torchvision("torchvision.models.detection")
    if family == "field":
        from benchmarks.coverage.field import expected

        return [(f"{source}:{model}", source) for source, model in expected.expectations()]
    if family == "timm":
        import timm
        from timm.models import _registry

        return [(name, _registry._model_to_module[name]) for name in timm.list_models()]
    from benchmarks.coverage import tiny

    return [(name, name) for name in tiny.model_types(family)]


def _torchvision(module: str) -> list[tuple[str, str]]:
    import importlib

    from torchvision import models

    listed = models.list_models(module=importlib.import_module(module))
    kinds = {n: models.get_model_builder(n).__module__.rpartition(".")[2] for n in listed}
    return sorted(kinds.items())


def sample(rows: Iterable[tuple[str, str]], n: int) -> list[tuple[str, str]]:
    """The first and the last of each kind, or n spread over it."""
    kinds: dict[str, list[str]] = {}
    for name, kind in rows:
        kinds.setdefault(kind, []).append(name)
    chosen = []
    for kind, members in kinds.items():
        step = max(1, (len(members) - 1) // max(1, n - 1)) if n > 1 else len(members)
        chosen += [(name, kind) for name in members[::step][:n]]
    return chosen


def spread(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """All, but one of each kind before a second of any, so that a broken-off run says much."""
    counts: dict[str, int] = {}
    ranked = []
    for name, kind in rows:
        counts[kind] = counts.get(kind, 0) + 1
        ranked.append((counts[kind], kind, name))
    return [(name, kind) for _, kind, name in sorted(ranked)]
