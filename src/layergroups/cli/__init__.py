"""The command line: parses words, calls the library. Heavy libraries load inside the commands."""

from layergroups.cli._entry import main

__all__ = ["main"]
