"""The page and the PNG of a sweep show the values of its trials in the right colours and order, and mark the best."""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
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
    return (swept / "sweep.html").read_text()


def figure(page: str, heading: str) -> dict[str, Any]:
    found = re.search(rf'<h2>{re.escape(heading)}</h2>.*?id="figure-\d+">(.*?)</script>', page, re.DOTALL)
    assert found, heading
    content: dict[str, Any] = json.loads(found.group(1))
    return content


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
    recipe = (swept / "recipe" / "best.yaml").read_text() if (swept / "recipe" / "best.yaml").exists() else ""
    assert read_sweep(swept).best.number == BEST
    assert not recipe or f"Trial {BEST} of a sweep" in recipe


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
    assert names[:5] == ["", "best LR", "from", "to", read_sweep(swept).metric]
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
    drawn = figure(page, "Parallel coordinates")["data"][0]
    metrics = [value(mode, optimizer, rank) for optimizer in SHAPES for rank in range(4)]
    labels = [axis["label"] for axis in drawn["dimensions"]]
    assert labels[:2] == ["optimizer", "optimizer.lr"]
    options, rates, values = drawn["dimensions"]
    assert [options["ticktext"][place] for place in options["values"]] == [name for name in SHAPES for _ in RATES]
    assert numbers(rates["values"]) == pytest.approx(np.log10(RATES * 2))
    assert numbers(values["values"]) == pytest.approx(metrics)
    shades = numbers(drawn["line"]["color"])
    scale = [colour for _, colour in drawn["line"]["colorscale"]]
    scale = scale[::-1] if drawn["line"]["reversescale"] else scale
    assert numbers(drawn["line"]["color"]) == pytest.approx(metrics)
    ends = {int(np.argmin(shades)): scale[0], int(np.argmax(shades)): scale[-1]}
    worst = 4  # sgd at the lowest LR
    assert ends == {BEST: COLD_TO_HOT[0], worst: COLD_TO_HOT[-1]}


def numbers(values: Any) -> list[float]:
    """Decode an array of plotly, which is written in base 64."""
    if isinstance(values, dict):
        import base64

        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return [float(each) for each in values]


def test_the_lr_figure_has_a_colour_and_a_star_per_optimizer(page: str, swept: Path, mode: str) -> None:
    traces = figure(page, f"{read_sweep(swept).metric} against optimizer.lr")["data"]
    dots = {trace["name"]: trace for trace in traces if trace.get("name") in SHAPES}
    for place, optimizer in enumerate(SHAPES):
        assert dots[optimizer]["x"] == pytest.approx(RATES)
        assert dots[optimizer]["y"] == pytest.approx([value(mode, optimizer, rank) for rank in range(4)])
        assert dots[optimizer]["marker"]["color"] == CURVES[place]
        assert [f"trial {4 * place + rank}<" in text for rank, text in enumerate(dots[optimizer]["customdata"])] == [
            True
        ] * 4
    stars = [trace for trace in traces if trace.get("marker", {}).get("symbol") == "star"]
    assert [star["marker"]["color"] for star in stars] == [CURVES[0], CURVES[1]]
    assert [RATES[r - 1] < star["x"][0] < RATES[r + 1] for star, r in zip(stars, (BEST, 2), strict=True)] == [True] * 2
    lines = [trace for trace in traces if trace["mode"] == "lines" and trace["line"]["width"] == 2]
    assert [line["line"]["color"] for line in lines] == [CURVES[0], CURVES[1]]


def by_lr(colour_of: Iterator[tuple[float, str]]) -> list[str]:
    """Return the distinct colours of the trials by rising LR."""
    return list(dict.fromkeys(colour for _, colour in sorted(colour_of)))


LADDER = [COLD_TO_HOT[0], COLD_TO_HOT[-1]]


def test_learning_curves_are_coloured_by_lr(page: str) -> None:
    traces = [trace for trace in figure(page, "Learning curves")["data"] if trace["mode"] == "lines"]
    assert len(traces) == 8
    found = {}
    for trace in traces:
        number = int(re.search(r"trial (\d+)", trace["hovertemplate"]).group(1))
        found[number] = trace["line"]["color"]
        assert trace["y"] == pytest.approx([2.0, 1.5 - 0.1 * number, 1.0 - 0.05 * number, 0.9 - 0.05 * number])
        assert trace["x"] == [0, 1, 2, 3]
    colours = by_lr((RATES[number % 4], colour) for number, colour in found.items())
    assert [colours[0], colours[-1]] == LADDER
    assert len(colours) == 4


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
