"""The page and the PNG of a sweep show the values of its trials in the right colours and order, and mark the best."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import charts, code, colour, curves, marks
from rich.console import Console

from lrflow.display import COLD_TO_HOT, CURVES
from lrflow.reports.sweep import report
from lrflow.sweeps.folders import read_sweep

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
SHAPES = {"adamw": (0.50, 0.20, 0.30, 0.60), "sgd": (0.80, 0.70, 0.40, 0.45)}  # how bad each LR is: the best is second
BEST = 1


def value(mode: str, optimizer: str, rank: int) -> float:
    badness = SHAPES[optimizer][rank]
    return round(badness if mode == "min" else 1 - badness, 3)


@pytest.fixture(params=["min", "max"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def swept(mode: str, make_run: Callable[..., Path]) -> Path:
    """Two optimizers at four LRs, reported; trial 1 is the best in both modes, and neither first nor last."""
    metric = {"min": "val_thing", "max": "val_acc"}[mode]
    for place, optimizer in enumerate(SHAPES):
        for rank, lr in enumerate(RATES):
            number = 4 * place + rank
            folder = make_run(
                number, [f"optimizer={optimizer}", f"optimizer.lr={lr}"],
                {metric: value(mode, optimizer, rank), "test/other": 10.0 + number},
                losses=[2.0, 1.5 - 0.1 * number, 1.0 - 0.05 * number, 0.9 - 0.05 * number], steps=60 + number,
                seconds=100.5 + number,
            )  # fmt: skip
    (folder / "sweep.yaml").write_text(f"settings: {{metric: {metric}, mode: {mode}}}\n")
    return folder


@pytest.fixture
def page(swept: Path) -> str:
    report(read_sweep(swept), Console(file=StringIO(), width=100))
    return (swept / "report.html").read_text()


def table(page: str, heading: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the headings of a table, the sorting keys of its cells by row, and which rows are highlighted."""
    found = re.search(rf"<h2>{re.escape(heading)}</h2>.*?<table>(.*?)</table>", page, re.DOTALL)
    assert found, heading
    head, body = found.group(1).split("<tbody>")
    names = [html.unescape(name) for name in re.findall(r'<button type="button">(.*?)</button>', head)]
    lines = re.findall(r"<tr(.*?)>(.*?)</tr>", body, re.DOTALL)
    rows = [[html.unescape(key) for key in re.findall(r'data-key="(.*?)"', cells)] for _, cells in lines]
    return names, rows, [place for place, (kind, _) in enumerate(lines) if "strong" in kind]


def test_the_page_shows_the_recipe_of_the_best_trial(page: str, swept: Path) -> None:
    recipe = (swept / "recipe" / "best.yaml").read_text()
    assert f"Trial {BEST} of a sweep" in recipe
    command = f"python -m lrflow --config-dir {swept} recipe=best"
    assert code(page, "Run the best trial again") == f"{command}\n\n{recipe.strip()}"


