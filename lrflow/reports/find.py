"""The page of a range test (`find.html`): the sweeps, the suggested LR, and the trial runs that confirm it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.display import COLOURS, GREY, number
from lrflow.reports.page import Fact, Page
from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.find_record import Record
from lrflow.tuning.suggestion import compare_with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ANSWER = COLOURS[2]
RULES_TO_MINIMIZE = {
    "halfway": "between the fastest fall and the lowest point: the LR that the sweeps suggest",
    "steepest": "where it falls fastest",
    "tenth": "a tenth of the LR of the lowest point",
    "valley": "halfway down the longest fall",
    "slide": "before the last steep rise",
}
RULES_TO_MAXIMIZE = {
    "halfway": "between the fastest rise and the highest point: the LR that the sweeps suggest",
    "steepest": "where it rises fastest",
    "tenth": "a tenth of the LR of the highest point",
    "valley": "halfway up the longest rise",
    "slide": "before the last steep fall",
}
"""What each rule marks, for a metric to minimize and one to maximize."""


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
    source = "trial runs" if record.confirmed else f"{sweeps} sweeps" if sweeps > 1 else "one sweep"
    ceiling = record.suggestion.ceiling
    comparison = compare_with_interval(record.configured, answer.interval, ceiling)
    page.facts(
        [
            Fact("learning rate", number(answer.lr), f"{low} to {high}, from {source}"),
            Fact("confident", "yes" if answer.confident else "no", f"cost: {record.steps} steps"),
            Fact("diverges at", number(ceiling) if ceiling else f"above {number(record.test.rates[-1])}"),
            Fact("configured", number(record.configured), comparison),
        ]
    )
    page.warnings([f"Not confident: {doubt}." for doubt in answer.doubts])
    caption = "Each sweep is a short run with a rising peak LR. Marks: the suggested LR with its interval, each rule."
    page.figure(f"Sweeps: {record.label} against the LR", _sweeps_figure(record), caption, height=500)
    if record.confirmed:
        caption = "Shorter runs under the scaled schedule of the run. Crosses: diverged."
        page.figure("Trial runs", _trial_runs_figure(record, record.confirmed), caption, height=360)
        tried = [(rate, loss if math.isfinite(loss) else "diverged") for rate, loss in record.confirmed.tried]
        page.table("Results of the trial runs", ["LR", _metric_name(record)], tried)
    marks = record.suggestion.marks.items()
    rules = RULES_TO_MINIMIZE if record.sign > 0 else RULES_TO_MAXIMIZE
    rows = [(name, rate, rate / record.suggestion.lr, rules.get(name, "")) for name, rate in marks]
    page.table("Rules", ["rule", "LR", "times halfway", "meaning"], rows, strong=0)
    return page.write(folder / "find.html")


def _sweeps_figure(record: Record) -> Figure:
    """Draw the sweeps, their mean, the suggested LR, the LR of each rule, the divergence and the configured LR."""
    from plotly.graph_objects import Figure

    test, suggestion = record.test, record.suggestion
    low, high = record.span()
    figure = Figure()
    hover = "LR %{x:.3g}<br>%{y:.4g}"
    for index, losses in enumerate(test.losses):
        finite = np.isfinite(losses)
        figure.add_scatter(
            x=test.rates[finite].tolist(),
            y=losses[finite].tolist(),
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
    _draw_answer(figure, suggestion.lr, suggestion.interval, (low, high))
    others = [(name, rate) for name, rate in suggestion.marks.items() if rate != suggestion.lr]
    for (name, rate), colour in zip(others, (COLOURS[1], *COLOURS[3:]), strict=False):
        _draw_mark(figure, rate, (low, high), name, {"color": colour, "width": 1.5, "dash": "dash"})
    if suggestion.ceiling:
        figure.add_vrect(suggestion.ceiling, test.rates[-1], fillcolor=GREY, opacity=0.15, line_width=0, layer="below")
        _draw_mark(figure, suggestion.ceiling, (low, high), "diverges", {"color": GREY, "width": 1})
    if test.rates[0] <= record.configured <= test.rates[-1]:
        _draw_mark(figure, record.configured, (low, high), "configured", {"color": GREY, "width": 2, "dash": "dot"})
    exponents = [math.log10(test.rates[0]), math.log10(test.rates[-1])]
    figure.update_layout(xaxis=_lr_axis(exponents), yaxis={"range": [low, high], "title": record.label})
    return figure


def _trial_runs_figure(record: Record, confirmed: Confirmation) -> Figure:
    """Draw the final losses of the trial runs and the confirmed LR."""
    from plotly.graph_objects import Figure

    figure = Figure()
    finite = [(rate, loss) for rate, loss in confirmed.tried if math.isfinite(loss)]
    rates, losses = zip(*finite, strict=True)
    hover = "LR %{x:.3g}<br>%{y:.4g}<extra></extra>"
    line, marker = {"color": COLOURS[0], "width": 2}, {"size": 9}
    figure.add_scatter(
        x=rates, y=losses, mode="lines+markers", line=line, marker=marker, name="trial runs", hovertemplate=hover
    )
    worst = max(losses, key=lambda loss: record.sign * loss)
    if diverged := [rate for rate, loss in confirmed.tried if not math.isfinite(loss)]:
        crosses = {"symbol": "x", "size": 10, "color": COLOURS[1]}
        figure.add_scatter(x=diverged, y=[worst] * len(diverged), mode="markers", marker=crosses, name="diverged")
    _draw_answer(figure, confirmed.lr, confirmed.interval, (min(losses), max(losses)))
    figure.update_layout(xaxis=_lr_axis(None), yaxis={"title": _metric_name(record)})
    return figure


def _draw_answer(figure: Figure, lr: float, interval: tuple[float, float], span: tuple[float, float]) -> None:
    """Draw an LR as a line, and its interval as an area behind it."""
    figure.add_vrect(*interval, fillcolor=ANSWER, opacity=0.2, line_width=0, layer="below")
    _draw_mark(figure, lr, span, "LR", {"color": ANSWER, "width": 3})


def _draw_mark(figure: Figure, rate: float, span: tuple[float, float], name: str, line: dict[str, Any]) -> None:
    """Draw a vertical line; as a trace instead of a shape it is in the legend, which can hide it."""
    label = f"{name} {number(rate)}"
    figure.add_scatter(
        x=[rate, rate], y=list(span), mode="lines", line=line, name=label, hovertemplate=f"{label}<extra></extra>"
    )


def _lr_axis(exponents: list[float] | None) -> dict[str, Any]:
    """Return an axis of LRs between two exponents of ten; None: for a few LRs that are close together."""
    axis = {"type": "log", "title": "peak LR", "exponentformat": "power"}
    return axis | ({"dtick": "D2"} if exponents is None else {"dtick": 1, "range": exponents})


def _metric_name(record: Record) -> str:
    return "loss" if record.label == "training loss" else record.label
