"""Which words of a text spoke for a prediction, by gradient x input."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from layergroups._forward import call_model, single_batch
from layergroups._torch import tree_map_only
from layergroups.anatomy import eval_mode
from layergroups.data import data_source
from layergroups.errors import LayerGroupsError
from layergroups.reports._protocols import Answering

# how the names of characters begin, in scripts that write words without spaces
_NO_SPACES: Final = (
    "CJK ", "HALFWIDTH KATAKANA", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KHMER", "LAO", "MYANMAR",
    "THAI",
)  # fmt: skip
Marked = tuple[tuple[str, float], ...]


def word_scores(learn: Answering, text: str, target: int | None = None) -> Marked:
    """A text in pieces, each with how much it spoke for an output, from -1 to 1; changes nothing.

    The score of a token is the product of its embedding with the gradient of the output; a word has
    the sum of its tokens; in scripts without spaces, such as Chinese, each token is a word. The
    largest of a text is 1 or -1. What lies beyond the limit has 0.

    Source: Shrikumar and others, "Learning Important Features Through Propagating Activation
    Differences" (2017), on gradient x input.

    Args:
        learn: a learner of texts.
        text: the text.
        target: position of the class, label or number; None for the one with the largest output.

    Raises:
        LayerGroupsError: the data are not texts, or no embedding of tokens was used.
    """
    data = data_source(learn.dls)
    spans = data.token_spans(text)
    device = next(learn.model.parameters()).device

    def first_window(tensor: Tensor) -> Tensor:
        return (tensor[0] if tensor.ndim == 2 else tensor).to(device)

    inputs = single_batch(tree_map_only(Tensor, first_window, data.load(text)))
    tokens = _token_scores(learn.model, inputs, target)[: len(spans)]
    words = _words(text, spans, tokens)
    most = max((abs(score) for *_, score in words), default=0.0) or 1.0
    return tuple(_pieces(text, [(a, b, score / most) for a, b, score in words]))


def _words(
    text: str, spans: Sequence[tuple[int, int]], scores: Sequence[float]
) -> list[tuple[int, int, float]]:
    """Tokens joined to words, with the sum of their scores."""
    words: list[tuple[int, int, float]] = []
    for (start, end), score in zip(spans, scores, strict=False):
        if end <= start:
            continue  # a special token
        if words and _goes_on(text, words[-1][1], start):
            first, last, total = words.pop()
            words.append((first, max(last, end), total + score))
        else:
            words.append((start, end, score))
    return words


def _goes_on(text: str, last: int, start: int) -> bool:
    """Whether a token that begins at `start` belongs to the word that ends at `last`.

    Between words of scripts without spaces there is no mark, so there each token is a word.
    """
    if start < last:
        return True  # some tokens are bytes of a character
    around = text[start - 1 : start + 1]
    return start == last and around.isalnum() and not any(map(_without_spaces, around))


def _without_spaces(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_NO_SPACES)


def _pieces(text: str, words: Sequence[tuple[int, int, float]]) -> Iterator[tuple[str, float]]:
    done = 0
    for start, end, score in words:
        if start > done:
            yield text[done:start], 0.0
        yield text[max(start, done) : end], score
        done = max(done, end)
    if done < len(text):
        yield text[done:], 0.0


def _token_scores(model: nn.Module, inputs: dict[str, Tensor], target: int | None) -> list[float]:
    with eval_mode(model), torch.enable_grad(), _first_embedding(model, inputs) as found:
        outputs = call_model(model, inputs)[0].float()
        score = outputs[int(outputs.argmax()) if target is None else target]
        if not found:
            raise LayerGroupsError(
                "No embedding of the network takes the tokens, so words have no score."
            )
        (gradient,) = torch.autograd.grad(score, found[0])
    scores: list[float] = (gradient * found[0]).sum(-1)[0].tolist()
    return scores


@contextmanager
def _first_embedding(model: nn.Module, inputs: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """The output of the first embedding that takes the tokens, as a leaf with a gradient."""
    found: list[Tensor] = []

    def replaced(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if found or args[0].shape != inputs["input_ids"].shape:
            return None
        if not torch.equal(args[0], inputs["input_ids"]):
            return None
        found.append(output.detach().requires_grad_())
        return found[0]

    kinds = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    handles = [m.register_forward_hook(replaced) for m in kinds]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
