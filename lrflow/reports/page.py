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
LONG = 60  # characters of a cell that is broken into lines


@dataclass(frozen=True)
class Fact:
    """A number that is seen first.

    Args:
        name: what it is.
        value: as it is to be read, with its unit.
        note: a few words more.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell of a table, where that is more than a text or a number.

    Args:
        text: what is seen.
        key: what the column is sorted by; None: the text.
        link: where it leads, relative to the page.
        hint: what is shown when it is pointed at.
    """

    text: str
    key: float | str | None = None
    link: str = ""
    hint: str = ""


class Page:
    """A page that is put together from top to bottom, then written.

    Args:
        title: of the page.
        about: a line below it.

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

    def notes(self, sentences: Sequence[str]) -> None:
        """Add what speaks against the answer, where anything does."""
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            self._sections.append(f'<section class="notes"><ul>{items}</ul></section>')

    def figure(self, heading: str, figure: Figure, caption: str = "", height: int = 420) -> None:
        """Add a figure of plotly's; the page gives it its fonts, its margins and the colours of its axes.

        Args:
            heading: above it.
            figure: the traces with their own colours, and a layout without any.
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
        """Add a table that is sorted by a click on a heading.

        Args:
            heading: above it.
            columns: their names.
            rows: as many cells each; None: an empty one.
            caption: below the heading.
            strong: the row that stands out, from 0; None: none does.
        """
        body = [[_cell(value) for value in row] for row in rows]
        right = [
            bool(body) and all(row[at].key == "" or _is_number(row[at]) for row in body) for at in range(len(columns))
        ]
        head = "".join(
            f'<th{_kind("number" * is_number)}><button type="button">{escape(name)}</button></th>'
            for name, is_number in zip(columns, right, strict=True)
        )
        lines = (
            f"<tr{_kind('strong' * (number == strong))}>"
            f"{''.join(_td(cell, is_number) for cell, is_number in zip(row, right, strict=True))}</tr>"
            for number, row in enumerate(body)
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        self._card(heading, caption, f'<div class="scroll">{table}</div>')

    def code(self, heading: str, text: str, caption: str = "") -> None:
        """Add lines of a file or of a command line."""
        self._card(heading, caption, f"<pre><code>{escape(text.strip())}</code></pre>")

    def write(self, path: Path) -> Path:
        """Write the page; one that is there is replaced as a whole."""
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
        told = f'<p class="caption">{escape(caption)}</p>' if caption else ""
        self._sections.append(f'<section class="card"><h2>{escape(heading)}</h2>{told}{content}</section>')


def _cell(value: str | float | Cell | None) -> Cell:
    """A cell with its key."""
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
    kind = _kind("number" * is_number, "long" * (len(cell.text) > LONG))
    return f'<td{kind} data-key="{escape(str(cell.key))}"{hint}>{text}</td>'


def _kind(*names: str) -> str:
    """The classes of an element, those that are not empty."""
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""
