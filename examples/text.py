"""Fine-tune a text encoder on a table, by layer groups.

python examples/text.py reviews.csv --model sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse

from layergroups import Interpretation, TextDataLoaders, text_learner


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="a .csv or .tsv file with the columns text and label")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args(arguments)

    dls = TextDataLoaders.from_table(args.table, model=args.model, seed=0)
    learn = text_learner(dls, metrics=["accuracy"], seed=0)
    print(learn.layer_groups)
    learn.fine_tune(args.epochs)

    interp = Interpretation.from_learner(learn)
    for item in interp.top_losses(3):
        marked = [word for word, score in interp.words(item.index) if score > 0.5]
        print(f"{item.text!r} is {item.actual}, not {item.predicted}: because of {marked}")
    for row in interp.by_length():
        print(f"{row.shortest} to {row.longest} words: {row.correct:.0%} correct")


if __name__ == "__main__":
    main()
