"""The plotly figures on the page of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from lrflow.display import COLD_TO_HOT, CURVES, MUTED, scale_of
from lrflow.reports.sweep_matplotlib import MAX_NUMBERED, interpolate_line, rate_colours
from lrflow.sweeps.analysis import Analysis, LRCurve
from lrflow.sweeps.importance import Importance, LearningCurve
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none

MAX_LEGEND = 12  # curves; more have no legend
NARROW = 30  # ratio of the highest to the lowest LR; a narrower axis has ticks between decades
MAX_TICKS = 6  # of an axis of parallel coordinates that has a tick per value


def rates_figure(analysis: Analysis) -> go.Figure:
    """Draw the metric against the LR: trials (dots), means (lines, thick within the basin), best LRs (stars).

    Pruned trials are grey, at their last metric; diverged trials are crosses at the worst value of the others.
    """
    figure = go.Figure()
    costs = [point.cost for curve in analysis.curves for point in curve.points if math.isfinite(point.cost)]
    pruned = analysis.pruned_points()
    values = [*map(analysis.metric, costs), *(value for _, value, _ in pruned)]
    scale = scale_of(values)
    worst = analysis.metric(max(map(analysis.metric, values), default=0.0))
    for place, curve in enumerate(analysis.curves):
        _add_curve(figure, analysis, curve, CURVES[place % len(CURVES)], scale, worst)
    best = analysis.curves[0]
    if best.fitted():
        low, high = best.interval
        figure.add_vrect(low, high, fillcolor=CURVES[0], opacity=0.12, line_width=0, layer="below")
    if pruned:
        figure.add_scatter(
            x=[lr for lr, _, _ in pruned],
            y=[value for _, value, _ in pruned],
            mode="markers",
            marker={"color": MUTED, "size": 9, "symbol": "triangle-down-open", "line": {"width": 1.5}},
            name="pruned",
            customdata=[hover_text(analysis.sweep, trial) for _, _, trial in pruned],
            hovertemplate="%{customdata}<extra></extra>",
        )
    rates = [point.lr for curve in analysis.curves for point in curve.points] + [lr for lr, _, _ in pruned]
    narrow = max(rates) / min(rates) < NARROW
    marks = _ticks("log") if narrow else {"type": "log", "dtick": 1, "minor": {"dtick": "L1", "showgrid": False}}
    figure.update_xaxes(title=analysis.lr_key, **marks)
    figure.update_yaxes(title=analysis.sweep.metric, **_ticks(scale))
    figure.update_layout(hovermode="closest", showlegend=1 < len(analysis.curves) + bool(pruned) <= MAX_LEGEND)
    return figure


def front_figure(sweep: SweepResults) -> go.Figure:
    """Draw two objectives against each other: the Pareto front as a line, other trials faint, coloured by their LR."""
    across, up = sweep.objectives
    shades = rate_colours([trial.rate(sweep.lr_key) for trial in sweep.ended])
    colours = {trial.number: colour for trial, colour in zip(sweep.ended, shades, strict=True)}
    front = sorted(sweep.front, key=lambda trial: trial.metrics[across.name])
    others = [trial for trial in sweep.ended if trial not in front]
    figure = go.Figure()
    # The step function that bounds the dominated region.
    line = {"color": MUTED, "width": 1.5, "shape": "hv" if across.mode == "min" else "vh"}
    x, y = ([trial.metrics[each.name] for trial in front] for each in sweep.objectives)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    named = len(front) <= MAX_NUMBERED
    for name, trials, size, opacity in (("others", others, 8, 0.45), ("Pareto front", front, 13, 1.0)):
        figure.add_scatter(
            x=[trial.metrics[across.name] for trial in trials],
            y=[trial.metrics[up.name] for trial in trials],
            mode="markers+text" if trials is front and named else "markers",
            marker={"color": [colours[trial.number] for trial in trials], "size": size, "opacity": opacity},
            text=[str(trial.number) for trial in trials],
            textposition="top center",
            name=name,
            customdata=[hover_text(sweep, trial) for trial in trials],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    for update, each in ((figure.update_xaxes, across), (figure.update_yaxes, up)):
        values = [trial.metrics[each.name] for trial in sweep.ended]
        update(title=str(each), **_ticks(scale_of(values)))
    figure.update_layout(hovermode="closest")
    return figure


def learning_figure(
    sweep: SweepResults, key: str | None, column: str, curves: Sequence[LearningCurve], top: float
) -> go.Figure:
    """Draw the learning curves; higher LRs have warmer colours.

    Args:
        sweep: of the trials.
        key: of the swept LR; None: no LR was swept.
        column: the name of the values.
        curves: of the trials.
        top: the upper end of the axis; infinite: all values are visible.
    """
    rates: list[Value] = [curve.trial.given.get(key or "") for curve in curves]
    figure = go.Figure()
    for curve, colour in zip(curves, rate_colours(rates) if key else _cycle_colours(len(curves)), strict=True):
        hover = f"<b>%{{y:.4g}}</b> at step %{{x:.0f}}<br>{hover_text(sweep, curve.trial)}<extra></extra>"
        line = {"color": colour, "width": 1.6}
        figure.add_scatter(
            x=curve.steps, y=curve.values, mode="lines", line=line, hovertemplate=hover, showlegend=False
        )
    positions = [math.log10(value) for rate in rates if (value := number_or_none(rate)) is not None and value > 0]
    if key and positions and max(positions) > min(positions):
        _add_colour_bar(figure, min(positions), max(positions))
    values = [value for curve in curves for value in curve.values]
    kind = scale_of(values)
    low, high = min(values, default=0.0), min(max(values, default=1.0), top)
    if high < max(values, default=1.0):
        room = (0.1 if kind == "linear" else 0.05) * (high - low)
        ends = [math.log10(low), math.log10(high)] if kind == "log" else [low - room, high]
        figure.update_yaxes(range=ends)
    figure.update_yaxes(title=column, **_ticks(kind))
    figure.update_xaxes(title="optimizer step")
    figure.update_layout(hovermode="closest")
    return figure


def importance_figure(found: Importance) -> go.Figure:
    """Draw the importance of each key as a bar."""
    keys = list(reversed(found.shares))
    shares = [found.shares[key] for key in keys]
    bars = go.Bar(
        x=shares,
        y=keys,
        orientation="h",
        marker_color=CURVES[0],
        text=[f"{share:.0%}" for share in shares],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_xaxes(tickformat=".0%", range=[0, 1.2 * max(shares)], title="share of the variance")
    return figure


def parallel_figure(sweep: SweepResults, keys: Sequence[str]) -> go.Figure:
    """Draw each trial as a line through its values, coloured by its metric; a range of an axis can be selected."""
    dimensions = [_dimension(key, [trial.given.get(key) for trial in sweep.ended]) for key in keys]
    for objective in sweep.objectives:
        values = [trial.metrics[objective.name] for trial in sweep.ended]
        dimensions.append(_axis(objective.name, values, scale_of(values) == "log"))
    metrics = [trial.metrics[sweep.metric] for trial in sweep.ended]
    shades = np.log10(metrics) if scale_of(metrics) == "log" else np.array(metrics)
    scale = [list(pair) for pair in zip(np.linspace(0, 1, len(COLD_TO_HOT)).tolist(), COLD_TO_HOT, strict=True)]
    line = {"color": shades, "colorscale": scale, "reversescale": sweep.mode == "max"}
    return go.Figure(
        go.Parcoords(dimensions=dimensions, line=line, labelangle=0), layout={"margin": {"l": 70, "r": 60, "t": 50}}
    )


def hover_text(sweep: SweepResults, trial: TrialResult) -> str:
    """Return the hover text of a trial: its number, values and metrics, and why it did not finish."""
    lines = [f"<b>trial {trial.number}</b>"]
    given = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.given.items()}
    lines += [f"{key} = {value}" for key, value in given.items() if value is not None]
    lines += [f"{name} {trial.metrics[name]:.4g}" for name in sweep.metrics[:4] if name in trial.metrics]
    lines += [(trial.reason or trial.status).partition("\n")[0]] * (trial.status != "finished")
    return "<br>".join(line if line.startswith("<b>") else escape(line) for line in lines)


def _add_curve(figure: go.Figure, analysis: Analysis, curve: LRCurve, colour: str, scale: str, worst: float) -> None:
    sweep = analysis.sweep
    ended = [point for point in curve.points if math.isfinite(point.cost)]
    fitted = [(lr, analysis.metric(cost)) for lr, cost in curve.fitted()]
    means = [(point.lr, analysis.metric(point.cost)) for point in ended]
    errors = [point.error if point.error > 0 else 0.0 for point in ended]
    inside = curve.inside_basin()
    thick = list(zip(inside, interpolate_line(inside, means, scale), strict=True))
    for line, style in (
        (means, {"color": colour, "width": 2}),
        (thick, {"color": _faint(colour), "width": 10}),
        (fitted, {"color": colour, "width": 1.5, "dash": "dot"}),
    ):
        rates, values = [lr for lr, _ in line], [value for _, value in line]
        bars = (
            {"type": "data", "array": errors, "thickness": 1.5, "width": 4} if line is means and any(errors) else None
        )
        figure.add_scatter(
            x=rates, y=values, mode="lines", line=style, hoverinfo="skip", showlegend=False, error_y=bars
        )
    finite = [(point.lr, trial) for point in curve.points for trial in point.trials if math.isfinite(sweep.cost(trial))]
    figure.add_scatter(
        x=[lr for lr, _ in finite],
        y=[trial.metrics[sweep.metric] for _, trial in finite],
        mode="markers",
        marker={"color": colour, "size": 8, "opacity": 0.75},
        name=curve.name or "done",
        customdata=[hover_text(sweep, trial) for _, trial in finite],
        hovertemplate="%{customdata}<extra></extra>",
    )
    diverged = [(point.lr, trial) for point in curve.points for trial in point.trials if sweep.cost(trial) == math.inf]
    if diverged:
        figure.add_scatter(
            x=[lr for lr, _ in diverged],
            y=[worst] * len(diverged),
            mode="markers",
            marker={"color": colour, "size": 9, "symbol": "x"},
            customdata=[f"{hover_text(sweep, trial)}<br>diverged" for _, trial in diverged],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    if curve.minimum:
        hover = f"<b>{escape(curve.name)} {curve.lr:.3g}</b><br>{curve.interval_text}<extra></extra>"
        star = {"color": colour, "size": 15, "symbol": "star", "line": {"color": "white", "width": 1}}
        best = (
            min(fitted, key=lambda pair: abs(math.log(pair[0] / curve.lr)))[1]
            if fitted
            else analysis.metric(curve.cost)
        )
        figure.add_scatter(x=[curve.lr], y=[best], mode="markers", marker=star, hovertemplate=hover, showlegend=False)


def _add_colour_bar(figure: go.Figure, low: float, high: float) -> None:
    """Add a colour bar above the figure, from the lowest LR to the highest."""
    decades = range(math.ceil(low), math.floor(high) + 1)
    bar = {
        "orientation": "h", "thickness": 8, "len": 0.8, "outlinewidth": 0, "x": 0, "xanchor": "left", "y": 1.0,
        "yanchor": "bottom", "tickvals": [*decades], "ticktext": [f"{10.0**decade:g}" for decade in decades],
        "tickangle": 0,
    }  # fmt: skip
    marker = {"color": [low, high], "colorscale": [*COLD_TO_HOT], "showscale": True, "colorbar": bar, "opacity": 0}
    figure.add_scatter(
        x=[None, None], y=[None, None], mode="markers", marker=marker, hoverinfo="skip", showlegend=False
    )


def _dimension(key: str, values: Sequence[Value]) -> dict[str, object]:
    """Return an axis of parallel coordinates for a swept key."""
    numbers = [number_or_none(value) for value in values]
    known = [value for value in numbers if value is not None]
    if len(known) == len(values):
        return _axis(key, known, min(known) > 0 and max(known) / min(known) > 10)
    names = sorted({str(value) for value in values})
    places = [names.index(str(value)) for value in values]
    return {"label": key, "values": places, "tickvals": [*range(len(names))], "ticktext": names}


def _axis(label: str, values: Sequence[float], logarithmic: bool) -> dict[str, object]:
    if not logarithmic:
        levels = sorted({*values})
        marked = (
            {"tickvals": levels, "ticktext": [f"{level:.4g}" for level in levels]} if len(levels) <= MAX_TICKS else {}
        )
        return {"label": label, "values": values, "tickformat": ".4~g", **marked}
    positions = np.log10(values)
    low, high = float(positions.min()), float(positions.max())
    decades = [float(decade) for decade in range(math.ceil(low), math.floor(high) + 1)]
    marks = decades if len(decades) > 1 else [low, high]
    return {"label": label, "values": positions, "tickvals": marks, "ticktext": [f"{10.0**mark:.3g}" for mark in marks]}


def _ticks(scale: str) -> dict[str, object]:
    """Return the settings of an axis; a logarithmic one has ticks at 1, 2 and 5."""
    return {"type": scale, "dtick": "D2", "tickformat": "~g"} if scale == "log" else {"type": scale}


def _cycle_colours(count: int) -> list[str]:
    return [CURVES[place % len(CURVES)] for place in range(count)]


def _faint(colour: str) -> str:
    return f"rgba({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))}, 0.28)"
