"""An HTML page of figures, facts and tables in one file that needs no network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import lrflow
from lrflow.config.packages import missing_package
from lrflow.errors import ConfigError
from lrflow.files import write_whole

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HERE = Path(__file__).parent
LONG = 60  # characters; longer cells are wrapped


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
    """

    text: str
    key: float | str | None = None
    link: str = ""
    hint: str = ""


class Page:
    """A page that is built from top to bottom, then written.

    Args:
        title: of the page.
        about: a line below the title.

    Raises:
        ConfigError: plotly is not installed.
    """

    def __init__(self, title: str, about: str = "") -> None:
        try:
            import plotly.offline
        except ModuleNotFoundError:
            raise ConfigError([missing_package("plotly", "report")]) from None
        self._plotly: str = plotly.offline.get_plotlyjs()
        self._title, self._about = title, about
        self._sections: list[str] = []
        self._figures = 0

    def facts(self, facts: Iterable[Fact]) -> None:
        """Add numbers side by side."""
        tiles = (
            f'<div class="fact"><div class="name">{escape(fact.name)}</div>'
            f'<div class="value">{escape(fact.value)}</div><div class="note">{escape(fact.note)}</div></div>'
            for fact in facts
        )
        self._sections.append(f'<section class="facts">{"".join(tiles)}</section>')

    def warnings(self, sentences: Sequence[str]) -> None:
        """Add a list of warnings; nothing if there are none."""
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            self._sections.append(f'<section class="notes"><ul>{items}</ul></section>')

    def figure(self, heading: str, figure: Figure, caption: str = "", height: int = 420) -> None:
        """Add a plotly figure; the page sets its fonts, its margins and the colours of its axes.

        Args:
            heading: above the figure.
            figure: traces with colours, and a layout without colours.
            caption: below the heading.
            height: in pixels.
        """
        self._figures += 1
        name = f"figure-{self._figures}"
        data = json.loads(figure.to_json())
        drawn = {"data": data["data"], "layout": {**data["layout"], "height": height}}
        drawn["layout"].pop("template", None)
        content = json.dumps(drawn, separators=(",", ":")).replace("</", "<\\/")
        place = f'<div class="figure" data-figure="{name}" style="height: {height}px"></div>'
        self._card(heading, caption, f'{place}<script type="application/json" id="{name}">{content}</script>')

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | float | Cell | None]],
        caption: str = "",
        strong: int | None = None,
    ) -> None:
        """Add a table that a click on a column's name sorts.

        Args:
            heading: above the table.
            columns: the names of the columns.
            rows: one cell per column; None: an empty cell.
            caption: below the heading.
            strong: the index of the row to highlight; None: no row.
        """
        body = [[_cell(value) for value in row] for row in rows]
        right = [
            bool(body) and all(row[at].key == "" or _is_number(row[at]) for row in body) for at in range(len(columns))
        ]
        head = "".join(
            f'<th{_class("number" * is_number)}><button type="button">{escape(name)}</button></th>'
            for name, is_number in zip(columns, right, strict=True)
        )
        lines = (
            f"<tr{_class('strong' * (number == strong))}>"
            f"{''.join(_td(cell, is_number) for cell, is_number in zip(row, right, strict=True))}</tr>"
            for number, row in enumerate(body)
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        self._card(heading, caption, f'<div class="scroll">{table}</div>')

    def code(self, heading: str, text: str, caption: str = "") -> None:
        """Add text in a monospaced font, such as a file or a command."""
        self._card(heading, caption, f"<pre><code>{escape(text.strip())}</code></pre>")

    def write(self, path: Path) -> Path:
        """Write the page; an existing file is replaced atomically."""
        about = f'<p class="about">{escape(self._about)}</p>' if self._about else ""
        text = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
            title=escape(self._title),
            about=about,
            sections="\n".join(self._sections),
            style=(HERE / "page.css").read_text(encoding="utf-8"),
            script=(HERE / "page.js").read_text(encoding="utf-8"),
            plotly=f"<script>{self._plotly}</script>",
            footer=f"lrflow {lrflow.__version__}",
        )
        return write_whole(path, text)

    def _card(self, heading: str, caption: str, content: str) -> None:
        below = f'<p class="caption">{escape(caption)}</p>' if caption else ""
        self._sections.append(f'<section class="card"><h2>{escape(heading)}</h2>{below}{content}</section>')


def _cell(value: str | float | Cell | None) -> Cell:
    """Return the cell of a value, with its key."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("", "")
    if isinstance(value, Cell):
        return value if value.key is not None else Cell(value.text, value.text, value.link, value.hint)
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell.key, int | float)


def _td(cell: Cell, is_number: bool) -> str:
    text = escape(cell.text)
    if cell.link:
        text = f'<a href="{escape(cell.link)}">{text}</a>'
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    kind = _class("number" * is_number, "long" * (len(cell.text) > LONG))
    return f'<td{kind} data-key="{escape(str(cell.key))}"{hint}>{text}</td>'


def _class(*names: str) -> str:
    """Return the `class` attribute of an element; empty names are left out."""
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""
