"""The page of a range test (`report.html`): the sweeps, the suggested LR, and the trial runs that confirm it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lrflow.display import CURVES, MUTED
from lrflow.reports.chart_parts import Axis, Band, Figure, Line, Part, Points, Rule, Spec
from lrflow.reports.charts import chart
from lrflow.reports.page import Fact, Page
from lrflow.runs import PAGE
from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.find_record import Record
from lrflow.tuning.suggestion import compare_with_interval
from lrflow.wording import number

ANSWER = CURVES[2]
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
    """Write `report.html` from the `find.csv` and `find.json` of a folder.

    Raises:
        LrflowError: the library that draws the figures cannot be made.
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
    page.draw(figures(record))
    if record.confirmed:
        tried = [(rate, loss if math.isfinite(loss) else "diverged") for rate, loss in record.confirmed.tried]
        page.table("Results of the trial runs", ["LR", _metric_name(record)], tried)
    marks = record.suggestion.marks.items()
    rules = RULES_TO_MINIMIZE if record.sign > 0 else RULES_TO_MAXIMIZE
    rows = [(name, rate, rate / record.suggestion.lr, rules.get(name, "")) for name, rate in marks]
    page.table("Rules", ["rule", "LR", "times halfway", "meaning"], rows, strong=0)
    return page.write(folder / PAGE)


def figures(record: Record) -> list[Figure]:
    """Return the figures of a range test: the sweeps, and the trial runs if there are any."""
    caption = "Each sweep is a short run with a rising peak LR. Marks: the suggested LR with its interval, each rule."
    heading = f"Sweeps: {record.label} against the LR"
    found = [Figure("range-test", heading, _sweeps(record), caption, 500)]
    if record.confirmed:
        caption = "Shorter runs under the scaled schedule of the run. Crosses: diverged."
        found.append(Figure("trial-runs", "Trial runs", _trial_runs(record, record.confirmed), caption, 360))
    return found


def _sweeps(record: Record) -> Spec:
    """Draw the sweeps, their mean, the suggested LR, the LR of each rule, the divergence and the configured LR."""
    test, suggestion = record.test, record.suggestion
    finite = [np.isfinite(losses) for losses in test.losses]
    parts: list[Part] = [
        Line(
            "sweeps", test.rates[known].tolist(), losses[known].tolist(), colour=MUTED, width=1, opacity=0.35,
            hint=f"sweep {count}",
        )
        for count, (losses, known) in enumerate(zip(test.losses, finite, strict=True), 1)
    ]  # fmt: skip
    rates, values = record.mean()
    name = f"mean of {len(test.losses)}, smoothed"
    parts.append(Line(name, rates.tolist(), values.tolist(), colour=CURVES[0], width=3))
    parts += _answer(suggestion.lr, suggestion.interval)
    others = [(name, rate) for name, rate in suggestion.marks.items() if rate != suggestion.lr]
    for (name, rate), colour in zip(others, (CURVES[1], *CURVES[3:]), strict=False):
        parts.append(Rule(f"{name} {number(rate)}", rate, colour=colour, dashed=True))
    if suggestion.ceiling:
        label = f"diverges {number(suggestion.ceiling)}"
        parts.append(Band(label, suggestion.ceiling, float(test.rates[-1]), colour=MUTED))
        parts.append(Rule(label, suggestion.ceiling, colour=MUTED, width=1))
    if test.rates[0] <= record.configured <= test.rates[-1]:
        label = f"configured {number(record.configured)}"
        parts.append(Rule(label, record.configured, colour=MUTED, dashed=True, width=2))
    span = (float(test.rates[0]), float(test.rates[-1]))
    return chart(Axis("peak LR", "log", span), Axis(record.label, ends=record.span()), parts)


def _trial_runs(record: Record, confirmed: Confirmation) -> Spec:
    """Draw the final losses of the trial runs and the confirmed LR."""
    finite = [(rate, loss) for rate, loss in confirmed.tried if math.isfinite(loss)]
    rates, losses = map(list, zip(*finite, strict=True))
    parts: list[Part] = [
        Line("trial runs", rates, losses, colour=CURVES[0], width=2, hover=False),
        Points("trial runs", rates, losses, size=70, colour=CURVES[0]),
    ]
    worst = max(losses, key=lambda loss: record.sign * loss)
    if diverged := [rate for rate, loss in confirmed.tried if not math.isfinite(loss)]:
        places = [worst] * len(diverged)
        parts.append(Points("diverged", diverged, places, shape="x", size=90, colour=CURVES[1], filled=False))
    parts += _answer(confirmed.lr, confirmed.interval)
    return chart(Axis("peak LR", "log"), Axis(_metric_name(record)), parts)


def _answer(lr: float, interval: tuple[float, float]) -> list[Part]:
    """Return an LR as a line, and its interval as an area behind it."""
    name = f"LR {number(lr)}"
    return [Band(name, *interval, colour=ANSWER, opacity=0.2), Rule(name, lr, colour=ANSWER, width=3)]


def _metric_name(record: Record) -> str:
    return "loss" if record.label == "training loss" else record.label
