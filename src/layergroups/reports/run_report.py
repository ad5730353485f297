"""The report of a run, or of two side by side: a page, tables, JSON, all from the same record."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Group

from layergroups.checkpoints.file import write_text
from layergroups.errors import LayerGroupsError
from layergroups.plain_text import plain_text
from layergroups.reports.page import compare_page, run_page
from layergroups.reports.recording import record_run
from layergroups.reports.run_record import RunRecord
from layergroups.reports.run_tables import compare_tables, run_tables
from layergroups.reports.subject import Trained

_ENDINGS = (".html", ".htm")
_WIDTH = 120


@dataclass(frozen=True, repr=False)
class RunReport:
    """What is told of a run; in a notebook it shows as the page, in a terminal as tables.

    Attributes:
        records: one run, or two to compare.
        path: the page, if it has been written.
    """

    records: tuple[RunRecord, ...]
    path: Path | None = field(default=None)

    def __post_init__(self) -> None:
        if not all(isinstance(record, RunRecord) for record in self.records):
            raise LayerGroupsError(
                "A report is of records of runs: RunReport.read(folder), or learn.report()."
            )
        if not 1 <= len(self.records) <= 2:
            raise LayerGroupsError(
                f"A report is of one run, or of two side by side, not of {len(self.records)}: "
                "RunReport((record,)) or RunReport((one, other))."
            )

    @classmethod
    def read(cls, *folders: str | Path) -> RunReport:
        """Of the folders that `write_run` or `layergroups train` wrote, one or two.

        Raises:
            CheckpointError: a folder has no record of a run, or a damaged one.
        """
        return cls(tuple(RunRecord.load(folder) for folder in folders))

    def html(self) -> str:
        """The page: one document that needs neither network nor other files."""
        one, *other = self.records
        return compare_page(one, *other) if other else run_page(one)

    def save(self, path: str | Path) -> RunReport:
        """Write the page; missing folders are made.

        Returns:
            The same report, which knows its file.

        Raises:
            LayerGroupsError: the name does not end in .html.
            CheckpointError: the file cannot be written.
        """
        target = check_page_name(path)
        write_text(target, self.html())
        return RunReport(self.records, target)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values, without the pictures; of two runs a list, "runs"."""
        found = [record.without_pictures().to_dict() for record in self.records]
        return found[0] if len(found) == 1 else {"runs": found}

    def __rich__(self) -> Group:
        one, *other = self.records
        return compare_tables(one, *other) if other else run_tables(one)

    def __str__(self) -> str:
        return plain_text(self.__rich__(), _WIDTH)

    def __repr__(self) -> str:
        titles = " and ".join(record.title for record in self.records)
        return f"RunReport of {titles}" + (f", written to {self.path}" if self.path else "")

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither can disturb the notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" title="report" '
            'style="width:100%;height:46rem;border:1px solid #8884;border-radius:8px"></iframe>'
        )


def check_page_name(path: str | Path) -> Path:
    """The path of a page.

    Raises:
        LayerGroupsError: it is no path, a folder, or does not end in .html.
    """
    if not isinstance(path, str | Path):
        raise LayerGroupsError(
            f'A page goes to a path, not to a {type(path).__name__}: learn.report("run.html").'
        )
    target = Path(path)
    if target.suffix.lower() not in _ENDINGS:
        raise LayerGroupsError(
            f"{target} does not end like a page; end it with .html, for example "
            f"{target.with_suffix('.html') if target.name else Path('run.html')}."
        )
    return target


def check_title(title: object) -> None:
    """A title is text, or left out.

    Raises:
        LayerGroupsError: it is something else.
    """
    if title is not None and not isinstance(title, str):
        raise LayerGroupsError(
            f'title={title!r} must be text: learn.report("run.html", title="Clothes, first try").'
        )


def report_on(
    learn: Trained, path: str | Path | None, *, title: str | None = None, pictures: bool = True
) -> RunReport:
    """The report of a learner; the page is not written yet.

    Args:
        learn: it goes through its validation data once, and is left as it was.
        path: of the page that will be written, which is checked before anything is computed.
        title: of the page; None for the network's name and the data's.
        pictures: False leaves photos out.

    Raises:
        LayerGroupsError: path or title is not what it should be.
    """
    if path is not None:
        check_page_name(path)
    check_title(title)
    if not isinstance(pictures, bool):
        raise LayerGroupsError(f"photos={pictures!r} must be True or False.")
    return RunReport((record_run(learn, title=title, pictures=pictures),))
