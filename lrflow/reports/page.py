"""An HTML page of figures, facts and tables in one file that needs no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import lrflow
from lrflow.display import CURVES
from lrflow.files import remove_parts, write_whole
from lrflow.reports.chart_parts import Figure, Spec
from lrflow.reports.vega import library

HERE = Path(__file__).parent
LONG = 60  # characters; longer cells are wrapped
NAME = 24  # characters; longer cells are wrapped on a narrow screen
LONG_WRAPPED = 24  # the same, in a table whose texts are wrapped; shorter ones may be narrower


_LEFT = 60.0  # seconds since a part of a page was written to: its process was killed


@dataclass(frozen=True)
class Fact:
    """A number at the top of a page.

    Args:
        name: of the number.
        value: formatted, with its unit.
        note: a few words of explanation.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than a text or a number.

    Args:
        text: of the cell.
        key: to sort the column by; None: the text.
        link: target, relative to the page.
        hint: shown when the mouse is over the cell.
        drawn: HTML in place of the text, such as a small picture.
    """

    text: str
    key: float | str | None = None
    link: str = ""
    hint: str = ""
    drawn: str = ""


@dataclass(frozen=True)
class Served:
    """What differs when a server sends a page instead of writing it into a file.

    Args:
        nonce: a random text without which the browser runs no script of the page.
        home: address of the page above it; empty: there is none.
        script: JavaScript that runs after that of every page, and that may ask the server for more.
    """

    nonce: str
    home: str = ""
    script: str = ""


class Page:
    """A page that is built from top to bottom, then written.

    Args:
        title: of the page.
        about: a line below the title.
    """

    def __init__(self, title: str, about: str = "") -> None:
        self._title, self._about = title, about
        self._sections: list[str] = []
        self._figures = 0
        self._draws_later = False
        self._data: dict[str, str] = {}  # the name of each table of values by its JSON, so that none is there twice

    def facts(self, facts: Iterable[Fact]) -> None:
        """Add numbers side by side."""
        self._sections.append(f'<section class="facts">{tiles(facts)}</section>')

    def html(self, content: str, draws_later: bool = False) -> None:
        """Add HTML that lrflow made.

        Args:
            content: the HTML, in which every text of a run is escaped.
            draws_later: whether a script will draw figures there.
        """
        self._sections.append(content)
        self._draws_later |= draws_later

    def warnings(self, sentences: Sequence[str]) -> None:
        """Add a list of warnings; nothing if there are none."""
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            self._sections.append(f'<section class="notes"><ul>{items}</ul></section>')

    def figure(self, heading: str, spec: Spec, caption: str = "", height: int = 420, summary: str = "") -> None:
        """Add a chart; the page sets its width, its fonts and the colours of its axes.

        Args:
            heading: above the chart.
            spec: a Vega-Lite specification of one view or of layers, such as `lrflow.reports.charts` returns. What it
                shows is part of it; the values are kept once per page, with six significant digits.
            caption: below the heading.
            height: in pixels.
            summary: what the chart shows, for readers who do not see it; empty: the specification's `description`.
        """
        self._figures += 1
        name = f"figure-{self._figures}"
        meta = spec.get("usermeta", {})
        content = _json({**without_values(spec, self._name_of), "height": height})
        label = escape(summary or spec.get("description", "") or caption)
        place = (
            f'<div class="figure" data-figure="{name}"><div class="chart" style="min-height: {height}px">'
            f'<p class="summary">{label}</p></div></div>'
        )
        note = f'<p class="note">{escape(meta["note"])}</p>' if meta.get("note") else ""
        spec_of = f'<script type="application/json" id="{name}">{content}</script>'
        self._card(heading, caption, f"{place}{note}{spec_of}")

    def draw(self, figures: Iterable[Figure]) -> None:
        """Add several figures."""
        for each in figures:
            self.figure(each.heading, each.spec, each.caption, each.height, each.summary)

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | float | Cell | None]],
        caption: str = "",
        strong: int | None = None,
        wrapped: bool = False,
        names: Sequence[str] = (),
        right: Sequence[bool] | None = None,
    ) -> None:
        """Add a table that a click on a column's name sorts.

        Args:
            heading: above the table.
            columns: the names of the columns; if all are empty, the table has no head.
            rows: one cell per column; None: an empty cell.
            caption: below the heading.
            strong: the index of the row to highlight; None: no row.
            wrapped: whether texts are wrapped, so that the table is not wider than the page.
            names: of the rows, for scripts.
            right: whether each column has numbers; None: as its cells say.
        """
        body = [[_cell(value) for value in row] for row in rows]
        right = right or [
            bool(body) and all(row[at].key == "" or _is_number(row[at]) for row in body) for at in range(len(columns))
        ]
        head = "".join(
            f'<th{_class("number" * is_number)}><button type="button">{escape(name)}</button></th>'
            if name
            else "<td></td>"
            for name, is_number in zip(columns, right, strict=True)
        )
        long = LONG_WRAPPED if wrapped else LONG
        lines = (
            row_of(row, right, long, number == strong, names[number] if names else "")
            for number, row in enumerate(body)
        )
        head = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
        table = f"<table{_class('wrapped' * wrapped)}>{head}<tbody>{''.join(lines)}</tbody></table>"
        scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(heading)}">{table}</div>'
        self._card(heading, caption, scroll)

    def code(self, heading: str, text: str, caption: str = "", folded: bool = False, wrapped: bool = False) -> None:
        """Add text in a monospaced font, such as a file or a command; nothing if there is none.

        Args:
            heading: above the text.
            text: as it is shown.
            caption: below the heading.
            folded: whether only a click on the heading shows it.
            wrapped: whether long lines are wrapped.
        """
        if text := text.strip():
            content = f'<pre{_class("wrapped" * wrapped)} tabindex="0"><code>{escape(text)}</code></pre>'
            self._card(heading, caption, content, folded)

    def write(self, path: Path) -> Path:
        """Write the page; an existing file is replaced atomically.

        Raises:
            LrflowError: the library that draws the figures cannot be made.
            OSError: the page cannot be written.
        """
        remove_parts(path, older=_LEFT)
        return write_whole(path, self.text())

    def text(self, served: Served | None = None) -> str:
        """Return the HTML of the page.

        Args:
            served: what differs when a server sends it; None: it is a file.

        Raises:
            LrflowError: the library that draws the figures cannot be made.
        """
        draws = bool(self._figures) or self._draws_later
        nonce, home, script = (served.nonce, served.home, served.script) if served else ("", "", "")
        about = f'<p class="about">{escape(self._about)}</p>' if self._about else ""
        text = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
            title=escape(self._title),
            about=about,
            sections=self.sections,
            style=(HERE / "page.css").read_text(encoding="utf-8"),
            script=(HERE / "page.js").read_text(encoding="utf-8") + script,
            scripts=f"'nonce-{nonce}'" if nonce else "'unsafe-inline'",
            sources="; connect-src 'self'; form-action 'self'; base-uri 'none'" if nonce else "",
            nonce=f' nonce="{nonce}"' if nonce else "",
            home=f'<nav><a href="{escape(home)}">All runs</a></nav>\n' if home else "",
            figures=self._drawing() if draws else "",
            help="Shift and the wheel zoom a chart, Shift and a drag move it, a double click shows all again."
            if draws
            else "",
            footer=f"lrflow {lrflow.__version__}",
        )
        return text.encode(errors="replace").decode()  # the name of a folder may be no valid Unicode

    @property
    def sections(self) -> str:
        """The HTML of what was added until now."""
        return "\n".join(self._sections)

    def _drawing(self) -> str:
        """Return what draws the figures: their values, their colours, and the library, which the browser unpacks."""
        data = ",".join(f'"{name}":{content}' for content, name in self._data.items())
        packed = base64.b64encode(library()).decode()
        return (
            f'<script type="application/json" id="data">{{{data}}}</script>\n'
            f'<script type="application/json" id="palette">{_json(CURVES)}</script>\n'
            f'<script type="text/plain" id="library">{packed}</script>'
        )

    def _name_of(self, columns: dict[str, Any]) -> str:
        """Return the name of the page's table of these values."""
        return self._data.setdefault(_json(columns), f"data-{len(self._data) + 1}")

    def _card(self, heading: str, caption: str, content: str, folded: bool = False) -> None:
        below = f'<p class="caption">{escape(caption)}</p>' if caption else ""
        card = f"<h2>{escape(heading)}</h2>{below}{content}"
        if folded:
            card = f"<details><summary><h2>{escape(heading)}</h2></summary>{below}{content}</details>"
        self._sections.append(f'<section class="card">{card}</section>')


