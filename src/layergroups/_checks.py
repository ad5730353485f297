"""Checks of arguments; each error shows a correct call."""

from __future__ import annotations

import math

from layergroups.errors import LayerGroupsError, TrainingError


def whole_number(
    name: str,
    value: object,
    least: int,
    example: int,
    error: type[LayerGroupsError] = TrainingError,
) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(
            f"{name}={value!r} must be a whole number from {least}, such as {name}={example}."
        )
    return value


def number(
    name: str,
    value: object,
    low: float,
    high: float,
    example: float,
    error: type[LayerGroupsError] = TrainingError,
    *,
    open_ends: bool = False,
) -> float:
    """The value, a number between two bounds, or strictly between them."""
    inside = False
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        inside = low < value < high if open_ends else low <= value <= high
    if not inside or not isinstance(value, int | float):
        upto = f"{'and below' if open_ends else 'to'} {high:g}" if math.isfinite(high) else ""
        bound = f"above {low:g} {upto}" if open_ends else f"from {low:g} {upto}"
        raise error(
            f"{name}={value!r} must be a number {bound.rstrip()}, such as {name}={example:g}."
        )
    return float(value)


def text(name: str, value: object, example: str) -> str:
    if not isinstance(value, str) or not value:
        raise TrainingError(f'{name}={value!r} must be a text, such as {name}="{example}".')
    return value
