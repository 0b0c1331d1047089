"""The page of a range test: the sweeps, what was read from them, and the trial runs that settled it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.display import COLOURS, GREY, number
from lrflow.reports.page import Fact, Page
from lrflow.tuning.confirmation import Confirmed
from lrflow.tuning.find_record import Record
from lrflow.tuning.suggestion import judge_lr

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOUND = COLOURS[2]
EXPLAINED = {
    "halfway": "between where it falls fastest and where it is lowest: the answer of the sweeps",
    "steepest": "where it falls fastest",
    "tenth": "a tenth of where it is lowest",
    "valley": "halfway down the longest fall",
    "slide": "before the last steep rise",
}
RISING = {
    "halfway": "between where it rises fastest and where it is highest: the answer of the sweeps",
    "steepest": "where it rises fastest",
    "tenth": "a tenth of where it is highest",
    "valley": "halfway up the longest rise",
    "slide": "before the last steep fall",
}


def write_find_page(folder: Path) -> Path:
    """Write `find.html` from the `find.csv` and `find.json` of a folder.

    Raises:
        ConfigError: plotly is not installed.
    """
    record = Record.read(folder)
    answer = record.answer
    page = Page("Range test", str(folder))
    low, high = (number(rate) for rate in answer.interval)
    sweeps = len(record.test.losses)
    how = "trial runs" if record.confirmed else f"{sweeps} sweeps" if sweeps > 1 else "one sweep"
    ceiling = record.reading.ceiling
    page.facts(
        [
            Fact("learning rate", number(answer.lr), f"{low} to {high}, from {how}"),
            Fact("confident", "yes" if answer.confident else "no", f"{record.steps} steps were made"),
            Fact("diverges at", number(ceiling) if ceiling else f"above {number(record.test.rates[-1])}"),
            Fact("configured", number(record.configured), judge_lr(record.configured, answer.interval, ceiling)),
        ]
    )
    page.notes([f"Not confident: {doubt}." for doubt in answer.doubts])
    caption = (
        "Each sweep is a training whose peak LR rises. Marked: the answer with its interval, the LR of every rule."
    )
    page.figure(f"Sweeps: {record.label} against the LR", _sweeps(record), caption, height=500)
    if record.confirmed:
        caption = "Runs of a part of the whole length, under its schedule, scaled. Crosses: diverged."
        page.figure("Trial runs", _short_runs(record, record.confirmed), caption, height=360)
        ended = [(rate, loss if math.isfinite(loss) else "diverged") for rate, loss in record.confirmed.tried]
        page.table("What they ended at", ["LR", _ended_at(record)], ended)
    marks = record.reading.marks.items()
    explained = EXPLAINED if record.sign > 0 else RISING
    rows = [(name, rate, rate / record.reading.lr, explained.get(name, "")) for name, rate in marks]
    page.table("Rules", ["rule", "LR", "times halfway", "what it is"], rows, strong=0)
    return page.write(folder / "find.html")


def _sweeps(record: Record) -> Figure:
    """The sweeps with all that was read from them."""
    from plotly.graph_objects import Figure

    test, reading = record.test, record.reading
    low, high = record.span()
    figure = Figure()
    hover = "LR %{x:.3g}<br>%{y:.4g}"
    for index, losses in enumerate(test.losses):
        known = np.isfinite(losses)
        figure.add_scatter(
            x=test.rates[known].tolist(),
            y=losses[known].tolist(),
            mode="lines",
            line={"color": GREY, "width": 1},
            opacity=0.35,
            name="sweeps",
            legendgroup="sweeps",
            showlegend=index == 0,
            hovertemplate=f"{hover}<extra>sweep {index + 1}</extra>",
        )
    rates, values = record.mean()
    name = f"mean of {len(test.losses)}, smoothed"
    line = {"color": COLOURS[0], "width": 3}
    figure.add_scatter(
        x=rates.tolist(), y=values.tolist(), mode="lines", line=line, name=name, hovertemplate=f"{hover}<extra></extra>"
    )
    _found(figure, reading.lr, reading.interval, (low, high))
    others = [(name, rate) for name, rate in reading.marks.items() if rate != reading.lr]
    for (name, rate), colour in zip(others, (COLOURS[1], *COLOURS[3:]), strict=False):
        _mark(figure, rate, (low, high), name, {"color": colour, "width": 1.5, "dash": "dash"})
    if reading.ceiling:
        figure.add_vrect(reading.ceiling, test.rates[-1], fillcolor=GREY, opacity=0.15, line_width=0, layer="below")
        _mark(figure, reading.ceiling, (low, high), "diverges", {"color": GREY, "width": 1})
    if test.rates[0] <= record.configured <= test.rates[-1]:
        _mark(figure, record.configured, (low, high), "configured", {"color": GREY, "width": 2, "dash": "dot"})
    ends = [math.log10(test.rates[0]), math.log10(test.rates[-1])]
    figure.update_layout(xaxis=_decades(ends), yaxis={"range": [low, high], "title": record.label})
    return figure


def _short_runs(record: Record, confirmed: Confirmed) -> Figure:
    """What the trial runs ended at, and the LR between them."""
    from plotly.graph_objects import Figure

    figure = Figure()
    ended = [(rate, loss) for rate, loss in confirmed.tried if math.isfinite(loss)]
    rates, losses = zip(*ended, strict=True)
    hover = "LR %{x:.3g}<br>%{y:.4g}<extra></extra>"
    line, marker = {"color": COLOURS[0], "width": 2}, {"size": 9}
    figure.add_scatter(
        x=rates, y=losses, mode="lines+markers", line=line, marker=marker, name="trial runs", hovertemplate=hover
    )
    worst = max(losses, key=lambda loss: record.sign * loss)
    if lost := [rate for rate, loss in confirmed.tried if not math.isfinite(loss)]:
        crosses = {"symbol": "x", "size": 10, "color": COLOURS[1]}
        figure.add_scatter(x=lost, y=[worst] * len(lost), mode="markers", marker=crosses, name="diverged")
    _found(figure, confirmed.lr, confirmed.interval, (min(losses), max(losses)))
    figure.update_layout(xaxis=_decades(None), yaxis={"title": _ended_at(record)})
    return figure


def _found(figure: Figure, lr: float, interval: tuple[float, float], span: tuple[float, float]) -> None:
    """The answer, with its interval behind it."""
    figure.add_vrect(*interval, fillcolor=FOUND, opacity=0.2, line_width=0, layer="below")
    _mark(figure, lr, span, "LR", {"color": FOUND, "width": 3})


def _mark(figure: Figure, rate: float, span: tuple[float, float], name: str, line: dict[str, Any]) -> None:
    """A line across; a trace and no shape, so that the legend names it and hides it."""
    told = f"{name} {number(rate)}"
    figure.add_scatter(
        x=[rate, rate], y=list(span), mode="lines", line=line, name=told, hovertemplate=f"{told}<extra></extra>"
    )


def _decades(ends: list[float] | None) -> dict[str, Any]:
    """An axis of LRs; `ends` are exponents of ten, None: there are few and close ones."""
    axis = {"type": "log", "title": "peak LR", "exponentformat": "power"}
    return axis | ({"dtick": "D2"} if ends is None else {"dtick": 1, "range": ends})


def _ended_at(record: Record) -> str:
    return "loss" if record.label == "training loss" else record.label
