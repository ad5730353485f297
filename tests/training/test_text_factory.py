"""A learner of texts does what one of images does: train, stop, resume, predict, save, export."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.texts import model_folder, reviews, tokenizers
from tests.training.tiny import TinyLoaders

from layergroups import FineTuneDefaults, TextDataLoaders, load_learner, text_learner
from layergroups.errors import ArgumentError, CheckpointError, ModelError, TrainingError
from layergroups.training import Learner
from layergroups.training.recipes import FineTunePlan, new_plan

FEW = FineTuneDefaults(
    head_steps=8, head_passes=1, least_steps=0, unfrozen_ratio=1.0, spread=0.1, lowest=1,
    usual_interpolation=0.8, head_dropout=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def data(folder: Path, n: int = 40, **options: Any) -> TextDataLoaders:
    return TextDataLoaders.from_lists(*reviews(n), model=folder, batch_size=8, **options)


def learner(folder: Path, dls: TextDataLoaders | None = None, **options: Any) -> Learner:
    given: dict[str, Any] = {"progress": False, "seed": 0, "metrics": ["accuracy"]}
    return text_learner(dls or data(folder), **(given | options))


def weights(learn: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}


def test_from_a_table_to_predictions_and_back(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "reviews.tsv"
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("label", "text"), *((b, a) for a, b in zip(*reviews(120), strict=True))]
        )
    dls = TextDataLoaders.from_table(table, model=folder, batch_size=16)
    learn = learner(folder, dls, path=tmp_path, pooling="mean")
    assert learn.layer_groups.names[-1] == "head"
    assert learn.layer_groups.frozen[0]
    learn.fine_tune(5, 5e-2, defaults=replace(FEW, lowest=0, hold_out=0.0))  # from noise
    assert learn.validate()["accuracy"] > 0.9
    found = learn.predict("a wonderful story")
    assert found.label == "good"
    learn.save("run")
    before = weights(learn)
    learn.fit(1, 1e-2)
    learn.load("run")
    assert all(torch.equal(before[name], value) for name, value in weights(learn).items())
    again = load_learner(learn.export(tmp_path / "export"))
    assert again.layer_groups.names == learn.layer_groups.names
    torch.testing.assert_close(
        again.predict("a wonderful story").probabilities, found.probabilities, rtol=1e-4, atol=1e-5
    )
    rows = list(again.iter_preds(["dull film", "great cast"]))
    assert [(text, row.label) for text, row in rows] == [
        ("dull film", "bad"),
        ("great cast", "good"),
    ]
    again.dls = dls
    assert again.validate()["valid_loss"] == pytest.approx(learn.validate()["valid_loss"], rel=1e-4)


def test_the_head_phase_runs_the_frozen_encoder_once_per_text(folder: Path) -> None:
    learn, seen = learner(folder), []
    encoder = learn.model[0].encoder
    forward = type(encoder).forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(kwargs["input_ids"]))
        return forward(encoder, *args, **kwargs)

    encoder.__dict__["forward"] = counted
    seen_by_head: list[int] = []
    note = SimpleNamespace(after_fit=lambda run: seen_by_head.append(sum(seen)))
    history = learn.fine_tune(1, defaults=FEW, callbacks=[note])  # whose early layers stay frozen
    assert history[0].resources["body_passes"] == 1
    items = len(learn.dls.train_texts) + len(learn.dls.valid_texts)
    assert seen_by_head[0] <= items + 8 * 3  # trials with three texts


class StopAt:
    """Ends a fit as a kill would, after so many steps."""

    def __init__(self, step: int) -> None:
        self.left = step

    def after_step(self, run: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("fit", ["fit_one_cycle", "fine_tune", "gradual_unfreeze"])
def test_a_killed_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path, fit: str) -> None:
    whole = learner(folder)
    options: dict[str, Any] = {"defaults": FEW} if fit == "fine_tune" else {}
    getattr(whole, fit)(2, **options)
    broken = learner(folder)
    options |= {"checkpoint_dir": tmp_path / fit, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        getattr(broken, fit)(2, callbacks=[StopAt(6)], **options)
    resumed = learner(folder)
    getattr(resumed, fit)(2, resume=True, **options)
    ours = weights(resumed)
    assert all(torch.equal(value, ours[name]) for name, value in weights(whole).items())
    assert [row.valid_loss for row in resumed.history] == [row.valid_loss for row in whole.history]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([["good"], [], ["bad", "long"]] * 13 + [[]], "multilabel"),
        ([0.5, 1.25, 3.5] * 13 + [1.0], "regression"),
    ],
)
def test_several_labels_and_numbers(
    folder: Path, tmp_path: Path, labels: list[Any], task: str
) -> None:
    texts, _ = reviews(40)
    dls = TextDataLoaders.from_lists(texts, labels, model=folder, batch_size=8)
    learn = learner(folder, dls, metrics=dls.task.default_metrics)
    assert learn.task == task
    learn.fine_tune(1, defaults=FEW)
    again = load_learner(learn.export(tmp_path / "m"))
    assert again.predict(texts[0]).to_dict().keys() == learn.predict(texts[0]).to_dict().keys()


@pytest.mark.parametrize("kind", ["gpt2", "distilbert", "t5"])
def test_other_kinds_of_encoders(tmp_path: Path, kind: str, caplog: Any) -> None:
    learn = learner(model_folder(tmp_path / kind, kind))
    with caplog.at_level(logging.WARNING, "layergroups"):
        learn.fine_tune(1, defaults=FEW)
        folder = learn.export(tmp_path / "m")
    assert not caplog.records
    again = load_learner(folder)
    torch.testing.assert_close(
        again.predict("a dull plot").probabilities, learn.predict("a dull plot").probabilities
    )


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    mpnet = model_folder(tmp_path / "mpnet", "mpnet")
    with pytest.raises(ModelError, match="max_length=22"):
        learner(mpnet)
    learner(mpnet, data(mpnet, max_length=22)).predict(" ".join(["film"] * 99))
    file = tmp_path / "mpnet" / "tokenizer.json"
    file.write_text(file.read_text().replace('"film": 13', '"film": 99'))
    with pytest.raises(ModelError, match="token 99"):
        learner(mpnet, data(mpnet, max_length=22))


def test_halves_of_characters_are_read_as_question_marks(folder: Path) -> None:
    learn = learner(folder)
    for text in ("a film \ud83d", "\ud800", "\x00 a"):
        assert learn.predict(text).label in ("bad", "good")
    assert len(learn.dls.token_spans("a \ud83d")) == 4


def test_batches_by_length_are_predicted_in_the_order_of_the_texts(folder: Path) -> None:
    learn = learner(folder)
    learn.fit(1, 1e-2)
    texts = list(learn.dls.valid_texts.files)
    found, targets, losses = learn.get_preds(with_loss=True)
    plain, _ = learn.get_preds(learn.dls.test_dl(texts))
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(targets, learn.dls.valid_texts.targets())
    rows = torch.stack([row.probabilities for _, row in learn.iter_preds(texts)])
    torch.testing.assert_close(found, rows, rtol=1e-4, atol=1e-5)
    assert losses.mean().item() == pytest.approx(learn.validate()["valid_loss"], rel=1e-4)


def test_a_fit_on_cached_vectors_is_the_fit_without_a_cache(folder: Path) -> None:
    one, other = learner(folder, ps=0.0), learner(folder, ps=0.0)
    one.fit(3, 1e-2)
    other.fit(3, 1e-2, feature_cache=False)
    assert one.history[2].note == "cached features"
    for row, same in zip(one.history, other.history, strict=True):
        assert row.train_loss == pytest.approx(same.train_loss, rel=1e-4)
        assert row.valid_loss == pytest.approx(same.valid_loss, rel=1e-4)


def test_tokens_of_different_numbers_are_not_cached(folder: Path, caplog: Any) -> None:
    one, other = learner(folder), learner(folder)
    for learn in (one, other):
        learn.freeze_to(1)
    with caplog.at_level(logging.INFO, "layergroups"):
        one.fit(3, 1e-3)
    assert sum("frozen layers run" in record.message for record in caplog.records) == 1
    other.fit(3, 1e-3, feature_cache=False)
    theirs = weights(other)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(one).items())


def test_a_seed_decides_everything(folder: Path) -> None:
    one, other = learner(folder, balance_of(folder)), learner(folder, balance_of(folder))
    one.fine_tune(1, defaults=FEW)
    other.fine_tune(1, defaults=FEW)
    ours = weights(other)
    assert all(torch.equal(value, ours[name]) for name, value in weights(one).items())


def test_embeddings_stay_frozen_and_early_layers_of_few_texts(folder: Path) -> None:
    assert learner(folder).layer_groups.names == ("embeddings", "early", "late", "head")

    def planned(n: int = 40, **wishes: Any) -> FineTunePlan:
        own = {name: wishes.pop(name) for name in ("pretrained", "split") if name in wishes}
        usual = {"base_lr": None, "freeze_epochs": 1, "lr": None, "defaults": None}
        return new_plan(learner(folder, data(folder, n), **own), 2, **usual | wishes)

    def lowest(n: int = 40, **wishes: Any) -> int:
        return planned(n, **wishes).figures.lowest

    assert lowest() == 2
    assert "1,000 texts" in planned().reasons["lowest"]
    assert lowest(1300) == 1
    assert "lowest" not in planned(1300).reasons
    by_hand = ["0.encoder.encoder.layer.1", "1"]  # no group of embeddings alone
    assert (lowest(split=by_hand), lowest(1300, split=by_hand)) == (1, 0)
    assert lowest(defaults=replace(FEW, lowest=0)) == 0
    assert lowest(lr=slice(1e-5, 1e-3)) == 0  # rates for all groups
    assert lowest(pretrained=False) == 0


def test_a_run_does_not_resume_with_other_shares_of_the_classes(
    folder: Path, tmp_path: Path
) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True}
    learner(folder).fit(1, **saved)
    with pytest.raises(CheckpointError, match="balance"):
        learner(folder, data(folder, balance=True)).fit(1, **saved)


def balance_of(folder: Path) -> TextDataLoaders:
    return data(folder, balance={"bad": 1, "good": 3})


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(TrainingError, match="TextDataLoaders"):
        text_learner([1, 2])  # type: ignore[arg-type] # the mistake
    with pytest.raises(ModelError, match="pooling"):
        learner(folder, pooling="max")
    with pytest.raises(ArgumentError, match=r"text_learner.* cbs=.*callbacks"):
        learner(folder, cbs=[])
    assert len(text_learner(data(folder), str(folder), progress=False).layer_groups) > 1
    with pytest.raises(TrainingError, match="model='resnet18'"):
        text_learner(data(folder), "resnet18")


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_of_tokens_runs_alone(kind: str, ending: str, tmp_path: Path) -> None:
    learn = learner(model_folder(tmp_path / kind, kind))
    file = learn.export(tmp_path / f"m.{ending}")
    texts = ["a fine film and a great story", "dull", "it is weak ."]
    expected = torch.stack([learn.predict(text).probabilities for text in texts])
    described = json.loads((tmp_path / f"m.{ending}.json").read_text())
    names = [each["name"] for each in described["inputs"]]
    tokens = tokenizers.Tokenizer.from_file(str(tmp_path / f"m.{ending}.tokenizer.json"))
    tokens.enable_padding(pad_id=0)
    made = tokens.encode_batch(texts)
    given = {
        "input_ids": torch.tensor([each.ids for each in made]),
        "attention_mask": torch.tensor([each.attention_mask for each in made]),
        "token_type_ids": torch.tensor([each.type_ids for each in made]),
    }
    if ending == "pt2":
        found = torch.export.load(file).module()(*(given[name] for name in names))
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(file))
        (answer,) = session.run(None, {name: given[name].numpy() for name in names})
        found = torch.from_numpy(answer)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def in_windows(described: dict[str, Any], folder: Path, texts: list[str]) -> dict[str, Any]:
    """The inputs of a graph, made from its description and the tokenizer beside it alone."""
    before = described["before_the_graph"]
    (file,) = folder.glob("*.tokenizer.json")
    tokens = tokenizers.Tokenizer.from_file(str(file))
    tokens.enable_truncation(before["max_length"], stride=before["overlap"])
    made = [tokens.encode(before["separator"].join(text.split("\t"))) for text in texts]
    windows = [[each, *each.overflowing][: before["most_windows"]] for each in made]
    shape = (len(texts), max(map(len, windows)), max(len(w) for each in windows for w in each))
    found = {each["name"]: torch.zeros(shape, dtype=torch.long) for each in described["inputs"]}
    found["input_ids"].fill_(before["padding"])
    for row, each in enumerate(windows):
        for place, window in enumerate(each):
            found["input_ids"][row, place, : len(window)] = torch.tensor(window.ids)
            found["attention_mask"][row, place, : len(window)] = 1
    return found


@pytest.mark.parametrize(("kind", "max_length"), [("bert", 8), ("gpt2", 12)])
@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_of_windows_reads_long_texts_as_the_learner_does(
    kind: str, max_length: int, ending: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / kind, kind)
    dls = data(folder, max_length=max_length, long="windows", max_tokens=max_length * 4)
    learn = learner(folder, dls)
    learn.unfreeze()
    learn.fit(2, 2e-2)
    file = learn.export(tmp_path / f"m.{ending}")
    described = json.loads((tmp_path / f"m.{ending}.json").read_text())
    assert described["inputs"][0]["shape"] == ["batch", "windows", "tokens"]
    texts = ["a fine film", "it is a dull story and " * 2, "a great cast , weak plot " * 9]
    for batch in (texts, texts[:1], texts[2:]):
        given = in_windows(described, tmp_path, batch)
        if ending == "pt2":
            found = torch.export.load(file).module()(*given.values())
        else:
            session = pytest.importorskip("onnxruntime").InferenceSession(str(file))
            named = {name: value.numpy() for name, value in given.items()}
            found = torch.from_numpy(session.run(None, named)[0])
        expected = torch.stack([learn.predict(text).probabilities for text in batch])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_description_of_a_file_says_how_texts_are_made(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "bert")
    texts, labels = reviews(40)
    table = {"title": texts, "body": texts[::-1], "label": labels}
    dls = TextDataLoaders.from_table(
        table, text=["title", "body"], model=folder, max_length=8, batch_size=8
    )
    learner(folder, dls).export(tmp_path / "m.pt2")
    before = json.loads((tmp_path / "m.pt2.json").read_text())["before_the_graph"]
    assert (before["columns"], before["separator"]) == (2, " [SEP] ")
    assert (before["max_length"], before["long"], before["padding"]) == (8, "truncate", 0)
    assert "overlap" not in before


def test_data_of_a_different_tokenizer_or_of_images_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    learn = learner(folder)
    loaded = load_learner(learn.export(tmp_path / "export"))
    gpt2 = model_folder(tmp_path / "gpt2", "gpt2")
    for each in (learn, loaded):
        each.dls = data(model_folder(tmp_path / "copy"), max_length=6)
        for others in (data(gpt2), TinyLoaders(vocab=("bad", "good"))):
            with pytest.raises(TrainingError, match="model="):
                each.dls = others
