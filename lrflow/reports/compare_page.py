"""The page of `lrflow compare`: several runs over each other, how they differ, and what monitors found in each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lrflow.config import Config
from lrflow.display import CURVES
from lrflow.finding import kinds_of, spoken
from lrflow.history import Series
from lrflow.metric import TRAIN_LOSS, is_test, is_validation
from lrflow.plan.table import sample_steps
from lrflow.reports.chart_parts import Figure, Line
from lrflow.reports.charts import chart
from lrflow.reports.page import Cell, Page
from lrflow.reports.run_charts import POINTS, SMOOTH, STEP, line, lr_axis, value_axis
from lrflow.reports.run_course import Course
from lrflow.reports.runs import Run, different_keys, page_of, written
from lrflow.wording import counted, duration, short_names

FEW = 8  # runs that are the columns of a table of differences; more are its rows
FEW_KEYS = 4  # that are columns of the table of runs
MAX_COLUMNS = 40  # keys of such a table
MAX_METRICS = 8  # figures
_LEFT_OUT = "Keys that come with another option are left out, unless they were typed."


def write_comparison(runs: Sequence[Run], path: Path) -> Path:
    """Write a page that compares runs, of one sweep or of several.

    Args:
        runs: two or more.
        path: of the page.

    Raises:
        LrflowError: the library that draws the figures cannot be made.
        OSError: the page cannot be written.
    """
    return comparison(runs, lambda folder: page_of(folder, path.parent)).write(path)


def comparison(runs: Sequence[Run], link: Callable[[Path], str]) -> Page:
    """Return a page that compares runs.

    Args:
        runs: two or more.
        link: returns the link to the page of the run in a folder.
    """
    compared = _Comparison(tuple(Course(run) for run in runs), link)
    page = Page(f"{len(runs)} runs compared", str(compared.home))
    page.table("Runs", *compared.table(), "Numbers link to pages or folders of runs.", compared.best)
    page.draw(_lr(compared))
    page.draw(_metrics(compared))
    _differences(page, compared)
    _findings(page, compared)
    return page


@dataclass(frozen=True)
class _Comparison:
    """Runs that are compared.

    Args:
        courses: of the runs.
        link: returns the link to the page of the run in a folder.
    """

    courses: tuple[Course, ...]
    link: Callable[[Path], str]

    @cached_property
    def home(self) -> Path:
        """The folder that holds all runs."""
        return Path(os.path.commonpath([course.run.folder.resolve().parent for course in self.courses]))

    @cached_property
    def names(self) -> list[str]:
        """The number and the folder of each run."""
        folders = [course.run.folder.resolve().relative_to(self.home).as_posix() for course in self.courses]
        return [f"{number}  {folder}" for number, folder in enumerate(folders, 1)]

    @cached_property
    def metric(self) -> str | None:
        """The metric by which most runs are judged."""
        found = [course.main for course in self.courses if course.main]
        return max(dict.fromkeys(found), key=found.count, default=None)

    @cached_property
    def ranked(self) -> list[int]:
        """The places of the runs that have the metric, the best first."""
        costs = {place: self._cost(course) for place, course in enumerate(self.courses)}
        return sorted((place for place, cost in costs.items() if math.isfinite(cost)), key=costs.__getitem__)

    def _cost(self, course: Course) -> float:
        best = course.best(self.metric) if self.metric else None
        return math.inf if best is None else best.metric.cost(best.value)

    @property
    def best(self) -> int | None:
        """The place of the best run; None: it is not known."""
        return self.ranked[0] if len(self.ranked) > 1 else None

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the config in which the runs differ; below a group of different options, the typed ones."""
        runs = [course.run for course in self.courses]
        found, typed = different_keys(runs), {key for run in runs for key in run.typed}
        options = {key for key in found if key in Config.groups}
        return [key for key in found if key in options | typed or key.partition(".")[0] not in options]

    @property
    def few_keys(self) -> list[str]:
        """Those keys if the table of runs has room for them."""
        return self.keys if len(self.keys) <= FEW_KEYS else []

    @cached_property
    def shades(self) -> list[float | None]:
        """The place of each run on the bar of colours: its rank by the metric; empty: few runs, with a colour each."""
        if len(self.courses) <= len(CURVES):
            return []
        ranks = {place: rank for rank, place in enumerate(self.ranked, 1)}
        return [ranks.get(place) for place in range(len(self.courses))]

    @property
    def bar(self) -> str:
        """The title of the bar of colours."""
        return f"rank by {self.metric}" if self.metric else ""

    def lines(self, series_of: Callable[[Course], Series]) -> list[Line]:
        """Return the line of each run that has such a series."""
        found = []
        for place, (name, course) in enumerate(zip(self.names, self.courses, strict=True)):
            shade = self.shades[place] if self.shades else None
            colour = "" if self.shades else CURVES[place]
            if len(series := series_of(course)):
                found.append(line(name, series, shade=shade, colour=colour, width=1.6))
        return found

    def table(self) -> tuple[list[str], list[list[str | float | Cell | None]]]:
        """Return the columns and the rows of the table of runs."""
        metrics = {name: None for course in self.courses for name in course.run.metrics}
        main = [f"best {self.metric}", "at step"] if self.metric else []
        rows: list[list[str | float | Cell | None]] = []
        for place, course in enumerate(self.courses):
            run, best = course.run, course.best(self.metric) if self.metric else None
            name = self.names[place].partition("  ")[2]
            row: list[str | float | Cell | None] = [Cell(str(place + 1), place + 1, self.link(run.folder)), name]
            row += [written(run.config.get(key)) for key in self.few_keys]
            row += [run.status.replace("_", " ")]
            row += [best.value if best else None, best.step if best else None] if self.metric else []
            row += [run.metrics.get(name) for name in metrics]
            seconds = run.outcome.seconds if run.outcome else None
            row += [course.last_step, None if seconds is None else Cell(duration(seconds), seconds)]
            rows.append([*row, ", ".join(map(spoken, kinds_of(run.findings)))])
        columns = ["status", *main, *(f"last {name}" for name in metrics), "steps", "time", "findings"]
        return ["", "run", *short_names(self.few_keys, columns), *columns], rows


