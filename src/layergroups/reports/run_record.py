"""All that is told of a run, as data: what the page, the tables and the JSON of a run are made of.

A record needs neither the model nor the photos: `record_run` makes it while they are there, and
`write_run` keeps it as `run.json` in the folder of the run. Pictures are small JPEGs as data URIs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from layergroups.checkpoints.file import write_text
from layergroups.errors import CheckpointError
from layergroups.reports.facts_json import (
    data_facts,
    epoch_facts,
    network_facts,
    outcome_facts,
    plain,
    setup_facts,
)
from layergroups.reports.run_facts import DataFacts, EpochFacts, NetworkFacts, Outcome, SetupFacts

VERSION: Final = 1
RECORD: Final = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, told in data.

    Attributes:
        title: of the page.
        network: in its groups.
        epochs: in the order in which they happened.
        outcome: None if nothing was measured.
        data: what it was trained on.
        setup: how it was done.
    """

    title: str
    network: NetworkFacts
    epochs: tuple[EpochFacts, ...] = ()
    outcome: Outcome | None = None
    data: DataFacts = field(default_factory=DataFacts)
    setup: SetupFacts = field(default_factory=SetupFacts)

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(row.seconds for row in self.epochs)

    def without_pictures(self) -> RunRecord:
        """The facts alone."""
        if self.outcome is None:
            return self
        bare = {
            name: tuple(replace(photo, thumb="", heat="") for photo in photos)
            for name, photos in (("photos", self.outcome.photos), ("worst", self.outcome.worst))
        }
        return replace(self, outcome=replace(self.outcome, **bare))  # type: ignore[arg-type] # photos both

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values; numbers that are not finite become None."""
        fields: dict[str, Any] = plain(asdict(self))
        return {"version": VERSION} | fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunRecord:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: it is of a newer version, or not a record.
        """
        version = fields.get("version") if isinstance(fields, Mapping) else None
        if version != VERSION:
            raise CheckpointError(
                f"This record of a run has version {version!r}; this release reads version "
                f"{VERSION}. Make it again with write_run(learn, folder), or upgrade layergroups."
            )
        try:
            outcome = fields["outcome"]
            return cls(
                title=str(fields["title"]),
                network=network_facts(fields["network"]),
                epochs=epoch_facts(fields["epochs"]),
                outcome=None if outcome is None else outcome_facts(outcome),
                data=data_facts(fields["data"]),
                setup=setup_facts(fields["setup"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise CheckpointError(f"This record of a run is damaged: {cause!r}.") from cause

    def save(self, path: str | Path) -> None:
        """Write it as JSON, all or nothing.

        Raises:
            CheckpointError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read what `save` wrote: the file, or the folder that it is in.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        if not isinstance(path, str | Path):
            raise CheckpointError(
                f"The record of a run is read from a folder, not from a {type(path).__name__}: "
                'RunRecord.load("model").'
            )
        file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as cause:
            raise CheckpointError(
                f"There is no record of a run at {file}. `layergroups train --out DIR` writes it "
                "into the folder of the model; in Python, learn.report(path) makes the page."
            ) from cause
        except (OSError, UnicodeDecodeError) as cause:
            raise CheckpointError(f"{file} cannot be read: {cause}") from cause
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, CheckpointError) as cause:
            raise CheckpointError(f"{file}: {cause}") from cause
