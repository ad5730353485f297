"""What words of the command line mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layergroups.data.folders import find_images

_RULES = ("auto", "layerwise", "classic", "classic-v1")


def split_rule(word: str) -> str | int | list[str]:
    """A split rule: one of the rules by name, a number of groups, or module paths with commas."""
    word = word.strip()
    if word in _RULES:
        return word
    if word.isdecimal():
        return int(word)
    if "," in word or "." in word:
        return [path.strip() for path in word.split(",") if path.strip()]
    return word if _looks_like_a_rule(word) else [word]


def _looks_like_a_rule(word: str) -> bool:
    """Whether a word is rather a mistyped rule than a module, so that the error lists the rules."""
    from difflib import get_close_matches

    return bool(get_close_matches(word, _RULES, n=1, cutoff=0.75))


def photos_of(paths: Sequence[Path]) -> list[str]:
    """The photos, with those of the folders among them, in the order given.

    Folders without photos add nothing; files are taken as they are, broken or absent ones too.
    """
    photos: list[str] = []
    for path in paths:
        photos += find_images(path) if path.is_dir() else [str(path)]
    return photos
