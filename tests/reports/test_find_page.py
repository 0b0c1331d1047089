"""The page of a range test, written from the record in its folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import charts, colour, curves, marks

from lrflow.display import CURVES, MUTED
from lrflow.reports.find_page import write_find_page
from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.find_record import RangeTest, Record
from lrflow.tuning.suggestion import suggest_lr

RATES = np.geomspace(1e-6, 10, 80)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    position = np.log10(RATES)
    curve = 2.3 / (1 + np.exp(4 * (position + 3))) + np.exp(6 * (position + 0.5))
    losses = curve + np.random.default_rng(0).normal(scale=0.02, size=(3, 80))
    losses[:, 72:] = np.nan
    tried = ((0.01, 1.0), (0.02, 0.5), (0.04, 0.7), (0.08, np.inf))
    short = Confirmation(0.021, (0.015, 0.03), tried, ("it <may> be higher",))
    Record(RangeTest(RATES, losses), suggest_lr(RATES, losses), "train/loss", "min", 0.1, short, 30).write(tmp_path)
    return tmp_path


def test_the_page_shows_the_record_of_a_folder(folder: Path) -> None:
    text = write_find_page(folder).read_text()
    record = Record.read(folder)
    sweeps, short = charts(text).values()
    names = [each[0]["series"] for each in curves(sweeps).values()]
    assert names == ["sweeps"] * 3 + ["mean of 3, smoothed"]
    places = {row["series"].split()[0]: row["x"] for (row,) in marks(sweeps, "rule")}
    assert list(places) == ["LR", "steepest", "tenth", "valley", "slide", "diverges", "configured"]
    assert places["LR"] == visible(record.suggestion.lr)
    assert places["steepest"] == visible(record.suggestion.marks["steepest"])
    assert places["diverges"] == visible(record.suggestion.ceiling)
    assert [(row["x"], row["x2"]) for (row,) in marks(sweeps, "rect")] == [
        tuple(map(visible, record.suggestion.interval)),
        (visible(record.suggestion.ceiling), 10),
    ]
    runs, crosses = marks(short, "point")
    assert [(row["x"], row["y"]) for row in runs] == [(0.01, 1), (0.02, 0.5), (0.04, 0.7)]
    assert [row["x"] for row in crosses] == [0.08]
    assert [row["x"] for row in marks(short, "rule")[0]] == [0.021]
    assert "it &lt;may&gt; be higher" in text


def visible(number: float) -> float:
    return float(f"{number:.6g}")


def rows(page: str, heading: str) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return the headings of a table, the keys of its cells by row, and whether each row is highlighted."""
    found = re.search(rf"<h2>{heading}</h2>.*?<table>(.*?)<tbody>(.*?)</table>", page, re.DOTALL)
    assert found
    lines = re.findall(r"<tr(.*?)>(.*?)</tr>", found.group(2), re.DOTALL)
    names = re.findall(r'<button type="button">(.*?)</button>', found.group(1))
    return names, [re.findall(r'data-key="(.*?)"', line) for _, line in lines], ["strong" in kind for kind, _ in lines]


def test_tables_have_each_value_in_its_column(folder: Path) -> None:
    page = write_find_page(folder).read_text()
    suggestion = Record.read(folder).suggestion
    names, lines, strong = rows(page, "Rules")
    assert names == ["rule", "LR", "times halfway", "meaning"]
    assert [line[0] for line in lines] == list(suggestion.marks)
    assert [float(line[1]) for line in lines] == pytest.approx(list(suggestion.marks.values()))
    assert [float(line[2]) for line in lines] == pytest.approx([lr / suggestion.lr for lr in suggestion.marks.values()])
    assert {line[0]: line[3] for line in lines}["steepest"] == "where it falls fastest"
    assert strong == [True] + [False] * (len(lines) - 1)
    assert lines[0][0] == "halfway"
    names, lines, _ = rows(page, "Results of the trial runs")
    assert names == ["LR", "loss"]
    assert lines == [["0.01", "1.0"], ["0.02", "0.5"], ["0.04", "0.7"], ["0.08", "diverged"]]


def test_the_colour_of_the_answer_is_unique_in_both_figures(folder: Path) -> None:
    sweeps, short = charts(write_find_page(folder).read_text()).values()
    scale = sweeps["layer"][0]["encoding"]["color"]["scale"]
    colours = {name.split()[0]: each for name, each in zip(scale["domain"], scale["range"], strict=True)}
    assert colours["LR"] == colour(short, "LR 0.021") == CURVES[2]
    assert list(colours.values()).count(CURVES[2]) == 1
    assert (colours["mean"], *(colours[name] for name in ("sweeps", "diverges", "configured"))) == (
        CURVES[0], MUTED, MUTED, MUTED,
    )  # fmt: skip
    rules = [colours[name] for name in ("steepest", "tenth", "valley", "slide")]
    assert len({*rules, CURVES[0], CURVES[2]}) == 6
    assert (colour(short, "trial runs"), colour(short, "diverged")) == (CURVES[0], CURVES[1])
    assert [row["y"] for row in marks(short, "point")[1]] == [1.0]  # at the worst of those that ended


def test_draws_sweeps_as_measured(folder: Path) -> None:
    page = write_find_page(folder).read_text()
    record = Record.read(folder)
    sweeps, *_ = charts(page).values()
    for number, losses in enumerate(record.test.losses):
        assert [row["x"] for row in curves(sweeps)[number]] == pytest.approx(record.test.rates[:72].tolist(), rel=1e-5)
        assert [row["y"] for row in curves(sweeps)[number]] == pytest.approx(losses[:72].tolist(), rel=1e-5)
    facts = dict(re.findall(r'<div class="name">(.*?)</div><div class="value">(.*?)</div>', page))
    assert float(facts["learning rate"]) == pytest.approx(0.021)
    assert float(facts["configured"]) == pytest.approx(0.1)
    assert float(facts["diverges at"]) == pytest.approx(record.suggestion.ceiling, rel=0.01)


def test_crosses_of_a_metric_to_maximize_are_at_the_bottom(folder: Path) -> None:
    record = replace(Record.read(folder), monitor="val_acc", mode="max")
    record.write(folder)
    page = write_find_page(folder).read_text()
    assert [row["y"] for row in marks(charts(page)["Trial runs"], "point")[1]] == [0.5]
    assert {line[0]: line[3] for line in rows(page, "Rules")[1]}["steepest"] == "where it rises fastest"
