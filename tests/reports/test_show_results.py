"""Photos beside their predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from tests.reports.readable import assert_readable


def words_of(figure: Any) -> list[str]:
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in texts]


def test_results_are_drawn_and_the_same_each_time(learn: Any, tmp_path: Path) -> None:
    figure = learn.show_results(n=4)
    assert_readable(figure)
    assert words_of(figure) == words_of(learn.show_results(n=4))
    assert len(figure.axes) == 4
    probabilities, targets = learn.get_preds()
    assert len(learn.show_results(n=99).axes) == len(targets)
    said = [learn.dls.vocab[i] for i in probabilities.argmax(1).tolist()]
    assert [w for w in words_of(learn.show_results(n=99)) if w in ("cat", "dog")] == said
    file = learn.show_results(tmp_path / "some/results.png")
    with Image.open(file) as picture:
        assert picture.width > 500


def test_results_without_classes_show_what_is_predicted(learn: Any) -> None:
    files = learn.dls.valid_images.files[:2]
    words = words_of(learn.show_results(dl=learn.dls.test_dl(files)))
    assert words[0] == "Predicted: 2 images"
    assert not any(word.startswith("is ") for word in words)


def test_results_of_plain_batches(make: Callable[..., Any]) -> None:
    assert len(make().show_results(n=5).axes) == 5


def test_a_notebook_can_show_the_figure(make: Callable[..., Any]) -> None:
    assert make().show_results(n=1)._repr_png_().startswith(b"\x89PNG")