def test_the_trials_table_has_each_value_in_its_column(page: str, swept: Path, mode: str) -> None:
    sweep = read_sweep(swept)
    names, rows, strong = table(page, "Trials")
    assert names == ["trial", "status", "optimizer", "optimizer.lr", sweep.metric, "test/other", "steps", "seconds"]
    for number, row in enumerate(rows):
        optimizer, rank = list(SHAPES)[number // 4], number % 4
        assert row[:3] == [str(number), "finished", optimizer]
        numbers = [RATES[rank], value(mode, optimizer, rank), 10.0 + number, 60 + number, 100.5 + number]
        assert [float(cell) for cell in row[3:]] == pytest.approx(numbers)
    assert len(rows) == 8
    assert strong == [BEST]


def test_the_csv_has_the_columns_of_the_table(page: str, swept: Path, mode: str) -> None:
    with (swept / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sweep = read_sweep(swept)
    assert list(rows[0])[:6] == ["trial", "status", "optimizer", "optimizer.lr", sweep.metric, "test/other"]
    for number, row in enumerate(rows):
        optimizer, rank = list(SHAPES)[number // 4], number % 4
        assert (row["trial"], row["optimizer"], float(row["optimizer.lr"])) == (str(number), optimizer, RATES[rank])
        assert float(row[sweep.metric]) == value(mode, optimizer, rank)
        assert (row["steps"], row["seconds"], row["folder"]) == (str(60 + number), str(100.5 + number), str(number))


def test_the_better_optimizer_is_the_first_curve(page: str, swept: Path, mode: str) -> None:
    names, rows, strong = table(page, "Side by side")
    assert names[:5] == ["curve", "best LR", "from", "to", read_sweep(swept).metric]
    assert names[5:8] == ["basin from", "to", "decades"]
    assert [row[0] for row in rows] == ["adamw", "sgd"]
    assert strong == [0]
    for row, optimizer, rank in zip(rows, SHAPES, (BEST, 2), strict=True):
        best, low, high, metric, basin_low, basin_high, decades = map(float, row[1:8])
        assert metric == pytest.approx(value(mode, optimizer, rank))
        assert RATES[rank - 1] <= low <= best <= high <= RATES[rank + 1]
        assert basin_low <= RATES[rank] <= basin_high
        assert decades == pytest.approx(np.log10(basin_high / basin_low))
    caption = re.search(r"<h2>Side by side</h2><p class=\"caption\">(.*?)</p>", page)
    assert caption
    assert "Basin: the LRs at which" in caption.group(1)


def test_parallel_coordinates_show_the_best_trials_in_cold_colours(page: str, mode: str) -> None:
    chart = charts(page)["Parallel coordinates"]
    metrics = [value(mode, optimizer, rank) for optimizer in SHAPES for rank in range(4)]
    rows = chart["data"]["values"]
    order = chart["encoding"]["x"]["sort"]
    assert order[:2] == ["optimizer", "optimizer.lr"]
    options, rates, values = ([row["place"] for row in rows if row["axis"] == axis] for axis in order)
    texts = marks(chart, "text")[0]
    names = {row["place"]: row["text"] for row in texts if row["axis"] == "optimizer"}
    assert [names[place] for place in options] == [name for name in SHAPES for _ in RATES]
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1] * 2)
    low, high = min(metrics), max(metrics)
    assert values == pytest.approx([(metric - low) / (high - low) for metric in metrics], abs=1e-5)
    assert [row["shade"] for row in rows[:8]] == metrics
    scale = chart["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert tuple(scale if mode == "min" else scale[::-1]) == COLD_TO_HOT


def test_the_lr_figure_has_a_colour_and_a_star_per_optimizer(page: str, swept: Path, mode: str) -> None:
    chart = charts(page)[f"{read_sweep(swept).metric} against optimizer.lr"]
    dots = {rows[0]["series"]: rows for rows in marks(chart, "point", "circle")}
    for place, optimizer in enumerate(SHAPES):
        assert [row["x"] for row in dots[optimizer]] == pytest.approx(RATES)
        assert [row["y"] for row in dots[optimizer]] == pytest.approx([value(mode, optimizer, r) for r in range(4)])
        assert [row["hint"].split("\n")[0] for row in dots[optimizer]] == [f"trial {4 * place + r}" for r in range(4)]
        assert colour(chart, optimizer) == CURVES[place]
    stars = marks(chart, "point", "M0,-1L")
    assert [star["series"] for (star,) in stars] == ["adamw", "sgd"]
    assert [RATES[r - 1] < star["x"] < RATES[r + 1] for (star,), r in zip(stars, (BEST, 2), strict=True)] == [True] * 2


def by_lr(colour_of: Iterator[tuple[float, str]]) -> list[str]:
    """Return the distinct colours of the trials by rising LR."""
    return list(dict.fromkeys(colour for _, colour in sorted(colour_of)))


LADDER = [COLD_TO_HOT[0], COLD_TO_HOT[-1]]


def test_learning_curves_are_coloured_by_lr(page: str) -> None:
    chart = charts(page)["Learning curves"]
    found = curves(chart)
    assert len(found) == 8
    for rows in found.values():
        number = int(rows[0]["series"].removeprefix("trial "))
        values = [2.0, 1.5 - 0.1 * number, 1.0 - 0.05 * number, 0.9 - 0.05 * number]
        assert [row["y"] for row in rows] == pytest.approx(values)
        assert [row["x"] for row in rows] == [0, 1, 2, 3]
        assert {row["shade"] for row in rows} == {RATES[number % 4]}
    scale = chart["layer"][0]["encoding"]["color"]["condition"]["scale"]
    assert scale == {"type": "log", "domain": [RATES[0], RATES[-1]], "range": list(COLD_TO_HOT)}


def test_the_facts_show_the_best_lr_and_trial(page: str, swept: Path, mode: str) -> None:
    tiles = dict(re.findall(r'<div class="name">(.*?)</div><div class="value">(.*?)</div>', page))
    notes = dict(re.findall(r'<div class="name">(.*?)</div>.*?<div class="note">(.*?)</div>', page))
    metric = read_sweep(swept).metric
    assert float(tiles[f"best {metric}"]) == value(mode, "adamw", BEST)
    assert notes[f"best {metric}"] == f"trial {BEST}"
    assert RATES[BEST - 1] < float(tiles["best LR of adamw"]) < RATES[BEST + 1]


@pytest.fixture
def drawn(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Return the figure of `sweep.png`."""
    kept: list[Figure] = []
    monkeypatch.setattr("lrflow.display.render", lambda figure, file, kind: kept.append(figure))
    report(read_sweep(swept), Console(file=StringIO(), width=100))
    return kept[0]


def test_the_png_shows_the_metric_against_the_lr(drawn: Figure, swept: Path, mode: str) -> None:
    axes = drawn.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.lr", read_sweep(swept).metric)
    lines = {line.get_label().partition(":")[0]: line for line in axes.lines}
    for place, optimizer in enumerate(SHAPES):
        assert lines[optimizer].get_color() == CURVES[place]
        assert list(lines[optimizer].get_xdata()) == pytest.approx(RATES)
        assert list(lines[optimizer].get_ydata()) == pytest.approx([value(mode, optimizer, r) for r in range(4)])
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [dot.get_color() for dot in dots] == [CURVES[0], CURVES[1]]
    assert list(dots[0].get_ydata()) == pytest.approx([value(mode, "adamw", rank) for rank in range(4)])
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert [RATES[r - 1] < mark < RATES[r + 1] for mark, r in zip(marks, (BEST, 2), strict=True)] == [True] * 2
    assert axes.get_title(loc="left").endswith("(adamw)")


def test_the_png_shows_the_learning_curves(drawn: Figure) -> None:
    axes = drawn.axes[1]
    assert axes.get_ylabel() == "train/loss"
    first = {round(float(line.get_ydata()[1]), 3): line.get_color() for line in axes.lines}
    numbers = {round(1.5 - 0.1 * number, 3): number for number in range(8)}
    assert first.keys() == numbers.keys()
    colours = by_lr((RATES[numbers[loss] % 4], colour) for loss, colour in first.items())
    assert [colours[0], colours[-1]] == LADDER
