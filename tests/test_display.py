"""Figures that are written to files."""

from __future__ import annotations

from io import BytesIO

import pytest
from matplotlib.figure import Figure

from lrflow import display


@pytest.mark.usefixtures("rendered")
def test_no_text_of_a_figure_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "q7Rk2vXw9Zp4")

    def drawn(word: str) -> bytes:
        figure = Figure()
        axes = figure.add_subplot()
        axes.plot([0, 1], [1, 2], label=f"run {word}")
        axes.set(title=f"of {word}", xlabel=word, ylabel=f"https://user:{word}@host")
        axes.annotate(word, (0.5, 1.5))
        axes.legend()
        file = BytesIO()
        display.render(figure, file, "png")
        return file.getvalue()

    assert drawn("q7Rk2vXw9Zp4") == drawn("***") != drawn("+++")
