"""The page of a run, `report.html`: what was run, what it measured, and what monitors found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lrflow.columns import DATA_TIME, PEAK
from lrflow.config.validation import META
from lrflow.errors import LrflowError
from lrflow.files import is_file
from lrflow.finding import kinds_of, spoken
from lrflow.metric import is_test
from lrflow.redaction import MASK, redact_text
from lrflow.reports import find_page
from lrflow.reports.page import Cell, Fact, Page
from lrflow.reports.run_charts import figures
from lrflow.reports.run_course import RESUMED, Course
from lrflow.reports.run_facts import command_again, environment, git_of, own_settings
from lrflow.reports.runs import UNFINISHED, Run, written
from lrflow.runs import FINDINGS, PAGE, RunFolder
from lrflow.tuning.find_record import Record
from lrflow.wording import counted, duration, number

LARGEST = 2**30
"""Bytes of a metrics.csv of which a run writes a page when it ends."""

_LONG = 120  # characters of a reason that stands at the top
_BEFORE_FINDINGS = ("lr", "plan-", "loss", "metric-")
_AT_THE_END = ("throughput",)
"""Starts of the names of the figures that stand there."""


@np.errstate(all="ignore")  # of losses that are not finite; the page says so itself
def write_run_page(folder: Path) -> Path:
    """Write `report.html` into a run folder, from the files there.

    Args:
        folder: of a run that has ended, is going on, or was killed.

    Raises:
        LrflowError: the library that draws the figures cannot be made.
        OSError: the page cannot be written.
    """
    return run_page(folder).write(folder / PAGE)


def run_page(folder: Path) -> Page:
    """Return the page of a run, from the files in its folder."""
    run = Run(folder)
    course = Course(run)
    drawn = figures(course)
    page = Page(str(run.config.get("name") or folder.resolve().name), str(folder))
    page.facts(facts(course))
    page.warnings([*unfinished(course), *warnings(course)])
    _what_was_run(page, run)
    page.draw(one for one in drawn if one.name.startswith(_BEFORE_FINDINGS))
    _metrics(page, course)
    findings(page, course)
    page.draw(one for one in drawn if not one.name.startswith(_BEFORE_FINDINGS + _AT_THE_END))
    _range_test(page, folder)
    _average(page, run)
    page.draw(one for one in drawn if one.name.startswith(_AT_THE_END))
    _speed(page, course)
    if about := environment(run):
        page.table("Environment", ["", ""], about, wrapped=True)
    page.code("Config", _config(folder), "The whole config.yaml, without secrets.", folded=True)
    return page


def wants_page(folder: Path) -> bool:
    """Return whether a run writes its page when it ends: not with report=false, and not as a job of a sweep.

    Raises:
        LrflowError: reading its metrics would take too long.
    """
    config, metrics = Run(folder).config, RunFolder(folder).metrics
    wants = bool(config) and config.get("report", True) is True and config.get(f"{META}.run_folder") is None
    if wants and metrics.exists() and metrics.stat().st_size > LARGEST:
        raise LrflowError(f"reading {metrics.name} would take minutes; lrflow report {folder} does it")
    return wants


def facts(course: Course) -> list[Fact]:
    """Return the numbers at the top of the page of a run."""
    run, outcome, name = course.run, course.run.outcome, course.main
    reason = outcome.short_reason if outcome else ""
    found = [Fact("status", run.status.replace("_", " "), reason if len(reason) <= _LONG else f"{reason[:_LONG]} ...")]
    if name and (best := course.best(name)):
        extreme = "the lowest" if best.metric.mode == "min" else "the highest"
        where = extreme if best.step is None else f"{extreme}, at {course.at(best.step)}"
        found.append(Fact(f"best {name}", f"{best.value:.4g}", where))
    if name and (last := course.last(name)) is not None:
        tests = {other: course.last(other) for other in course.metrics if is_test(other)}
        note = ", ".join(f"{other} {value:.4g}" for other, value in tests.items() if value is not None)
        found.append(Fact(f"last {name}", f"{last:.4g}", note))
    if kinds := kinds_of(run.findings):
        found.append(Fact("findings", ", ".join(map(spoken, kinds)), "the table below has what to try"))
    elif run.below("health.diverging"):  # neither older runs nor those with health=none have it
        found.append(Fact("findings", "none", "health found nothing wrong"))
    epochs = counted(course.epochs(course.last_step), "epoch") if course.epoch_length else ""
    of = f" of {planned:,}" if (planned := course.planned_steps) not in (None, course.last_step) else ""
    found.append(Fact("steps", f"{course.last_step:,}{of}", epochs))
    if outcome:
        resumed = any(event.kind == RESUMED for event in course.events)
        note = f"{'resumed' if resumed else 'started'} {run.started}" if run.started else ""
        found.append(Fact("time since the resume" if resumed else "time", duration(outcome.seconds), note))
    elif run.started:
        found.append(Fact("started", run.started))
    if device := run.environment.get("device"):
        count, also = run.environment.get("devices"), (run.environment.get("precision"), run.environment.get("host"))
        many = f"{count} x " if count not in (None, 1) else ""
        found.append(Fact("device", f"{many}{device}", ", ".join(str(word) for word in also if word)))
    return found


def warnings(course: Course) -> list[str]:
    """Return what a reader has to know of a run before its numbers."""
    run, found = course.run, []
    if run.outcome and len(run.outcome.reason) > _LONG:
        found.append(run.outcome.reason)
    for name in course.metrics:
        series = course.history[name]
        if (lost := np.flatnonzero(~np.isfinite(series.values))).size:
            found.append(f"{name} is {series.values[lost[0]]} at {course.at(int(series.steps[lost[0]]))}.")
    return [*found, *(f"Its {name} cannot be read." for name in unreadable(run))]


def unreadable(run: Run) -> list[str]:
    """Return the names of the files of a run that are there and cannot be read: damaged, a folder, not permitted."""
    read: dict[str, object] = {"config.yaml": run.config, "plan.json": run.plan, "summary.json": run.summary}
    read |= {"environment.json": run.environment, "metrics.csv": True, FINDINGS: True}
    paths = {name: run.folder / name for name in read}
    return [
        name
        for name, path in paths.items()
        if os.path.lexists(path) and not (read[name] and is_file(path) and os.access(path, os.R_OK))
    ]


def unfinished(course: Course) -> list[str]:
    """Return what a reader has to know of a page that is made before its run has ended."""
    if course.run.status not in UNFINISHED:
        return []
    how = "is going on" if course.run.status == "running" else "has not ended: its process is gone"
    return [f"The run {how}. The page shows what its folder held at {course.at(course.last_step)}."]


def _what_was_run(page: Page, run: Run) -> None:
    command = command_again(run)
    doubts = ["A secret that is masked here has to be given again."] if MASK in command else []
    doubts += ["The code had changes that were not committed."] if git_of(run).get("changed") else []
    page.code("Run it again", command, " ".join(doubts), wrapped=True)
    try:
        if rows := own_settings(run):
            caption = "Options, and values that differ from those that the options give."
            page.table("Settings", ["key", "value", "default"], rows, caption)
    except LrflowError as error:
        if run.typed:
            caption = f"As typed. Their defaults are unknown: {str(error).partition(chr(10))[0]}"
            page.table("Settings", ["key", "value"], [*run.typed.items()], caption)


def _metrics(page: Page, course: Course) -> None:
    rows: list[list[str | float | None]] = []
    for name in course.metrics:
        best, last = course.best(name), course.last(name)
        if last is None:
            continue
        row: list[str | float | None] = [name, last if np.isfinite(last) else str(last), None, None, None]
        if best is not None and not is_test(name):
            row[2:] = [best.value, best.step, "lower" if best.metric.mode == "min" else "higher"]
        rows.append(row)
    if rows:
        page.table("Metrics", ["metric", "last", "best", "at step", "better is"], rows)


def findings(page: Page, course: Course) -> None:
    """Add the table of what monitors found, and that of other events."""
    if findings := course.run.findings:
        rows = [
            [
                spoken(one.kind), one.since, one.step, one.message, one.remedy,
                ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in one.evidence.items()),
                None if one.confidence is None else Cell(f"{one.confidence:.0%}", one.confidence),
            ]
            for one in findings
        ]  # fmt: skip
        columns = ["finding", "since step", "found at", "what", "try", "evidence", "confidence"]
        text = "Confidence: the share of such findings that is true, as far as measured."
        page.table("Findings", columns, rows, text, wrapped=True)
    if others := [one for one in course.events if not one.found]:
        rows = [[one.step, one.kind, one.text] for one in others]
        page.table("Events", ["step", "event", "what"], rows, wrapped=True)


def _range_test(page: Page, folder: Path) -> None:
    if record := Record.found_in(folder):
        page.draw(find_page.figures(record))


def _average(page: Page, run: Run) -> None:
    option, settings = run.config.get("average"), run.below("average")
    if option in (None, "none") or not settings:
        return
    used, _ = settings.pop("evaluate", True), settings.pop("kind", None)
    caption = "Validations, the best checkpoint and the test use it." if used else "Only checkpoints hold it."
    rows = [(key, written(value)) for key, value in settings.items() if value is not None]
    page.table(f"Average of the weights: {option}", ["setting", "value"], rows, caption)


def _speed(page: Page, course: Course) -> None:
    steps, waits, peak = (course.history[name] for name in ("train/step_time", DATA_TIME, PEAK))
    rows: list[tuple[str, float | str]] = []
    if len(steps):
        rows.append(("median time of a step, in seconds", float(np.median(steps.values))))
    if len(waits) and (total := steps.values.sum()) > 0:
        rows.append(("share of it spent waiting for data", f"{waits.values.sum() / total:.1%}"))
    if len(peak):
        rows.append(("most memory, in GiB", float(peak.values.max())))
    if rows:
        page.table("Speed and memory", ["", "value"], rows)


def _config(folder: Path) -> str:
    try:
        return redact_text(RunFolder(folder).config.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
