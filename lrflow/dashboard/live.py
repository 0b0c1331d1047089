"""The page of a run that is going on, and what has changed of it since a reader last asked."""

from __future__ import annotations

import json
from typing import Any

from lrflow.dashboard.index import Entry
from lrflow.history import GrowingFile
from lrflow.reports.chart_parts import Figure
from lrflow.reports.page import Page, without_values
from lrflow.reports.run_charts import watched_figures
from lrflow.reports.run_course import NORMS, Course
from lrflow.reports.run_page import facts, findings, unfinished, warnings

_NOT_DRAWN = tuple(f"{kind}/" for kind in NORMS)  # only the whole page of a run draws them


def live_page(entry: Entry) -> Page:
    """Return the page of a run that is going on; a script draws it."""
    page = Page(str(entry.run.config.get("name") or entry.name), str(entry.run.folder))
    page.html(
        f'<p class="caption">The curves follow the run. <a href="/runs/{entry.id}?whole=true">The whole page</a> '
        "also has settings, norms and the config, as they are now.</p>"
        f'<div id="live" data-run="{entry.id}"><p role="status">Reading the run ...</p></div>',
        draws_later=True,
    )
    return page


class Live:
    """A run that someone watches.

    Args:
        entry: the run.
    """

    def __init__(self, entry: Entry) -> None:
        self._file = GrowingFile(entry.run.folder / "metrics.csv", lambda name: not name.startswith(_NOT_DRAWN))

    def changes(self, entry: Entry, known: str) -> dict[str, Any]:
        """Return what a script needs to draw the run, or only `at` if nothing has changed.

        Args:
            entry: the run as it is now.
            known: the `at` of the last answer; empty: there was none.
        """
        run = entry.run.now()
        course = Course(run, self._file)
        rows = sum(map(len, course.history.values()))
        at = f"{self._file.end}-{rows}-{run.status}-{len(run.findings)}"
        if at == known:
            return {"at": at}
        above, below = Page("", ""), Page("", "")
        above.facts(facts(course))
        cut = [] if run.status == "running" else unfinished(course)  # that it goes on, a reader sees
        above.warnings([*cut, *warnings(course)])
        findings(below, course)
        return {
            "at": at,
            "above": above.sections,
            "below": below.sections,
            "figures": [_drawn(figure) for figure in watched_figures(course)],
            "ended": not entry.is_going_on,
        }


def _drawn(figure: Figure) -> dict[str, Any]:
    """Return a figure whose data are apart, so that new ones can replace them in a chart that is drawn already."""
    data: dict[str, Any] = {}

    def name_of(columns: dict[str, Any]) -> str:
        data[name := f"data-{len(data) + 1}"] = columns
        return name

    spec = {**without_values(figure.spec, name_of), "height": figure.height}
    label = figure.summary or spec.pop("description", "") or figure.caption
    spec.pop("description", None)
    note = spec.get("usermeta", {}).pop("note", "")
    return {
        "name": figure.name,
        "heading": figure.heading,
        "caption": figure.caption,
        "label": label,
        "note": note,
        "spec": json.dumps(spec, separators=(",", ":"), allow_nan=False),
        "data": data,
    }
