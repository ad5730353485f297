"""Tables as plain text: the same everywhere, also in a notebook."""

from __future__ import annotations

import pytest
from rich.console import Group
from rich.text import Text

from layergroups._formatting import plain_text


@pytest.fixture
def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)


@pytest.mark.usefixtures("in_a_notebook")
def test_a_notebook_gets_text_and_no_picture_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain_text(Text("early")) == "early"
    assert capsys.readouterr().out == ""


def test_no_colours_no_markup_no_spaces_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert plain_text(Text("late  ", style="bold red")) == "late"
    assert plain_text("[bold]0.5") == "[bold]0.5"
    assert plain_text(Group("one", "two words"), width=5) == "one\ntwo\nwords"
