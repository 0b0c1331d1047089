"""The page of a sweep: which learning rate first, then how sure that is, how trials learned, and all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lrflow.reports.page import Cell, Fact, Page
from lrflow.sweeps.best import command
from lrflow.sweeps.curves import Analysis
from lrflow.sweeps.importance import importance
from lrflow.sweeps.learning import learning_curves
from lrflow.sweeps.recorded import TrialResult
from lrflow.sweeps.results import SweepResults


def write_page(sweep: SweepResults, analyses: Sequence[Analysis], best: Path | None, path: Path) -> Path:
    """Write a page of all that a sweep tells.

    Args:
        sweep: that was read.
        analyses: of its learning rate, one an objective; empty: there is none to tell of.
        best: the recipe of its best trial; None: there is none.
        path: of the page, in the sweep folder.

    Raises:
        ConfigError: plotly is not installed.
    """
    page = Page("Which learning rate?" if analyses else "What the sweep found", f"{sweep.folder}, {counts(sweep)}")
    from lrflow.reports import sweep_figures as figures

    several = len(sweep.objectives) > 1
    page.facts(_facts(sweep, analyses))
    page.notes(remarks(sweep, analyses))
    if len(sweep.objectives) == 2 and sweep.ended:
        caption = f"{len(sweep.front)} of {len(sweep.trials)} trials: to better one objective costs the other."
        caption = caption if len(sweep.front) > 1 else f"Trial {sweep.front[0].number} is the best in both."
        caption += f" Blue is the lowest {sweep.lr_key}, red the highest." if sweep.lr_key else ""
        page.figure("The Pareto front", figures.front_figure(sweep), caption, 460)
    for analysis in analyses:
        name = analysis.sweep.metric
        page.figure(f"{name} against {analysis.lr_key}", figures.rates_figure(analysis), _legend(analysis), 460)
        _curves_table(page, analysis, f"Side by side, by {name}" if several else "Side by side")
    column, curves = learning_curves(sweep)
    if curves:
        key, top = (sweep.lr_key, analyses[0].top(column)) if analyses else (None, math.inf)
        caption = f"Blue is the lowest {key}, red the highest." if key else ""
        page.figure("How the trials learned", figures.learning_figure(sweep, key, column, curves, top), caption, 400)
    for objective in sweep.objectives:
        if found := importance(sweep.by(objective)):
            told = f"{found.method}, over {found.trials} trials."
            heading = f"What matters to {objective.name}"
            page.figure(heading, figures.importance_figure(found), told, 110 + 34 * len(found.shares))
    if len(sweep.keys) > 1 and len(sweep.ended) > 1:
        told = f"A line is a trial, its colour {sweep.metric}. Drag along an axis to pick a range out."
        page.figure("All together", figures.parallel_figure(sweep, sweep.keys), told, 380)
    if best and sweep.best:
        text = best.read_text(encoding="utf-8")
        heading = f"The best trial by {sweep.metric} again" if several else "The best trial again"
        page.code(heading, f"{command(sweep)}\n\n{text}", f"{best.relative_to(sweep.folder)} holds it.")
    _trials_table(page, sweep)
    return page.write(path)


def counts(sweep: SweepResults) -> str:
    """How many trials there are, and how many ended otherwise than well."""
    states = [trial.status.replace("_", " ") for trial in sweep.trials]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "finished"]
    return ", ".join([f"{len(states)} trial{'s' if len(states) != 1 else ''}", *others])


def remarks(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[str]:
    """What a person should know of a sweep: why it has no best trial, what is doubtful, what could not be read."""
    told = sweep.no_best()
    said = analyses and all(trial.diverged for trial in sweep.trials)  # by each curve
    return [*([told] if told and not said else []), *_doubts(analyses), *sweep.notes]


def _doubts(analyses: Sequence[Analysis]) -> list[str]:
    """Why the answers are not to be trusted, each with the objective and the curve that it is about."""
    found = []
    for analysis in analyses:
        for curve in analysis.curves:
            about = [analysis.sweep.metric] * (len(analyses) > 1) + [curve.name] * bool(curve.name)
            found += [": ".join([*about, doubt]) for doubt in curve.doubts]
    averaged = dict.fromkeys(key for analysis in analyses for key in analysis.averaged)
    return found + [f"{key} was swept too, and is averaged over" for key in averaged]


def _facts(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[Fact]:
    """The best LR and the room around it; of several objectives the best LR and the best value of each."""
    several = len(sweep.objectives) > 1
    facts = []
    for analysis in analyses:
        curve, metric = analysis.curves[0], analysis.sweep.metric
        if not (curve.valley and curve.basin):
            continue
        of = f" by {metric}" * several + f" of {curve.name}" * bool(curve.name)
        facts.append(Fact(f"best LR{of}", f"{curve.lr:.3g}", curve.told))
        if several:
            continue
        off = analysis.margin_of(curve)
        told = f"{curve.basin.low:.2g} to {curve.basin.high:.2g}: {metric} worse by {off:.2g} at most"
        seen = "" if all(curve.basin.closed) else "> "  # an end of it lies beyond the LRs that were tried
        facts.append(Fact("room around it", f"{seen}{curve.basin.decades:.2g} decades", told))
        if curve.sensitivity is not None:
            facts.append(Fact("LR sensitivity", f"{curve.sensitivity:.3g}", "mean loss over the LRs, less the best"))
    for objective in sweep.objectives:
        if best := sweep.by(objective).best:
            value = f"{best.metrics[objective.name]:.4g}"
            facts.append(Fact(f"best {objective.name}", value, f"trial {best.number}"))
    return facts


def _legend(analysis: Analysis) -> str:
    """What the marks in the figure of the metric against the LR are, those that it has."""
    sentences = ["A dot is a trial, a star the best LR; where the line is thick the metric is hardly worse."]
    if any(point.diverged for curve in analysis.curves for point in curve.points):
        sentences.append("A cross diverged.")
    if pruned := analysis.given_up():
        sentences.append("A grey triangle is a pruned trial where it was given up: it is in no fit.")
        if moved := [value for _, value, trial in pruned if trial.metrics[analysis.sweep.metric] > value]:
            sentences.append(f"Those above {max(moved):.3g} are drawn at it.")
    return " ".join(sentences)


def _curves_table(page: Page, analysis: Analysis, heading: str) -> None:
    if len(analysis.curves) < 2:
        return
    known = analysis.measures_sensitivity
    columns = ["", "best LR", "from", "to", analysis.sweep.metric, "basin from", "to", "decades"]
    columns += ["sensitivity"] if known else []
    rows = []
    for curve in analysis.curves:
        (low, high), basin = curve.interval, curve.basin
        ends = (basin.low, basin.high, basin.decades) if basin else (None, None, None)
        answer = (curve.lr, low, high, analysis.metric(curve.cost)) if math.isfinite(curve.cost) else (None,) * 4
        rows.append([curve.name, *answer, *ends, *([curve.sensitivity] if known else [])])
    page.table(heading, columns, rows, " ".join(analysis.explained()), strong=0)


def _trials_table(page: Page, sweep: SweepResults) -> None:
    pareto = ["Pareto front"] if len(sweep.objectives) > 1 else []
    columns = ["trial", "status", *pareto, *sweep.keys, *sweep.metrics, "steps", "seconds"]
    explained = any(trial.error for trial in sweep.trials)
    columns += ["why"] if explained else []
    rows = [_row(sweep, trial, explained) for trial in sweep.trials]
    best = next((place for place, trial in enumerate(sweep.trials) if trial is sweep.best), None)
    page.table("Trials", columns, rows, "A click on a heading sorts. A number leads to its run folder.", best)


def _row(sweep: SweepResults, trial: TrialResult, explained: bool) -> list[str | float | Cell | None]:
    given = [None if (value := trial.given.get(key)) is None else _cell(value) for key in sweep.keys]
    metrics = [trial.metrics.get(name) for name in sweep.metrics]
    number = Cell(str(trial.number), trial.number, f"{trial.folder.relative_to(sweep.folder)}/")
    pareto = ["yes" if trial in sweep.front else None] if len(sweep.objectives) > 1 else []
    ending = [trial.steps, trial.seconds, *([trial.why] if explained else [])]
    return [number, trial.status, *pareto, *given, *metrics, *ending]


def _cell(value: str | float | bool) -> str | float:
    return str(value).lower() if isinstance(value, bool) else value
