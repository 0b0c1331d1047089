"""Charts as plain Vega-Lite specifications (Satyanarayan et al., 2017), which a page or `lrflow plot` draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lrflow.display import COLD_TO_HOT, CURVES, MUTED
from lrflow.reports.chart_layers import NUMBER, Layers
from lrflow.reports.chart_parts import Axis, Band, Line, Part, Points, Rule, Scale, Spec
from lrflow.wording import counted

MAX_LEGEND = 16  # names; more have no legend
MAX_TICKS = 6  # of an axis of parallel coordinates that has a text per value

_ZOOM: Spec = {
    "name": "zoom", "bind": "scales",
    "select": {
        "type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]", "clear": "dblclick",
        "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    },
}  # fmt: skip


def chart(x: Axis, y: Axis, parts: Iterable[Part], shade: str = "", legend: bool = True) -> Spec:
    """Return a chart of lines, points, rules and bands over the same axes.

    A click on a name in the legend highlights what has this name. The mouse finds the nearest point of a line. Long
    lines are thinned to the extremes of short stretches, so that every peak is still there, and the page says so.
    Shift and the wheel zoom x, Shift and a drag move it.

    Args:
        x: the horizontal axis.
        y: the vertical axis.
        parts: bands lie behind lines, lines behind rules, rules behind points; otherwise the first is drawn first.
        shade: title of the bar of colours, from cold to hot over the logarithm, for parts that have shades.
        legend: whether there is a legend, if it has more than one name and at most `MAX_LEGEND`.
    """
    parts = list(parts)
    lines = [part for part in parts if isinstance(part, Line)]
    colours = _colours(parts)
    entries = _entries(parts, colours) if legend else []
    entries = entries if 1 < len(entries) <= MAX_LEGEND else []
    named = [entry["name"] for entry in entries if entry["name"] in colours]
    drawn_at = [part.x for part in parts if isinstance(part, Line | Points)]
    x = replace(x, whole=all(float(at).is_integer() for places in drawn_at for at in places))
    layers = Layers(
        x, y, colours, named, shade, _shades(parts), 12 if any(isinstance(part, Points) for part in parts) else 0
    )
    rows, drawn, note = layers.lines(lines)
    drawn = [*layers.bands([part for part in parts if isinstance(part, Band)]), *drawn]
    drawn += [layers.error_bars(line) for line in lines if any(line.errors)]
    drawn += layers.rules(part for part in parts if isinstance(part, Rule))
    for part in parts:
        drawn += layers.points(part) if isinstance(part, Points) and len(part.x) else []
    if drawn:
        drawn[0]["params"] = [*drawn[0].get("params", []), _ZOOM]
    return {
        "description": _description(x, y, parts),
        "usermeta": {"legend": entries, "note": note},
        "params": [{"name": "chosen", "value": []}],
        "data": {"values": rows},
        "layer": drawn,
    }


def bars(shares: Mapping[str, float], title: str, percent: bool = False, colour: str = CURVES[0]) -> Spec:
    """Return a chart of one horizontal bar per name, in this order.

    Args:
        shares: the length of each bar by its name.
        title: of the axis.
        percent: whether they are shares.
        colour: of the bars.
    """
    shape = ".0%" if percent else ".4~g"
    rows = [{"name": name, "value": value} for name, value in shares.items()]
    name = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 260}}
    label = f"{'datum.value > 1 ? null : ' * percent}format(datum.value, '{shape}')"
    axis = {"labelExpr": label, "tickCount": {"expr": "ceil(width / 90)"}}
    value = {"field": "value", "type": "quantitative", "title": title, "axis": axis}
    top = {"scale": {"domain": [min(0.0, *shares.values()), 1.15 * max(shares.values(), default=1.0)], "nice": False}}
    text = {"field": "value", "type": "quantitative", "format": shape}
    tooltip = [{**name, "title": "name"}, {**text, "format": ".1%" if percent else NUMBER, "title": title}]
    return {
        "description": "; ".join(f"{each}: {_text(size, percent)}" for each, size in shares.items()),
        "data": {"values": rows},
        "encoding": {"y": name, "x": {**value, **top}},
        "layer": [
            {"mark": {"type": "bar", "color": colour, "height": {"band": 0.65}}, "encoding": {"tooltip": tooltip}},
            {"mark": {"type": "text", "align": "left", "dx": 5}, "encoding": {"text": text}},
        ],
    }


def parallel(scales: Sequence[Scale], hints: Sequence[str], falling: bool = False) -> Spec:
    """Return parallel coordinates: a line per hint through its value on each axis.

    The last axis gives the colours, from cold for its lowest value to hot. A drag over axes selects the lines that
    pass through the dragged range.

    Args:
        scales: the axes; the values of the last are numbers.
        hints: the tooltip of each line.
        falling: whether the highest value is cold instead.
    """
    last = scales[-1]
    rows, marks = [], []
    for scale in scales:
        places, ticks = _placed(scale)
        shades = zip(last.values, hints, strict=True)
        rows += [
            {"axis": scale.title, "place": place, "line": at, "shade": shade, "hint": hint}
            for at, (place, (shade, hint)) in enumerate(zip(places, shades, strict=True))
            if place is not None
        ]
        marks += [{"axis": scale.title, "place": place, "text": text} for place, text in ticks]
    order = [scale.title for scale in scales]
    across = {
        "field": "axis", "type": "nominal", "sort": order, "title": None, "scale": {"padding": 0.35},
        "axis": {"orient": "top", "labelAngle": 0, "grid": True, "domain": False, "ticks": False, "labelPadding": 10},
    }  # fmt: skip
    up = {"field": "place", "type": "quantitative", "axis": None, "scale": {"domain": [0, 1]}}
    colours = [*reversed(COLD_TO_HOT)] if falling else [*COLD_TO_HOT]
    shade = {
        "field": "shade", "type": "quantitative", "title": last.title,
        "scale": {"type": "log" if last.log else "linear", "range": colours, "nice": False},
        "legend": None,
    }  # fmt: skip
    missed = (
        "isDefined(drag.place) && isDefined(drag.axis) && indexof(drag.axis, datum.axis) >= 0"
        " && !inrange(datum.place, drag.place) ? 1 : 0"
    )
    passed = {"condition": {"test": "datum.missed > 0", "value": 0.06}, "value": 0.75}
    drag = {
        "name": "drag", "select": {"type": "interval", "mark": {"fill": MUTED, "fillOpacity": 0.15, "stroke": MUTED}}
    }  # fmt: skip
    return {
        "description": f"{counted(len(hints), 'line')} over {', '.join(order)}.",
        "data": {"values": rows},
        "encoding": {"x": across, "y": up},
        "layer": [
            {
                "transform": [
                    {"calculate": missed, "as": "miss"},
                    {"joinaggregate": [{"op": "max", "field": "miss", "as": "missed"}], "groupby": ["line"]},
                ],
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"detail": {"field": "line"}, "color": shade, "opacity": passed},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 34, "opacity": 0.8},
                "encoding": {"color": shade, "tooltip": {"field": "hint"}},
                "params": [drag],
            },
            {
                "data": {"values": marks},
                "mark": {"type": "text", "align": "right", "dx": -8, "fontSize": 11},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def _placed(scale: Scale) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return the place of each value on an axis of parallel coordinates, from 0 to 1, and the texts beside it."""
    known = [value for value in scale.values if value is not None]
    if any(isinstance(value, str | bool) for value in known):
        names = sorted({*map(_word, known)})
        at = {name: (place + 0.5) / len(names) for place, name in enumerate(names)}
        return [None if value is None else at[_word(value)] for value in scale.values], [(at[n], n) for n in names]
    numbers = [float(value) for value in known]
    low, high = min(numbers), max(numbers)

    def place(value: float) -> float:
        if high == low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if scale.log else (value - low) / (high - low)

    ticks = sorted({*numbers}) if len({*numbers}) <= MAX_TICKS else [low, high]
    if len(ticks) == 2 < len({*numbers}):
        inner = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1) if scale.log else ()
        decades = [10.0**decade for decade in inner if 0.08 < place(10.0**decade) < 0.92]
        ticks = [low, *(decades or [low + share * (high - low) for share in (0.25, 0.5, 0.75) if not scale.log]), high]
    places = [None if value is None else place(float(value)) for value in scale.values]
    return places, [(place(tick), f"{tick:.3g}") for tick in ticks]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _colours(parts: Sequence[Part]) -> dict[str, str]:
    """Return the colour of each name: its own, or the next one of the palette."""
    given = {part.name: part.colour for part in reversed(parts) if part.colour}
    names = dict.fromkeys(part.name for part in parts if not _is_shaded(part))
    if _shades(parts):
        return {name: given.get(name, MUTED) for name in names}
    free = [colour for colour in CURVES if colour not in given.values()] or list(CURVES)
    others = [name for name in names if name not in given]
    return {name: given.get(name) or free[others.index(name) % len(free)] for name in names}


