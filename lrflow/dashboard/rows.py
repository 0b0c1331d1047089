"""The page of all runs and sweeps: its tables, small curves and controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lrflow.dashboard.index import Details, Entry, Index, Sweep
from lrflow.display import scale_of
from lrflow.finding import kinds_of, spoken
from lrflow.reports.page import Cell, Page, row_of
from lrflow.reports.runs import UNFINISHED, Run, written
from lrflow.wording import counted, duration

RUNS = "Runs"
_COLUMNS = (
    ("compare", False), ("run", False), ("status", False), ("curve", False), ("best", True), ("metric", False),
    ("steps", True), ("time", True), ("findings", False), ("started", False), ("settings", False),
)  # fmt: skip
"""The columns of the table of runs, and which hold numbers."""

_WIDTH, _HEIGHT = 96, 22  # pixels of a small curve
_CONTROLS = """<section class="controls">
<label for="filter">Filter</label>
<input type="search" id="filter" autocomplete="off" spellcheck="false" aria-describedby="shown"
 placeholder="adamw status=running val/loss&lt;0.1">
<form id="compare" action="/compare"><button type="submit">Compare</button></form>
<p id="shown" role="status">{shown}</p>{sweeps}
</section>"""


def list_page(index: Index) -> Page:
    """Return the page of all runs and sweeps."""
    version, entries = index.changes(0)[0], index.entries()
    page = Page("Runs", str(index.folder.resolve()))
    page.html(f'<div id="list" data-version="{version}"></div>')
    of_sweeps = sweeps(index)
    link = '<a href="#sweeps">Sweeps</a>' if of_sweeps else ""
    page.html(_CONTROLS.format(shown=counted(len(entries), "run"), sweeps=link))
    if entries:
        names, right = zip(*_COLUMNS, strict=True)
        rows = [cells(entry) for entry in entries]
        page.table(RUNS, names, rows, names=[entry.id for entry in entries], right=right)
    page.html(f'<div id="sweeps">{of_sweeps}</div>')
    if not entries:
        page.warnings([f"There are no runs under {index.folder}/ yet."])
    return page


def sweeps(index: Index) -> str:
    """Return the HTML of the table of sweeps; empty: there are none."""
    found = index.sweeps(index.entries())
    part = Page("")
    if found:
        columns = ["sweep", "runs", "status", "best", "metric", "started"]
        part.table("Sweeps", columns, [_sweep(sweep) for sweep in found])
    return part.sections


def row(entry: Entry) -> str:
    """Return the HTML of the row of a run."""
    return row_of(cells(entry), [is_number for _, is_number in _COLUMNS], name=entry.id)


def cells(entry: Entry) -> list[str | float | Cell | None]:
    """Return the row of a run in the table of runs."""
    run, details = entry.run, entry.details or Details()
    label, best = escape(f"compare {entry.name}"), details.best
    box = f'<input type="checkbox" name="run" value="{entry.id}" form="compare" aria-label="{label}">'
    seconds = run.outcome.seconds if run.outcome else None
    made = run.outcome.steps if run.outcome and run.outcome.steps is not None else details.last_step
    of = f" of {details.planned:,}" if details.planned not in (None, made) else ""
    reason = run.outcome.short_reason if run.outcome else ""
    where = "" if best is None or best.step is None else f"at step {best.step:,}"
    return [
        Cell("", "", drawn=box),
        Cell(entry.name, entry.name, f"/runs/{entry.id}"),
        Cell(run.status.replace("_", " "), run.status, hint=reason, drawn=_status(run.status)),
        Cell("", "", drawn=spark(details)),
        None if best is None else Cell(f"{best.value:.4g}", best.value, hint=where),
        details.metric,
        Cell(f"{made:,}{of}", made) if made or of else None,
        None if seconds is None else Cell(duration(seconds), seconds),
        ", ".join(map(spoken, kinds_of(run.findings))) or None,
        run.started or None,
        _settings(run) if entry.details else None,
    ]


def _status(status: str) -> str:
    kind = "good" if status == "finished" else "live" if status in UNFINISHED[:1] else "bad"
    return f'<span class="pill {kind}">{escape(status.replace("_", " "))}</span>'


def _settings(run: Run) -> str | None:
    return " ".join(f"{key}={written(value)}" for key, value in run.settings.items()) or None


def _sweep(sweep: Sweep) -> Sequence[str | float | Cell | None]:
    best = sweep.best
    statuses = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sweep.statuses.items())
    started = min((entry.run.started for entry in sweep.entries if entry.run.started), default=None)
    name = Cell(sweep.name, sweep.name, f"/sweeps/{sweep.id}")
    value, metric = (best.value, best.metric.name) if best else (None, None)
    return [name, len(sweep.entries), statuses, value, metric, started]


def spark(details: Details) -> str:
    """Return a small curve as SVG; empty: there are no values to draw."""
    values = details.curve.values.tolist()
    if len(values) < 2:
        return ""
    is_log = scale_of(values) == "log"
    heights = [math.log(value) for value in values] if is_log else values
    low, high = min(heights), max(heights)
    first, last = float(details.curve.steps[0]), float(details.curve.steps[-1])
    across, up = (_WIDTH - 2) / ((last - first) or 1.0), (_HEIGHT - 2) / ((high - low) or 1.0)
    points = " ".join(
        f"{1 + (step - first) * across:.1f},{1 + (high - height) * up:.1f}"
        for step, height in zip(details.curve.steps.tolist(), heights, strict=True)
    )
    label = f"{details.shown} from {values[0]:.4g} to {values[-1]:.4g}"
    return (
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}"><polyline points="{points}"/></svg>'
    )
