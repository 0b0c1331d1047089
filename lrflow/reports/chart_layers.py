"""The Vega-Lite layers that draw the parts of a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrflow.display import COLD_TO_HOT, MUTED
from lrflow.reports.chart_parts import Axis, Band, Line, Points, Rule, Spec

MAX_DRAWN = 3000  # points of all lines of a chart
MAX_HOVERED = 1500  # points of all lines of a chart of which the mouse finds the nearest
FAINT = 0.1  # opacity of what is not chosen in the legend
NUMBER = ".6~g"

_EDGE = 2  # pixels of padding at least, so that a line along the edge, such as an LR of 0, is not cut to half its width

_DASHED = [5, 4]
_SHAPES = {
    "star": "M0,-1L.225,-.309L.951,-.309L.363,.118L.588,.809L0,.382L-.588,.809L-.363,.118L-.951,-.309L-.225,-.309Z",
    "x": "M-.7,-.7L.7,.7M.7,-.7L-.7,.7",
}
_VALUE = (
    "datum.value == 0 ? '0' : abs(datum.value) >= 1e5 ? format(datum.value, '.4~s')"
    " : {small} ? format(datum.value, '.3~e') : format(datum.value, ',.6~g')"
)
_SMALL = {  # when the labels of an axis have a power of ten: all of them, or all below 1
    "linear": "max(abs(domain('{side}')[0]), abs(domain('{side}')[1])) < 0.001",
    "log": "(domain('{side}')[0] < 0.001 && datum.value < 1)",
}
_MARKED = (  # 1, 2 and 5 of each decade; where there is no room, 1; of less than a decade, all
    "(log(domain('{side}')[1] / domain('{side}')[0]) < 1.6"
    " || test({size} / log(domain('{side}')[1] / domain('{side}')[0]) > {room}"
    " ? /^[125]/ : /^1/, format(datum.value, '.0e')))"
)


@dataclass(frozen=True)
class Layers:
    """Builds the layers of a chart.

    Args:
        x, y: the axes.
        colours: by the name of each part.
        named: the names in the legend; empty: there is no legend.
        shade: title of the bar of colours.
        shades: all values on it; empty: each part has the colour of its name.
        padding: pixels between the outermost values and the ends of the axes.
    """

    x: Axis
    y: Axis
    colours: Mapping[str, str]
    named: Sequence[str]
    shade: str
    shades: Sequence[float]
    padding: int

    def bands(self, bands: Sequence[Band]) -> list[Spec]:
        """Return a layer per band."""
        return [
            {
                "data": {"values": [{"x": band.low, "x2": band.high, "series": band.name}]},
                "mark": {"type": "rect", "clip": True},
                "encoding": {"x": self._place["x"], "x2": {"field": "x2"}, **self._ink(band.name, band.opacity)},
            }
            for band in bands
        ]

    def lines(self, lines: Sequence[Line]) -> tuple[list[Spec], list[Spec], str]:
        """Return the rows of all lines, the layers that draw them, and a note if not all of their points are drawn."""
        styles: dict[tuple[Any, ...], list[Line]] = {}
        for line in lines:
            styles.setdefault(self._style(line), []).append(line)
        ordered = [line for style in styles.values() for line in style]
        count = max(40, MAX_DRAWN // max(1, len(lines)))
        rows = [self._rows(line, number, count) for number, line in enumerate(ordered)]
        layers: list[Spec] = []
        hovered: list[range] = []
        first = 0
        for style in styles.values():
            ids = range(first, first + len(style))
            hovered += [ids] if style[0].hover else []
            layers.append(self._line(style[0], ids if len(styles) > 1 else None))
            first = ids.stop
        hints = [{"line": at, "hint": line.hint} for at, line in enumerate(ordered) if line.hint]
        if points := sum(len(rows[at]) for ids in hovered for at in ids):
            layers.append(self._hover(hovered, len(lines), points, hints))
        total, kept = sum(len(line.x) for line in lines), sum(map(len, rows))
        note = f"Drawn: {kept:,} of {total:,} points, with the extremes of each stretch." if 2 * kept < total else ""
        return [row for each in rows for row in each], layers, note

    def error_bars(self, line: Line) -> Spec:
        """Return the layer of the standard errors of a line."""
        least = 0.5 * min(line.y) if self.y.scale == "log" else -math.inf
        ends = zip(line.x, line.y, line.errors, strict=True)
        rows = [{"x": x, "y": max(y - error, least), "y2": y + error, "series": line.name} for x, y, error in ends]
        encoding = {**self._place, "y2": {"field": "y2"}, **self._ink(line.name)}
        return {"data": {"values": rows}, "mark": {"type": "rule", "clip": True}, "encoding": encoding}

    def rules(self, rules: Iterable[Rule]) -> list[Spec]:
        """Return a layer per look of rules, and one that shows their tooltips."""
        looks: dict[tuple[Any, ...], list[Rule]] = {}
        for rule in rules:
            looks.setdefault((rule.name, rule.horizontal, rule.dashed, rule.width), []).append(rule)
        layers: list[Spec] = []
        for (name, horizontal, dashed, width), group in looks.items():
            side = "y" if horizontal else "x"
            axis = self.y if horizontal else self.x
            place = {side: self._place[side]}
            data = {"values": [{side: rule.at, "series": name, "hint": rule.hint} for rule in group]}
            mark = {"type": "rule", "clip": True, "strokeWidth": width, **({"strokeDash": _DASHED} if dashed else {})}
            layers.append({"data": data, "mark": mark, "encoding": {**place, **self._ink(name)}})
            tooltip = [
                {"field": "series", "title": "name"},
                {**_value(side, axis), "title": axis.title},
                {"field": "hint"},
            ]
            target = {"type": "rule", "clip": True, "strokeWidth": 12, "opacity": 0}
            layers.append({"data": data, "mark": target, "encoding": {**place, "tooltip": tooltip}})
        return layers

    def points(self, points: Points) -> list[Spec]:
        """Return the layer of some points, and one for their labels."""
        columns = {"x": points.x, "y": points.y, "hint": points.hints, "label": points.labels, "shade": points.shades}
        used = {name: column for name, column in columns.items() if len(column)}
        rows = [
            {**dict(zip(used, row, strict=True)), "series": points.name}
            for row in zip(*used.values(), strict=True)
            if math.isfinite(row[0]) and math.isfinite(row[1])
        ]
        mark = {"type": "point", "shape": _SHAPES.get(points.shape, points.shape), "size": points.size, "clip": True}
        mark |= {"filled": points.filled, "strokeWidth": 1 if points.filled else 1.8}
        mark |= {"stroke": "white"} if points.shape == "star" else {}
        ink = self._shading(points.opacity) if points.shades and self.shades else self._ink(points.name, points.opacity)
        tooltip = {"field": "hint"} if points.hints else self._tooltip()
        data = {"values": rows}
        layers: list[Spec] = [{"data": data, "mark": mark, "encoding": {**self._place, **ink, "tooltip": tooltip}}]
        if points.labels:
            text = {**self._place, "text": {"field": "label"}}
            layers.append({"data": data, "mark": {"type": "text", "dy": -12}, "encoding": text})
        return layers

    def _style(self, line: Line) -> tuple[Any, ...]:
        """Return what the lines of one layer have in common."""
        own_colour = line.name if self.shades and line.shade is None else ""
        return line.width, line.opacity, line.steps, line.hover, bool(line.dash), line.shade is None, own_colour

    def _rows(self, line: Line, number: int, count: int) -> list[Spec]:
        x, y = _places(line.x, self.x), _places(line.y, self.y)
        more: Spec = {"series": line.name, "line": number}
        more |= {"dash": line.dash} if line.dash else {}
        more |= {"shade": line.shade} if line.shade is not None else {}
        kept = thinned(x, y, count)
        return [{"x": x[at], "y": y[at] if math.isfinite(y[at]) else None, **more} for at in kept]

    def _line(self, line: Line, ids: range | None) -> Spec:
        mark: Spec = {"type": "line", "strokeWidth": line.width, "clip": True, "strokeJoin": "round"}
        mark |= {"interpolate": line.steps} if line.steps else {}
        encoding = {**self._place, "detail": {"field": "line"}}
        encoding |= self._shading(line.opacity) if line.shade is not None else self._ink(line.name, line.opacity)
        if line.dash:
            scale, legend = {"range": [_DASHED]}, {"title": None} if self.named else None
            encoding["strokeDash"] = {"field": "dash", "type": "nominal", "scale": scale, "legend": legend}
        return {**_only(ids), "mark": mark, "encoding": encoding}

    def _hover(self, ids: list[range], count: int, points: int, hints: Sequence[Spec]) -> Spec:
        """Return the layer of invisible points, of which the nearest to the mouse appears with its values."""
        filters: list[Spec] = []
        if sum(map(len, ids)) < count:
            tests = (f"(datum.line >= {each.start} && datum.line < {each.stop})" for each in ids)
            filters.append({"filter": " || ".join(tests)})
        if points > MAX_HOVERED:
            filters.append({"window": [{"op": "row_number", "as": "row"}]})
            filters.append({"filter": f"datum.row % {-(-points // MAX_HOVERED)} == 0"})
        if hints:
            hinted = {"data": {"values": list(hints)}, "key": "line", "fields": ["hint"]}
            filters.append({"lookup": "line", "from": hinted})
        near = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
        seen = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
        return {
            "params": [{"name": "near", "select": near}],
            **({"transform": filters} if filters else {}),
            "mark": {"type": "point", "filled": True, "size": 55, "clip": True, "color": MUTED},
            "encoding": {**self._place, "opacity": seen, "tooltip": self._tooltip(dash=True)},
        }

    def _tooltip(self, dash: bool = False) -> list[Spec]:
        shown = [{"field": "series", "title": "name"}, *([{"field": "dash", "title": " "}] if dash else [])]
        shown += [{**_value(side, axis), "title": axis.title} for side, axis in (("x", self.x), ("y", self.y))]
        return [*shown, {"field": "hint"}]

    @property
    def _place(self) -> Spec:
        return {side: _encoding(side, axis, self.padding) for side, axis in (("x", self.x), ("y", self.y))}

    def _ink(self, name: str, opacity: float = 1.0) -> Spec:
        """Return the encoding of a part's colour, which fades if other names are chosen in the legend."""
        colour: Spec = {"value": self.colours.get(name, MUTED)}
        if not self.shades:
            scale = {"domain": list(self.colours), "range": list(self.colours.values())}
            legend = {"title": None, "values": list(self.named)} if self.named else None
            colour = {"field": "series", "type": "nominal", "scale": scale, "legend": legend}
        chosen = "length(chosen) == 0 || indexof(chosen, datum.series) >= 0 || indexof(chosen, datum.dash) >= 0"
        faded = {"condition": {"test": chosen, "value": opacity}, "value": min(opacity, FAINT)}
        return {"color": colour, "opacity": faded if self.named else {"value": opacity}}

    def _shading(self, opacity: float) -> Spec:
        """Return the encoding of a colour on the bar of colours; grey for what has no place on it."""
        if max(self.shades) == min(self.shades):
            return {"color": {"value": COLD_TO_HOT[len(COLD_TO_HOT) // 2]}, "opacity": {"value": opacity}}
        scale = {"type": "log", "domain": [min(self.shades), max(self.shades)], "range": list(COLD_TO_HOT)}
        label = _VALUE.format(small="datum.value < 1" if min(self.shades) < 0.001 else "false")
        legend = {"title": self.shade, "labelExpr": label, "direction": "horizontal", "gradientThickness": 8}
        colour = {
            "condition": {
                "test": "isValid(datum.shade)", "field": "shade", "type": "quantitative", "scale": scale,
                "legend": legend,
            },
            "value": MUTED,
        }  # fmt: skip
        return {"color": colour, "opacity": {"value": opacity}}


def thinned(x: Sequence[float], y: Sequence[float], count: int) -> list[int]:
    """Return the indices of at most about `count` points that look like all of them.

    The points are divided into stretches of equal length, of which the lowest and the highest point are kept; so no
    peak is lost. The first and the last point are kept as well, and one point per gap of values that are not finite.

    Args:
        x, y: the points; one whose x is not finite is left out.
        count: of the points to keep, at least 4.
    """
    values = np.asarray(y, float)
    placed = np.isfinite(np.asarray(x, float))
    if len(values) <= count:
        return np.flatnonzero(placed).tolist()
    finite = placed & np.isfinite(values)
    known = np.flatnonzero(finite)
    if not len(known):
        return []
    gaps = np.flatnonzero(placed & ~finite & np.concatenate([[False], finite[:-1]]))
    kept = {int(known[0]), int(known[-1]), *(gaps.tolist() if len(gaps) <= count // 4 else ())}
    for stretch in np.array_split(known, max(1, (count - 2) // 2)):
        if len(stretch):
            kept |= {int(stretch[np.argmin(values[stretch])]), int(stretch[np.argmax(values[stretch])])}
    return sorted(kept)


def _encoding(side: str, axis: Axis, padding: int) -> Spec:
    """Return the encoding of a position; a logarithmic axis has grid lines and labels at 1, 2 and 5."""
    low, high = axis.ends or (None, None)
    scale: Spec = {"type": axis.scale, **({"nice": False} if side == "x" else {})}
    scale |= {"nice": False} if axis.scale == "log" else {}
    rounded = side == "y" and axis.scale == "linear" and not axis.ends  # ends at round values, beyond its values
    scale |= {"padding": _EDGE if axis.ends else padding if rounded else max(padding, _EDGE)}
    scale |= {key: end for key, end in (("domainMin", low), ("domainMax", high)) if end is not None}
    small = _SMALL[axis.scale].format(side=side)
    label = "format(datum.value, '.0%')" if axis.percent else _VALUE.format(small=small)
    look: Spec = {"grid": side == "y", "labelExpr": label}
    if axis.scale == "log":
        test = _MARKED.format(side=side, size="width" if side == "x" else "height", room=62 if side == "x" else 17)
        marked = {"condition": {"test": test, "value": 1}, "value": 0}
        look |= {"labelExpr": f"{test} ? {label} : ''", "gridOpacity": marked, "tickOpacity": marked}
    else:
        scale["zero"] = False
        look["tickCount"] = {"expr": "ceil(width / 80)" if side == "x" else "ceil(height / 45)"}
        look |= {"tickMinStep": 1} if axis.whole else {}
    return {"field": side, "type": "quantitative", "title": axis.title, "scale": scale, "axis": look}


def _value(side: str, axis: Axis) -> Spec:
    return {"field": side, "type": "quantitative", "format": ".2%" if axis.percent else NUMBER}


def _places(values: Sequence[float], axis: Axis) -> list[float]:
    """Return the values as numbers; those that a logarithmic axis cannot show as NaN."""
    return [float(value) if axis.scale != "log" or value > 0 else math.nan for value in values]


def _only(ids: range | None) -> Spec:
    """Return the transform that keeps the lines with these numbers; None: all."""
    if ids is None:
        return {}
    return {"transform": [{"filter": f"datum.line >= {ids.start} && datum.line < {ids.stop}"}]}