def _entries(parts: Sequence[Part], colours: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the entries of the legend: a name, its colour, and how it is drawn."""
    shown: dict[str, dict[str, str]] = {}
    for part in parts:
        if part.name and part.name in colours and not isinstance(part, Band):
            drawn = part.shape if isinstance(part, Points) else "line"
            if getattr(part, "dashed", False):
                drawn = "dash"
            shown.setdefault(part.name, {"name": part.name, "colour": colours[part.name], "drawn": drawn})
    dashes = dict.fromkeys(part.dash for part in parts if isinstance(part, Line) and part.dash)
    return [*shown.values(), *({"name": dash, "colour": MUTED, "drawn": "dash"} for dash in dashes)]


def _shades(parts: Sequence[Part]) -> list[float]:
    lines = [part.shade for part in parts if isinstance(part, Line)]
    points = [shade for part in parts if isinstance(part, Points) for shade in part.shades]
    return [shade for shade in (*lines, *points) if shade is not None]


def _is_shaded(part: Part) -> bool:
    return bool(getattr(part, "shades", ())) or getattr(part, "shade", None) is not None


def _text(value: float, percent: bool = False) -> str:
    if percent:
        return f"{value:.0%}"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def _description(x: Axis, y: Axis, parts: Sequence[Part]) -> str:
    """Return what a chart shows in sentences: where each line starts and ends, its extremes, and each mark."""
    found = [f"{y.title} against {x.title}."]
    lines = [part for part in parts if isinstance(part, Line) and part.hover]
    for line in lines[:MAX_LEGEND]:
        known = [(a, b) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            values = [value for _, value in known]
            name = ", ".join(filter(None, (line.name, line.dash))) or "line"
            found.append(
                f"{name}: from {_text(start)} at {_text(first)} to {_text(end)} at {_text(last)}, "
                f"lowest {_text(min(values))}, highest {_text(max(values))}."
            )
    if len(lines) > MAX_LEGEND:
        found.append(f"And {counted(len(lines) - MAX_LEGEND, 'more line')}.")
    for part in parts:
        if isinstance(part, Points) and len(part.x):
            ends = f"{_text(min(part.y))} to {_text(max(part.y))}"
            found.append(f"{counted(len(part.x), 'point')} {part.name}: {ends}.".replace("  ", " "))
    marks: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part, Rule):
            marks.setdefault(part.name, []).append(_text(part.at))
    found += [f"{name} at {', '.join(places[:8])}." for name, places in marks.items()]
    return " ".join(found)
