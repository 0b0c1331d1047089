"""The figures of a run: plan and LR, loss and metrics, updates and norms of its groups, sharpness, throughput."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lrflow.columns import NOISE_SCALE, SAMPLES, STEPS, TOKENS
from lrflow.display import COLD_TO_HOT, CURVES, MUTED, scale_of
from lrflow.health.sharpness_record import sharpness_in
from lrflow.history import Series
from lrflow.metric import TRAIN_LOSS, is_test, is_validation
from lrflow.plan.table import sample_steps
from lrflow.plan.values import BATCH
from lrflow.reports.chart_layers import thinned
from lrflow.reports.chart_parts import Axis, Figure, Line, Part, Points, Rule
from lrflow.reports.charts import chart
from lrflow.reports.run_course import RESUMED, SHOWN, Course, Event
from lrflow.schedules.time import Floats
from lrflow.wording import counted

POINTS = 500  # of a line
FEW = 150  # points of which no smoothed line is drawn
SMOOTH = 100  # points of a smoothed line
MAX_METRICS = 8  # charts of metrics besides that of the loss
MAX_SCALARS = 12  # charts of scalars
LR_DECADES = 2  # below the lowest peak that a logarithmic axis shows
STEP = Axis("optimizer step")

FOUND = COLD_TO_HOT[-1]  # the colour of what monitors found
_EVENTS = {"rollback": CURVES[5], "cooldown": CURVES[4], "feedback": CURVES[2], RESUMED: MUTED}


def figures(course: Course) -> list[Figure]:
    """Return the figures of a run, without those for which it has no data."""
    makers = (_lr, _moving, _losses, _metrics, _groups, _clip, _noise, _sharpness, _throughput)
    return [figure for make in makers for figure in make(course)]


def watched_figures(course: Course) -> list[Figure]:
    """Return the figures of a run that is going on: loss, LR, metrics and throughput."""
    return [figure for make in (_losses, _lr, _moving, _metrics, _throughput) for figure in make(course)]


def line(name: str, series: Series, **look: Any) -> Line:
    """Return a series as a line of at most about `POINTS` points, with its extremes."""
    kept = thinned(series.steps, series.values, POINTS)  # type: ignore[arg-type]
    return Line(name, series.steps[kept].tolist(), series.values[kept].tolist(), **look)


def lines_of_loss(name: str, series: Series, **look: Any) -> list[Line]:
    """Return a noisy series as a faint line and a smoothed one; a short series as one line."""
    if len(series) <= FEW:
        return [line(name, series, **look)]
    return [
        line(name, series, width=1, opacity=0.3, hover=False, **look),
        line(name, series.smoothed(SMOOTH), hint="mean of a stretch of steps", **look),
    ]


def value_axis(title: str, lines: Iterable[Line]) -> Axis:
    """Return the axis of values: logarithmic if they are positive and differ widely."""
    return Axis(title, scale_of(value for one in lines for value in one.y))


def lr_axis(lines: Iterable[Line], peaks: Iterable[float]) -> Axis:
    """Return the axis of LRs: logarithmic if the peaks of the groups differ widely, otherwise from 0."""
    highest = [peak for peak in peaks if peak > 0]
    if scale_of(highest) == "linear":
        top = max((value for one in lines for value in one.y if math.isfinite(value)), default=0.0)
        return Axis("learning rate", ends=(0.0, top) if top > 0 else None)
    lowest = min((value for one in lines for value in one.y if value > 0), default=min(highest))
    low = max(lowest, 10.0**-LR_DECADES * min(highest))
    return Axis("learning rate", "log", (low / 1.3, 1.3 * max(highest)))


def rules(events: Iterable[Event]) -> list[Rule]:
    """Return events as marks on the axis of steps; what monitors found is dashed."""
    return [
        Rule(one.kind, one.step, one.text, FOUND if one.found else _EVENTS.get(one.kind, ""), one.found)
        for one in events
    ]


def _lr(course: Course) -> Iterator[Figure]:
    plan, history = course.run.plan, course.history
    shown = [(one.label(), one.names[0], plan.trainable[one.column].lr) for one in course.lines] if plan else []
    shown = shown or [(group, group, history[f"lr_planned/{group}"].values.max(initial=0)) for group in course.groups]
    drawn: list[Line] = []
    deviates = False
    for label, group, peak in shown:
        used, planned = history[f"lr/{group}"], history[f"lr_planned/{group}"]
        if plan:
            steps = sample_steps(plan, POINTS)
            planned = Series(steps, plan.lr(steps)[:, plan.names.index(group)])
        look = {"shade": peak} if len(shown) > len(CURVES) and peak > 0 else {}
        expected = history[f"lr_planned/{group}"]
        same = len(used) == len(expected) and np.allclose(used.values, expected.values, rtol=1e-4, atol=0)
        deviates |= bool(len(used)) and not same
        if len(planned) and not (same and len(used) and used.steps[-1] >= planned.steps[-1]):
            drawn.append(line(label, planned, dash="planned", width=1.3, **look))
        if len(used):
            drawn.append(line(label, used, **look))
    if not drawn:
        return
    has_used = any(not one.dash for one in drawn)
    caption = "Dashed: planned. Solid: used by the optimizer." if any(one.dash for one in drawn) else ""
    if has_used and not deviates:
        caption = "Each step used the planned LR."
        caption += " Dashed: the rest of the plan." if any(one.dash for one in drawn) else ""
    elif not has_used:
        caption = "The plan; no step is recorded."
    if (count := len(course.all_groups)) > SHOWN and len(shown) == SHOWN:
        caption += f" {SHOWN} of the curves of {count:,} groups."
    spec = chart(STEP, lr_axis(drawn, (peak for *_, peak in shown)), [*drawn, *rules(course.events)], "peak LR")
    yield Figure("lr", "Learning rate: planned and used", spec, caption.strip(), 400)


def _moving(course: Course) -> Iterator[Figure]:
    """Draw the batch if it changes, each scalar of the plan and each scheduled setting, as planned and as recorded."""
    if not (plan := course.run.plan):
        return
    steps = sample_steps(plan, POINTS)
    drawings: dict[str, list[tuple[str, str, Floats]]] = {
        one.column: [(one.title, one.column, one(steps, plan.horizon))] for one in plan.scalars[:MAX_SCALARS]
    }
    if plan.horizon.batch is not None:
        drawings = {BATCH: [("examples per step", BATCH, plan.horizon.batch.sizes_at(steps))]} | drawings
    for setting, columns in plan.scheduled_settings:
        group = next((name for name in course.groups if plan.names.index(name) in columns), plan.names[columns[0]])
        label = group if len(columns) == 1 else f"{group} and {counted(len(columns) - 1, 'other group')}"
        row = (label, f"{setting.name}/{group}", setting(steps, plan.horizon))
        drawings.setdefault(setting.name, []).append(row)
    for column, each in drawings.items():
        title = column.rpartition("/")[2].replace("_", " ")
        drawn: list[Line] = []
        for place, (label, recorded, planned) in enumerate(each, 1):
            look = {"shade": place} if len(each) > len(CURVES) else {}
            used = course.history[recorded]
            if not len(used) or used.steps[-1] < steps[-1]:
                drawn.append(line(label, Series(steps, planned), dash="planned", width=1.3, **look))
            if len(used):
                drawn.append(line(label, used, **look))
        caption = "Dashed: planned. Solid: recorded." if any(one.dash for one in drawn) else "Each step used the plan."
        spec = chart(STEP, Axis(title), [*drawn, *rules(course.events)], "group, from first to last")
        yield Figure(f"plan-{column.replace('/', '-')}", f"{title}: planned and used", spec, caption, 240)


def _losses(course: Course) -> Iterator[Figure]:
    """Draw the training loss with the losses of validations, and what rollbacks replaced."""
    parts: list[Part] = []
    for abandoned in course.abandoned:
        if TRAIN_LOSS in abandoned:
            look = {"colour": MUTED, "width": 1, "opacity": 0.6}
            parts.append(line("replaced by rollbacks", abandoned[TRAIN_LOSS], **look))
    names = [name for name in course.metrics if name.partition("/")[2] == "loss" and not is_test(name)]
    for name in sorted(names, key=lambda name: name != TRAIN_LOSS):
        series = course.history[name]
        if is_validation(name):
            parts += _measured(course, name, series)
        else:
            parts += lines_of_loss(name, series)
    drawn = [part for part in parts if isinstance(part, Line)]
    if not any(one.x for one in drawn):
        return
    spec = chart(STEP, value_axis("loss", drawn), [*parts, *rules(course.events)])
    caption = "Star: the best validation." if any(isinstance(part, Points) for part in parts) else ""
    yield Figure("loss", "Loss", spec, caption, 400)


def _metrics(course: Course) -> Iterator[Figure]:
    """Draw each other metric, of training and validation together."""
    found: dict[str, list[str]] = {}
    for name in course.metrics:
        ending = name.partition("/")[2] or name
        if ending != "loss" and len(course.history[name]) > 1 and not is_test(name):
            found.setdefault(ending, []).append(name)
    for ending, names in list(found.items())[:MAX_METRICS]:
        parts = [part for name in names for part in _measured(course, name, course.history[name])]
        drawn = [part for part in parts if isinstance(part, Line)]
        heading = names[0] if len(names) == 1 else ending
        spec = chart(STEP, value_axis(heading, drawn), [*parts, *rules(course.events)])
        caption = "Star: the best value." if any(map(course.knows_better, names)) else ""
        yield Figure(f"metric-{ending}", heading, spec, caption, 300)


def _measured(course: Course, name: str, series: Series) -> list[Part]:
    """Return the line of a metric, its points if they are few, and its best value where it is known what is better."""
    parts: list[Part] = [line(name, series)] if is_validation(name) else [*lines_of_loss(name, series)]
    if len(series) <= FEW // 3:
        parts = [replace(part, hover=False) for part in parts if isinstance(part, Line)]
        parts.append(Points(name, series.steps.tolist(), series.values.tolist(), size=26))
    better = len(series) > 1 and course.knows_better(name)
    if better and (best := course.best(name)) and best.step is not None:
        hint = f"best {name}\n{best.value:.6g} at {course.at(best.step)}"
        parts.append(Points(name, [best.step], [best.value], [hint], shape="star", size=170, opacity=1))
    return parts


def _groups(course: Course) -> Iterator[Figure]:
    """Draw update ratios and norms of each group."""
    kinds = {
        "update_ratio": ("Update ratio", "update / weights", "Norm of the update, divided by that of the weights."),
        "grad_norm": ("Gradient norm", "norm of the gradient", "Before clipping."),
        "weight_norm": ("Weight norm", "norm of the weights", ""),
    }
    count = len(course.all_groups)
    some = f" {SHOWN} of {count:,} groups." if count > SHOWN else ""
    for kind, (heading, title, caption) in kinds.items():
        drawn = [
            line(group, series, **({"shade": place} if len(course.groups) > len(CURVES) else {}))
            for place, group in enumerate(course.groups, 1)
            if len(series := course.history[f"{kind}/{group}"])
        ]
        if drawn:
            spec = chart(STEP, value_axis(title, drawn), [*drawn, *rules(course.events)], "group, from first to last")
            yield Figure(kind.replace("_", "-"), f"{heading} per group", spec, f"{caption}{some}".strip(), 320)
    total = course.history["train/grad_norm"]
    if len(total) and not any(course.history[f"grad_norm/{group}"].steps.size for group in course.groups):
        drawn = lines_of_loss("all parameters", total)
        spec = chart(STEP, value_axis("norm of the gradient", drawn), [*drawn, *rules(course.events)])
        yield Figure("grad-norm", "Gradient norm", spec, "Before clipping.", 320)


def _clip(course: Course) -> Iterator[Figure]:
    factor = course.history["clip/factor"]
    if not (factor.values < 1).any():
        return
    drawn = [line("factor on the gradient", factor)]
    share, skipped = float((factor.values < 1).mean()), int((factor.values == 0).sum())
    caption = f"{share:.1%} of the steps were clipped; 0: the step was left out ({skipped:,} steps)."
    yield Figure("clip", "Clipping", chart(STEP, Axis("factor", ends=(0, 1)), drawn), caption, 240)


def _noise(course: Course) -> Iterator[Figure]:
    if len(series := course.history[NOISE_SCALE]):
        drawn = [line("gradient noise scale", series)]
        spec = chart(STEP, value_axis("examples", drawn), drawn)
        caption = "Examples per step up to which a larger batch pays (McCandlish et al., 2018)."
        yield Figure("noise-scale", "Gradient noise scale", spec, caption, 280)


def _sharpness(course: Course) -> Iterator[Figure]:
    record = sharpness_in(course.history)
    if record is None:
        return
    measured = line("sharpness", Series(record.steps, record.top), colour=CURVES[0], hover=False)
    limits = np.where(np.isfinite(record.bound), record.bound, np.nan)  # at an LR of 0 any sharpness is stable
    limit = line("stability bound", Series(record.lr_steps, limits), colour=CURVES[1])
    lowest, tops = min(measured.y), [*measured.y, *(value for value in limit.y if value > 0)]
    highest = 3 * max(max(measured.y), min(tops))
    axis = Axis("sharpness", ends=(min(lowest, 0.0), highest))
    if lowest > 0:
        axis = Axis("sharpness", "log", (min(tops) / 1.5, highest))
    points = Points("sharpness", measured.x, measured.y, size=26, colour=CURVES[0])
    spec = chart(STEP, axis, [limit, measured, points, *rules(course.events)])
    most = int(record.share.argmax())
    share = f"{100 * record.share[most]:.3g}% of the bound, at {course.at(int(record.steps[most]))}"
    yield Figure("sharpness", "Sharpness and its bound", spec, f"At most {share}. Above it, steps overshoot.", 320)


def _throughput(course: Course) -> Iterator[Figure]:
    names: Mapping[str, str] = {TOKENS: "tokens per second", SAMPLES: "examples per second", STEPS: "steps per second"}
    name = next((name for name in names if len(course.history[name])), None)
    if name is not None and len(course.history[name]) > 1:
        drawn = [line(names[name], course.history[name])]
        caption = "Of all devices together, without validations and checkpoints."
        yield Figure("throughput", "Throughput", chart(STEP, value_axis(names[name], drawn), drawn), caption, 260)
