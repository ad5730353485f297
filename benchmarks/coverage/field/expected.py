"""What people expect of the models of other libraries: `expectations.csv`.

Written from knowledge of each architecture. `head`: the modules all of whose weights make up the
head; those in brackets may belong to it; "none: WORDS" where there is none, with a pattern that the
reason matches; "tied: NAME" where its weight is that of an embedding; " | " between answers of which
each is right. `parts`: a pattern for each place where a part of the body begins (" & " between
several), or one for all of them; "-" where any place is as good.
"""

from __future__ import annotations

import csv
from pathlib import Path

TABLE = Path(__file__).with_name("expectations.csv")


def expectations() -> dict[tuple[str, str], dict[str, str]]:
    """The rows of the table by source and model."""
    with TABLE.open(newline="") as file:
        rows = csv.DictReader(file, delimiter=";", quoting=csv.QUOTE_NONE)
        return {(row["source"], row["model"]): row for row in rows}
