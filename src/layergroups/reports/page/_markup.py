"""HTML from values. Text is escaped here and nowhere else, so no text can become markup.

`tag` makes an element; whatever it is given that is not `Html` already is text. So a class named
`<img src=x onerror=…>` is shown as it is written, wherever it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any, Final

_VOID: Final = frozenset({"meta", "img", "br"})
_IN_SCRIPTS: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]


def tag(element: str, /, *content: Content, **attributes: object) -> Html:
    """An element.

    Args:
        element: its name.
        content: elements, text, nothing (None), or lists of those.
        attributes: by name, an underscore at the end left out (`class_`), others as hyphens
            (`aria_label`); None and False leave one out, True writes its name alone.
    """
    opened = f"<{element}{''.join(map(_attribute, attributes.items()))}>"
    if element in _VOID:
        return Html(opened)
    return Html(f"{opened}{markup(*content)}</{element}>")


def markup(*content: Content) -> Html:
    """Content one after another; text in it is escaped."""
    return Html("".join(map(_markup, content)))


def script_json(data: Any, **attributes: object) -> Html:
    """Data for a script, as an element in which no text can end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    for letter, safe in _IN_SCRIPTS.items():
        text = text.replace(letter, safe)
    return tag("script", Html(text), type="application/json", **attributes)


def _markup(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Html):
        return content
    if isinstance(content, str | int):
        return escape(str(content))
    return "".join(map(_markup, content))


def _attribute(pair: tuple[str, object]) -> str:
    name, value = pair
    if value is None or value is False:
        return ""
    shown = name.rstrip("_").replace("_", "-")
    return f" {shown}" if value is True else f' {shown}="{escape(str(value))}"'
