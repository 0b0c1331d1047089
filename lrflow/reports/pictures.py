"""Pictures of the figures of a run, a sweep or a range test in the style of a paper, as PDF, SVG or PNG."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from lrflow.display import FAINT, GREY, INK
from lrflow.files import write_whole
from lrflow.redaction import redactor
from lrflow.reports.chart_parts import Figure, Spec

FORMATS = ("pdf", "svg", "png")
COLUMNS = {"single": 3.5, "double": 7.16}
"""Widths in inches of one and of two columns of a journal, such as those of the IEEE."""

GENERIC = ("sans-serif", "serif", "monospace")
"""Fonts that vl-convert-python brings with it: Liberation Sans, Liberation Serif and DejaVu Sans Mono."""

DPI = 300  # of a PNG
_BASE = 12  # pixels of a text before all is scaled
_POINTS = 72  # of an inch
_WIDE = 5.0  # inches; a wider picture is flatter


@dataclass(frozen=True)
class Style:
    """The look of a picture.

    Args:
        width: in inches.
        height: in inches; None: a share of the width, and no more than the figure needs.
        font: its name; text falls back to a sans-serif font where a reader has none of this name.
        size: of the text, in points.
    """

    width: float = COLUMNS["single"]
    height: float | None = None
    font: str = GENERIC[0]
    size: float = 8.0


def figures_of(folder: Path, wanted: Collection[str] | None = None) -> list[Figure]:
    """Return the figures of a folder: those of a run, of a sweep or of a range test.

    Args:
        folder: of the run, sweep or range test.
        wanted: names of figures; some that take long may be missing if they are not among them. None: all.

    Raises:
        LrflowError: the folder cannot be read.
    """
    from lrflow.reports import find_page, run_charts, sweep_charts
    from lrflow.reports.run_course import Course
    from lrflow.reports.runs import Run
    from lrflow.sweeps.analysis import analyse
    from lrflow.sweeps.folders import read_sweep
    from lrflow.tuning.find_record import Record

    if (folder / "config.yaml").is_file():
        record = Record.found_in(folder)
        ranges = find_page.figures(record) if record else []
        return [*run_charts.figures(Course(Run(folder))), *ranges]
    sweep = read_sweep(folder)
    analyses = [found for each in sweep.objectives if (found := analyse(sweep.by(each)))]
    return sweep_charts.figures(sweep, analyses, wanted)


def draw(figure: Figure, path: Path, style: Style) -> Path:
    """Draw a figure in the format of the path's suffix, without what only a page can show; creates its folder.

    Lines, marks and text have the proportions of the page, and are scaled together until text has the wanted size.

    Args:
        figure: such as `figures_of` returns.
        path: of the picture; its suffix is one of `FORMATS`.
        style: its look.
    """
    import vl_convert

    _register_fonts()
    scale = style.size / _BASE
    width = style.width * _POINTS / scale
    height = min(figure.height, (0.45 if style.width > _WIDE else 0.68) * width)
    if style.height is not None:
        height = style.height * _POINTS / scale
    shown = _without_secrets(still(figure.spec))
    spec = {
        **shown, "width": width, "height": height, "padding": 2,
        "autosize": {"type": "fit", "contains": "padding"}, "config": _config(style.font, width, shown),
    }  # fmt: skip
    svg = vl_convert.vegalite_to_svg(spec)
    kind = path.suffix[1:]
    points = width * scale, height * scale
    ends = [f"{point / _POINTS:.4g}in" for point in points] if kind == "svg" else [f"{point:.6g}" for point in points]
    svg = re.sub(r' width="[\d.]+" height="[\d.]+" ', ' width="{}" height="{}" '.format(*ends), svg, count=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "svg":
        return write_whole(path, svg)
    return write_whole(path, vl_convert.svg_to_pdf(svg) if kind == "pdf" else vl_convert.svg_to_png(svg, ppi=DPI))


def still(spec: Spec) -> Spec:
    """Return a specification without what answers to the mouse."""
    layers = [layer for layer in spec.get("layer", []) if not _is_invisible(layer)]
    plain = [
        {**layer, "params": [param for param in layer.get("params", []) if param["name"] != "zoom"]} for layer in layers
    ]
    return {**spec, "layer": plain} if layers else spec


def _without_secrets(part: Any) -> Any:
    """Return a part of a specification in which secrets are masked, as in the file of a page."""
    if isinstance(part, str):
        return redactor.file(part)
    if isinstance(part, Mapping):
        return {redactor.file(key): _without_secrets(value) for key, value in part.items()}
    return [_without_secrets(each) for each in part] if isinstance(part, list | tuple) else part


def has_font(name: str) -> bool:
    """Return whether text in a font can be drawn: it is installed, or matplotlib or vl-convert-python brings it."""
    import vl_convert

    _register_fonts()
    text = f'<text font-family="{escape(name)}">a</text>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{text}</svg>'
    return name.isprintable() and '"' not in name and b"/FontName" in vl_convert.svg_to_pdf(text)


def fonts() -> list[str]:
    """Return names of fonts to choose from."""
    from matplotlib.font_manager import get_font_names

    return [*GENERIC, *sorted(get_font_names())]


@cache
def _register_fonts() -> None:
    import matplotlib
    import vl_convert

    vl_convert.register_font_directory(str(Path(matplotlib.get_data_path(), "fonts", "ttf")))


def _is_invisible(layer: Spec) -> bool:
    """Return whether a layer only shows something under the mouse."""
    watches = any(param.get("name") == "near" for param in layer.get("params", []))
    return watches or layer["mark"].get("opacity") == 0


def _config(font: str, width: float, spec: Spec) -> dict[str, Any]:
    """Return the colours, fonts and sizes of a picture on white, and as many columns of the legend as have room."""
    names = [entry["name"] for entry in spec.get("usermeta", {}).get("legend", [])]
    columns = max(1, int(width // (34 + 0.58 * _BASE * max(map(len, names), default=1))))
    text = {
        "labelColor": INK, "titleColor": INK, "labelFontSize": _BASE, "titleFontSize": _BASE,
        "titleFontWeight": "normal",
    }  # fmt: skip
    return {
        "font": font if font in GENERIC else f"{font}, sans-serif",
        "background": "white",
        "view": {"stroke": None},
        "axis": {
            **text, "gridColor": FAINT, "domainColor": GREY, "tickColor": GREY, "tickSize": 4,
            "titlePadding": 8, "labelFlush": False,
        },
        "legend": {
            **text, "orient": "top", "columns": columns, "symbolType": "stroke", "symbolOpacity": 1,
            "symbolStrokeWidth": 2, "offset": 6, "gradientLength": 0.55 * width, "labelOverlap": "greedy",
            "labelSeparation": 6,
        },
        "text": {"color": INK, "fontSize": _BASE - 1},
    }  # fmt: skip
