"""Recipes: every fit is a list of phases."""

from layergroups.training.recipes._fine_tune import fitted, new_plan, phases_of
from layergroups.training.recipes._phases import (
    DEFAULTS,
    FineTuneDefaults,
    FitOptions,
    FitSetup,
    Phase,
    takes_fit_options,
)
from layergroups.training.recipes._plan import FineTunePlan, checked_plan
from layergroups.training.recipes._preview import (
    Planned,
    call_fit,
    checked_fit,
    checked_schedule,
    preview_phases,
)
from layergroups.training.recipes._run_phases import run_phases
from layergroups.training.recipes._search import SearchResult, Trial, search, seconds_of

__all__ = [
    "DEFAULTS",
    "FineTuneDefaults",
    "FineTunePlan",
    "FitOptions",
    "FitSetup",
    "Phase",
    "Planned",
    "SearchResult",
    "Trial",
    "call_fit",
    "checked_fit",
    "checked_plan",
    "checked_schedule",
    "fitted",
    "new_plan",
    "phases_of",
    "preview_phases",
    "run_phases",
    "search",
    "seconds_of",
    "takes_fit_options",
]
