"""The page of a run: one HTML file, a pure function of the record."""

from layergroups.reports.page._document import compare_page, run_page

__all__ = ["compare_page", "run_page"]
