"""The parts of a chart: axes, lines, points, rules, bands; and a figure, which is a chart with words around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Spec: TypeAlias = dict[str, Any]
"""A Vega-Lite specification."""


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Args:
        title: with its unit.
        scale: `linear` or `log`; see `lrflow.display.scale_of`.
        ends: the first and the last value to show; None: all values are shown.
        percent: whether the values are shares.
        whole: whether only whole numbers are marked.
    """

    title: str
    scale: str = "linear"
    ends: tuple[float, float] | None = None
    percent: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """A line; values that are not finite leave a gap.

    Args:
        name: in the legend, which several lines may share.
        x, y: its points, with rising x.
        dash: what dashes mean, such as `planned`; empty: the line is solid.
        colour: empty: the next one of the palette, by the name.
        width: in pixels.
        opacity: from 0 to 1.
        shade: its value on the chart's bar of colours; None: it has a colour of its own.
        hint: further lines of its tooltip.
        errors: of each y: standard errors, drawn as bars.
        steps: `step-after` or `step-before`: the line goes in steps; empty: straight.
        hover: whether the mouse finds its points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dash: str = ""
    colour: str = ""
    width: float = 1.8
    opacity: float = 1.0
    shade: float | None = None
    hint: str = ""
    errors: Sequence[float] = ()
    steps: str = ""
    hover: bool = True


@dataclass(frozen=True)
class Points:
    """Points.

    Args:
        name: in the legend.
        x, y: of the points.
        hints: the tooltip of each; its first line is bold.
        labels: a text beside each point.
        shape: `circle`, `star`, `x`, or another shape of Vega's, such as `triangle-down`.
        size: in square pixels.
        colour: empty: the next one of the palette, by the name.
        opacity: from 0 to 1.
        shades: their values on the chart's bar of colours; None: a point has none, and is grey.
        filled: whether the shapes are filled.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    hints: Sequence[str] = ()
    labels: Sequence[str] = ()
    shape: str = "circle"
    size: float = 60
    colour: str = ""
    opacity: float = 0.8
    shades: Sequence[float | None] = ()
    filled: bool = True


@dataclass(frozen=True)
class Rule:
    """A line across the chart, such as the step of a finding or a bound.

    Args:
        name: in the legend, which several rules may share.
        at: x of a vertical line, y of a horizontal one.
        hint: further lines of its tooltip.
        colour: empty: the next one of the palette, by the name.
        dashed: whether it is dashed.
        width: in pixels.
        horizontal: whether it is a horizontal line.
    """

    name: str
    at: float
    hint: str = ""
    colour: str = ""
    dashed: bool = False
    width: float = 1.5
    horizontal: bool = False


@dataclass(frozen=True)
class Band:
    """A range of x, drawn behind everything else.

    Args:
        name: in the legend, beside what has the same name.
        low, high: its ends.
        colour: empty: the next one of the palette, by the name.
        opacity: from 0 to 1.
    """

    name: str
    low: float
    high: float
    colour: str = ""
    opacity: float = 0.15


Part: TypeAlias = Line | Points | Rule | Band
"""What a chart is made of."""


@dataclass(frozen=True)
class Scale:
    """An axis of parallel coordinates.

    Args:
        title: above the axis.
        values: one per line, numbers or texts; None: the line has none.
        log: whether the axis is logarithmic.
    """

    title: str
    values: Sequence[float | str | bool | None]
    log: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart with the words around it.

    Args:
        name: by which `lrflow plot` finds it.
        heading: above the chart.
        spec: the chart.
        caption: below the heading.
        height: in pixels.
        summary: what the chart shows, for readers who do not see it; empty: the chart's own description.
    """

    name: str
    heading: str
    spec: Spec
    caption: str = ""
    height: int = 420
    summary: str = field(default="", kw_only=True)