def tiles(facts: Iterable[Fact]) -> str:
    """Return the HTML of numbers side by side."""
    return "".join(
        f'<div class="fact"><div class="name">{escape(fact.name)}</div>'
        f'<div class="value">{escape(fact.value)}</div><div class="note">{escape(fact.note)}</div></div>'
        for fact in facts
    )


def row_of(
    row: Sequence[str | float | Cell | None],
    right: Sequence[bool],
    long: int = LONG,
    is_strong: bool = False,
    name: str = "",
) -> str:
    """Return the HTML of a row of a table.

    Args:
        row: one cell per column; None: an empty cell.
        right: whether each column has numbers.
        long: characters; longer cells are wrapped.
        is_strong: whether to highlight it.
        name: of the row, for scripts.
    """
    cells = "".join(_td(_cell(value), is_number, long) for value, is_number in zip(row, right, strict=True))
    named = f' data-name="{escape(name)}"' if name else ""
    return f"<tr{_class('strong' * is_strong)}{named}>{cells}</tr>"


def without_values(part: Any, name_of: Callable[[dict[str, Any]], str]) -> Any:
    """Return a part of a specification in which the name of a table replaces each list of rows.

    Args:
        part: of a specification.
        name_of: returns the name for the rows, which it gets by column.
    """
    if isinstance(part, Mapping):
        if isinstance(rows := part.get("values"), list) and rows and isinstance(rows[0], Mapping):
            return {"name": name_of(_columns(rows))}
        return {key: without_values(value, name_of) for key, value in part.items()}
    return [without_values(each, name_of) for each in part] if isinstance(part, list | tuple) else part


