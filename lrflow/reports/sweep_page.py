"""The page of a sweep: which learning rate first, then how sure that is, how trials learned, and all of them."""

from __future__ import annotations

import math
from pathlib import Path

from lrflow.reports.page import Cell, Fact, Page
from lrflow.sweeps.best import command
from lrflow.sweeps.curves import Analysis
from lrflow.sweeps.importance import importance
from lrflow.sweeps.learning import learning_curves
from lrflow.sweeps.recorded import Trial
from lrflow.sweeps.results import Sweep


def write_page(sweep: Sweep, analysis: Analysis | None, best: Path | None, path: Path) -> Path:
    """Write a page of all that a sweep tells.

    Args:
        sweep: that was read.
        analysis: of its learning rate; None: there is none to tell of.
        best: the recipe of its best trial; None: there is none.
        path: of the page, in the sweep folder.

    Raises:
        ConfigError: plotly is not installed.
    """
    page = Page("Which learning rate?" if analysis else "What the sweep found", f"{sweep.folder}, {counts(sweep)}")
    from lrflow.reports import sweep_figures as figures

    page.facts(_facts(sweep, analysis))
    page.notes([*(f"{doubt}" for doubt in doubts(analysis)), *sweep.notes])
    if analysis:
        caption = "A dot is a trial, a star the best LR; where the line is thick the metric is hardly worse."
        page.figure(f"{sweep.metric} against {analysis.lr_key}", figures.rates_figure(analysis), caption, 460)
        _curves_table(page, analysis)
    column, curves = learning_curves(sweep)
    if curves:
        key, top = (analysis.lr_key, analysis.top(column)) if analysis else (None, math.inf)
        caption = f"Blue is the lowest {key}, red the highest." if key else ""
        page.figure("How the trials learned", figures.learning_figure(sweep, key, column, curves, top), caption, 400)
    if found := importance(sweep):
        told = f"{found.method}, over {found.trials} trials."
        page.figure("What matters", figures.importance_figure(found), told, 110 + 34 * len(found.shares))
    ended = [trial for trial in sweep.trials if math.isfinite(sweep.cost(trial))]
    if len(sweep.keys) > 1 and len(ended) > 1:
        told = "A line is a trial, its colour the metric. Drag along an axis to pick a range out."
        page.figure("All together", figures.parallel_figure(sweep, sweep.keys), told, 380)
    if best and sweep.best:
        text = best.read_text(encoding="utf-8")
        page.code("The best trial again", f"{command(sweep)}\n\n{text}", f"{best.relative_to(sweep.folder)} holds it.")
    _trials_table(page, sweep)
    return page.write(path)


def counts(sweep: Sweep) -> str:
    """How many trials there are, and how many ended otherwise than well."""
    states = [trial.status for trial in sweep.trials]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "done"]
    return ", ".join([f"{len(states)} trial{'s' if len(states) != 1 else ''}", *others])


def doubts(analysis: Analysis | None) -> list[str]:
    """Why the answers are not to be trusted, each with the curve that it is about."""
    if analysis is None:
        return []
    found = [f"{curve.name}: {doubt}" if curve.name else doubt for curve in analysis.curves for doubt in curve.doubts]
    return found + [f"{key} was swept too, and is averaged over" for key in analysis.averaged]


def _facts(sweep: Sweep, analysis: Analysis | None) -> list[Fact]:
    best = sweep.best
    facts = []
    if analysis and (curve := analysis.curves[0]).valley and curve.basin:
        of = f" of {curve.name}" if curve.name else ""
        facts.append(Fact(f"best LR{of}", f"{curve.lr:.3g}", curve.told))
        off = analysis.margin_of(curve)
        told = f"{curve.basin.low:.2g} to {curve.basin.high:.2g}: {sweep.metric} worse by {off:.2g} at most"
        seen = "" if all(curve.basin.closed) else "> "  # an end of it lies beyond the LRs that were tried
        facts.append(Fact("room around it", f"{seen}{curve.basin.decades:.2g} decades", told))
        if curve.sensitivity is not None:
            facts.append(Fact("LR sensitivity", f"{curve.sensitivity:.3g}", "mean loss over the LRs, less the best"))
    if best:
        facts.append(Fact(f"best {sweep.metric}", f"{best.metrics[sweep.metric]:.4g}", f"trial {best.number}"))
    return facts


def _curves_table(page: Page, analysis: Analysis) -> None:
    if len(analysis.curves) < 2:
        return
    columns = ["", "best LR", "from", "to", analysis.sweep.metric, "basin from", "to", "decades", "sensitivity"]
    rows = []
    for curve in analysis.curves:
        (low, high), basin = curve.interval, curve.basin
        ends = (basin.low, basin.high, basin.decades) if basin else (None, None, None)
        known = math.isfinite(curve.cost)
        answer = (curve.lr, low, high, analysis.metric(curve.cost)) if known else (None,) * 4
        rows.append([curve.name, *answer, *ends, curve.sensitivity])
    caption = "Basin: LRs between which the metric is worse than its best by no more than "
    caption += f"{analysis.margin} of what training gains." if "%" in str(analysis.margin) else f"{analysis.margin}."
    page.table("Side by side", columns, rows, caption, strong=0)


def _trials_table(page: Page, sweep: Sweep) -> None:
    columns = ["trial", "status", *sweep.keys, *sweep.metrics, "steps", "seconds"]
    explained = any(trial.error for trial in sweep.trials)
    columns += ["why"] if explained else []
    rows = [_row(sweep, trial, explained) for trial in sweep.trials]
    best = next((place for place, trial in enumerate(sweep.trials) if trial is sweep.best), None)
    page.table("Trials", columns, rows, "A click on a heading sorts. A number leads to its run folder.", best)


def _row(sweep: Sweep, trial: Trial, explained: bool) -> list[str | float | Cell | None]:
    given = [None if (value := trial.given.get(key)) is None else _cell(value) for key in sweep.keys]
    metrics = [trial.metrics.get(name) for name in sweep.metrics]
    number = Cell(str(trial.number), trial.number, f"{trial.folder.relative_to(sweep.folder)}/")
    ending = [trial.steps, trial.seconds, *([trial.error] if explained else [])]
    return [number, trial.status, *given, *metrics, *ending]


def _cell(value: str | float | bool) -> str | float:
    return str(value).lower() if isinstance(value, bool) else value
