"""A run as data: its record, made of a learner, in words, and in a folder."""

from layergroups.reports._protocols import EpochRow
from layergroups.reports.run._collect import record_run
from layergroups.reports.run._narrative import (
    PhaseFacts,
    choices_in_words,
    differences,
    figures_in_words,
    figures_of,
    headline,
    phases_of,
    savings_of,
    savings_text,
    summary,
)
from layergroups.reports.run._record import (
    RECORD,
    Cell,
    NetworkFacts,
    Outcome,
    RunRecord,
    SetupFacts,
    ShownItem,
)
from layergroups.reports.run._run_folder import CONFIG, PICTURE, RunFiles, claim_folder, write_run

__all__ = [
    "CONFIG", "PICTURE", "RECORD", "Cell", "EpochRow", "NetworkFacts", "Outcome", "PhaseFacts",
    "RunFiles", "RunRecord", "SetupFacts", "ShownItem", "choices_in_words", "claim_folder",
    "differences", "figures_in_words", "figures_of", "headline", "phases_of", "record_run",
    "savings_of", "savings_text", "summary", "write_run",
]  # fmt: skip