def _json(content: Any) -> str:
    """Return JSON that cannot end the script in which it is."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows by column, which takes less space; a column of repeated texts by the indices of its texts."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_visible(row.get(name)) for row in rows]
        texts = {value: None for value in values if isinstance(value, str)}
        if texts and 2 * len(texts) <= len(values):
            places = {text: at for at, text in enumerate(texts)}
            columns[name] = {"of": [*texts], "at": [places.get(value) for value in values]}
        else:
            columns[name] = values
    return columns


def _visible(value: Any) -> Any:
    """Return a number with the digits that a reader can see; None for one that is not finite."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.6g}")


def _cell(value: str | float | Cell | None) -> Cell:
    """Return the cell of a value, with its key."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("", "")
    if isinstance(value, Cell):
        return value if value.key is not None else replace(value, key=value.text)
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell.key, int | float)


def _td(cell: Cell, is_number: bool, long: int) -> str:
    text = cell.drawn or escape(cell.text)
    if cell.link:
        text = f'<a href="{escape(cell.link)}">{text}</a>'
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    kind = _class("number" * is_number, "long" * (len(cell.text) > long), "name" * (NAME < len(cell.text) <= long))
    return f'<td{kind} data-key="{escape(str(cell.key))}"{hint}>{text}</td>'


def _class(*names: str) -> str:
    """Return the `class` attribute of an element; empty names are left out."""
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""