def _differences(page: Page, compared: _Comparison) -> None:
    runs, keys = [course.run for course in compared.courses], compared.keys
    versions = {f"version of {name}": None for run in runs for name in run.versions}

    def value(run: Run, key: str) -> str:
        return written(run.versions.get(key.removeprefix("version of ")) if key in versions else run.config.get(key))

    keys = [
        *([] if compared.few_keys else keys),
        *(key for key in versions if len({value(run, key) for run in runs}) > 1),
    ]
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    if not keys:
        return
    if len(runs) <= FEW:
        cells = [[key, *(value(run, key) for run in runs)] for key in keys]
        page.table("Differences of the config", ["key", *numbers], cells, _LEFT_OUT)
    else:
        shown = keys[:MAX_COLUMNS]
        caption = f"{len(shown)} of the {len(keys):,} keys that differ. " if len(shown) < len(keys) else ""
        rows: list[list[str | Cell]] = [
            [Cell(number, int(number)), *(value(run, key) for key in shown)]
            for number, run in zip(numbers, runs, strict=True)
        ]
        page.table("Differences of the config", ["", *short_names(shown)], rows, caption + _LEFT_OUT)


def _lr(compared: _Comparison) -> Iterator[Figure]:
    """Draw the LR of the group with the highest peak of each run."""

    def used(course: Course) -> Series:
        plan = course.run.plan
        if plan is None:
            return course.history[f"lr/{course.groups[0]}"] if course.groups else Series.empty()
        top = max(course.lines, key=lambda one: plan.trainable[one.column].lr)
        actual = course.history[f"lr/{top.names[0]}"]
        steps = sample_steps(plan, POINTS)
        return actual if len(actual) else Series(steps, plan.lr(steps)[:, top.column])

    if drawn := compared.lines(used):
        spec = chart(STEP, lr_axis(drawn, [max(one.y) for one in drawn]), drawn, compared.bar)
        caption = "Of the group with the highest peak in each run, as the optimizer used it."
        yield Figure("lr", "Learning rate", spec, caption, 400)


def _metrics(compared: _Comparison) -> Iterator[Figure]:
    """Draw each metric that two runs have, the training loss smoothed."""
    counts: dict[str, int] = {}
    for course in compared.courses:
        for name in course.metrics:
            counts[name] = counts.get(name, 0) + (len(course.history[name]) > 1)
    names = [name for name, count in counts.items() if count > 1 and not is_test(name)]
    names.sort(key=lambda name: (name != compared.metric, name != TRAIN_LOSS, not is_validation(name)))
    for name in names[:MAX_METRICS]:
        drawn = compared.lines(lambda course, name=name: _smooth(course.history[name]))  # type: ignore[misc]
        smoothed = any(len(course.history[name]) > SMOOTH for course in compared.courses)
        spec = chart(STEP, value_axis(name, drawn), drawn, compared.bar)
        yield Figure(f"metric-{name}", name, spec, "Means of stretches of steps." * smoothed, 340)


def _smooth(series: Series) -> Series:
    return series.smoothed(SMOOTH) if len(series) > SMOOTH else series


def _findings(page: Page, compared: _Comparison) -> None:
    rows = [
        (number, spoken(one.kind), one.since, one.step, one.message, one.remedy)
        for number, course in enumerate(compared.courses, 1)
        for one in course.run.findings
    ]
    if rows:
        runs = counted(len({row[0] for row in rows}), "run")
        page.table("Findings", ["run", "finding", "since step", "found at", "what", "try"], rows, f"In {runs}.")
