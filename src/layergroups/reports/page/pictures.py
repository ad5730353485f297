"""Photos on the page: pictures that are data of the page itself, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from layergroups.reports.page.markup import Html, tag
from layergroups.reports.run_facts import Photo
from layergroups.reports.words import figure, percent

_PICTURE: Final = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")


def picture_of(uri: str) -> str:
    """The picture, if it is one that needs no network; else nothing."""
    return uri if _PICTURE.fullmatch(uri) else ""


def worst(photos: Sequence[Photo], task: str) -> Html:
    """The items of the highest losses, each beside what spoke for the prediction."""
    return tag("ul", [tag("li", _card(photo, task)) for photo in photos], class_="worst")


def _card(photo: Photo, task: str) -> Html:
    pictures = [
        tag("img", src=uri, alt=alt)
        for uri, alt in (
            (picture_of(photo.thumb), f"{photo.path}, {photo.actual}"),
            (picture_of(photo.heat), f"the same, with the places that spoke for {photo.predicted}"),
        )
        if uri
    ]
    sure = None if photo.score is None else f", {percent(photo.score)} sure"
    said = [
        *("said " if task == "regression" else "taken for ", tag("strong", photo.predicted), sure),
        *(tag("br"), "is ", tag("strong", photo.actual)),
    ]
    words = tag("p", *said, class_="said")
    below = tag(
        "p", tag("span", photo.path), tag("b", f"loss {figure(photo.loss)}"), class_="where"
    )
    return tag("figure", tag("div", pictures, class_="pair") if pictures else None,
               tag("figcaption", words, below))  # fmt: skip
