"""Words of a text are marked by how much they spoke for a prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.texts import BAD, GOOD, model_folder, reviews

from layergroups import Interpretation, TextDataLoaders, text_learner
from layergroups.errors import LayerGroupsError
from layergroups.reports import RunRecord, RunReport, record_run, word_scores
from layergroups.reports._word_scores import _words
from layergroups.training import Learner

HOSTILE = '<script>alert("x")</script> <img src=x onerror=alert(1)> dull film'


@pytest.fixture(scope="module")
def learn(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    folder = model_folder(tmp_path_factory.mktemp("model"), "distilbert")
    texts, labels = reviews(110, longest=5)
    texts[1], labels[1] = HOSTILE, "good"  # a wrong label, so it has a large loss
    marks = [i < 30 for i in range(110)]
    dls = TextDataLoaders.from_lists(texts, labels, is_valid=marks, model=folder, batch_size=16)
    made = text_learner(dls, progress=False, seed=0, metrics=["accuracy"])
    made.unfreeze()
    made.fit(8, 1.5e-2)
    return made


def test_the_pieces_are_the_text_and_the_word_that_decides_has_the_largest_score(
    learn: Learner,
) -> None:
    right = 0
    for text in learn.dls.valid_texts.files:
        pieces = word_scores(learn, text)
        assert "".join(piece for piece, _ in pieces) == text
        assert max(abs(score) for _, score in pieces) == 1
        right += max(pieces, key=lambda pair: pair[1])[0] in (*GOOD, *BAD)
    assert right > 13  # of 30; a word by chance: 8


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("这|部|电影|非常|好", "这|部|电影|非常|好"),
        ("とても|un|bel|ievable|です", "とても|unbelievable|です"),
        ("ดี|มา|ก", "ดี|มา|ก"),
        ("un|bel|ievable| |films", "unbelievable|films"),
        ("19|90|s|-|era", "1990s|-|era"),
        ("пре|красный| |фильм", "прекрасный|фильм"),
        ("영|화는", "영화는"),
    ],
)
def test_tokens_are_joined_to_words_where_words_have_spaces(tokens: str, words: str) -> None:
    parts, spans, place = tokens.split("|"), [(0, 0)], 0
    for part in parts:
        if part != " ":
            spans.append((place, place + len(part)))
        place += len(part)
    text = "".join(parts)
    found = _words(text, spans, [1.0] * len(spans))
    assert [text[start:end] for start, end, _ in found] == words.split("|")
    assert sum(score for *_, score in found) == len(spans) - 1


def test_bytes_of_a_character_are_one_word() -> None:
    found = _words("好电", [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2)], [1.0] * 5)
    assert found == [(0, 1, 3.0), (1, 2, 2.0)]


def test_looking_changes_nothing(learn: Learner) -> None:
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    state = torch.get_rng_state()
    modes = [module.training for module in learn.model.modules()]
    word_scores(learn, "a dull film", target=0)
    assert all(torch.equal(before[n], v) for n, v in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [module.training for module in learn.model.modules()]
    assert all(parameter.grad is None for parameter in learn.model.parameters())
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_only_texts_have_words(learn: Learner) -> None:
    with pytest.raises(LayerGroupsError):
        Interpretation(
            predictions=torch.ones(1, 2), targets=torch.zeros(1, dtype=torch.long),
            losses=torch.ones(1), paths=(None,), classes=("a", "b"), learner=learn,
        ).words(0)  # fmt: skip
    with pytest.raises(LayerGroupsError):
        Interpretation.from_learner(learn).images([0])


def test_interpretation_of_texts(learn: Learner) -> None:
    found = Interpretation.from_learner(learn)
    worst = found.top_losses(1)[0]
    assert worst.text == learn.dls.valid_texts.files[worst.index]
    assert learn.predict(worst.text).label == worst.predicted
    rows = found.by_length(3)
    assert sum(row.items for row in rows) == len(found)
    assert rows[0].longest <= rows[-1].shortest
    mean = sum(row.loss * row.items for row in rows) / len(found)
    assert mean == pytest.approx(float(found.losses.mean()), rel=1e-4)
    assert json.dumps(found.to_dict())
    assert found.most_confused() is not None


def record(learn: Learner, **options: Any) -> RunRecord:
    """The record of a run in which the hostile text has the largest loss."""
    found = Interpretation.from_learner(learn)
    losses = found.losses.clone()
    losses[found.texts.index(HOSTILE)] = 100.0
    return record_run(learn, interp=replace(found, losses=losses), **options)


def test_the_page_shows_texts_escaped_and_words_marked(learn: Learner) -> None:
    page = RunReport((record(learn),)).html()
    assert '<script>alert("x")' not in page
    assert "<img src=x" not in page
    assert "onerror" in page  # as text
    assert 'class="for"' in page
    assert "Length and error" in page


def test_confidential_texts_stay_out_of_the_page(learn: Learner) -> None:
    hidden = record(learn, pictures=False)
    assert "onerror" not in RunReport((hidden,)).html()
    assert all(not item.words for item in hidden.outcome.worst)


def test_a_record_is_read_again(learn: Learner, tmp_path: Path) -> None:
    made = record(learn)
    made.save(tmp_path / "run.json")
    again = RunRecord.load(tmp_path)
    assert again.outcome.lengths == made.outcome.lengths
    assert again.outcome.worst == made.outcome.worst
