"""Reads the charts of a page back: their specifications, with the rows of values in their places."""

from __future__ import annotations

import html
import json
import re
from typing import Any


def charts(page: str) -> dict[str, dict[str, Any]]:
    """Return the specification of each chart of a page by its heading."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    tables = {name: rows(columns) for name, columns in json.loads(found.group(1) if found else "{}").items()}
    cards = re.findall(r"<h2>([^<]*)</h2>(?:(?!<h2>).)*?json\" id=\"figure-\d+\">(.*?)</script>", page, re.DOTALL)
    return {html.unescape(heading): _filled(json.loads(text), tables) for heading, text in cards}


def rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table that the page keeps by column."""
    full = {
        name: column if isinstance(column, list) else [None if at is None else column["of"][at] for at in column["at"]]
        for name, column in columns.items()
    }
    return [dict(zip(full, row, strict=True)) for row in zip(*full.values(), strict=True)]


def marks(spec: dict[str, Any], mark: str, shape: str = "") -> list[list[dict[str, Any]]]:
    """Return the rows of each layer of a chart with this mark, and this shape if it is a point."""
    layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == mark and "data" in layer]
    return [layer["data"]["values"] for layer in layers if not shape or layer["mark"]["shape"].startswith(shape)]


def curves(spec: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of each line of a chart, in the order in which the layers draw them."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in spec["data"]["values"]:
        found.setdefault(row["line"], []).append(row)
    return found


def colour(spec: dict[str, Any], name: str) -> str:
    """Return the colour of a name in a chart."""
    scales = [layer["encoding"]["color"].get("scale") for layer in spec["layer"] if "color" in layer["encoding"]]
    scale = next(scale for scale in scales if scale and name in scale.get("domain", []))
    return str(scale["range"][scale["domain"].index(name)])


def _filled(part: Any, tables: dict[str, Any]) -> Any:
    if isinstance(part, dict):
        if isinstance(data := part.get("data"), dict) and data.get("name") in tables:
            part = {**part, "data": {"values": tables[data["name"]]}}
            return {key: value if key == "data" else _filled(value, tables) for key, value in part.items()}
        return {key: _filled(value, tables) for key, value in part.items()}
    return [_filled(each, tables) for each in part] if isinstance(part, list) else part


def cells(page: str, heading: str) -> list[list[str]]:
    """Return the texts of the cells of a table by row, the names of the columns first; empty: there is no table."""
    found = re.search(
        rf"<h2>{re.escape(html.escape(heading))}</h2>(?:(?!<h2>).)*?<table[^>]*>(.*?)</table>", page, re.DOTALL
    )
    lines = re.findall(r"<tr.*?</tr>", found.group(1), re.DOTALL) if found else []
    return [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
        for line in lines
    ]


def tiles(page: str) -> dict[str, tuple[str, str]]:
    """Return the value and the note of each number at the top of a page, by its name."""
    pattern = r'<div class="name">(.*?)</div><div class="value">(.*?)</div><div class="note">(.*?)</div>'
    return {name: (value, note) for name, value, note in (map(html.unescape, one) for one in re.findall(pattern, page))}


def headings(page: str) -> list[str]:
    """Return the headings of the sections of a page, in their order."""
    return [html.unescape(heading) for heading in re.findall(r"<h2>(.*?)</h2>", page)]


def code(page: str, heading: str) -> str:
    """Return the text of a section in a monospaced font."""
    found = re.search(rf"<h2>{re.escape(heading)}</h2>(?:(?!<h2>).)*?<code>(.*?)</code>", page, re.DOTALL)
    assert found, heading
    return html.unescape(found.group(1))
