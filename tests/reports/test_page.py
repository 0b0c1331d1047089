from __future__ import annotations

import base64
import gzip
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, shown
from pages import charts

from lrflow.reports.chart_parts import Axis, Line, Points, Rule, Scale
from lrflow.reports.charts import bars, chart, parallel
from lrflow.reports.page import Cell, Fact, Page


class Reader(HTMLParser):
    """Collects the scripts of a page by id, and everything that it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.loaded: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._script = given.get("id") if tag == "script" else None
        if tag in ("script", "link", "img", "iframe"):
            self.loaded += [value for name, value in attributes if name in ("src", "href") and value != "data:,"]

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def spec(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"description": "it <falls>", "data": {"values": rows}, "mark": "line", "encoding": {"x": {"field": "x"}}}


def test_a_page_is_self_contained(tmp_path: Path) -> None:
    page = Page("Which LR?", "of <this> sweep")
    page.facts([Fact("best", "0.1", "x < y")])
    page.warnings(["it is <near> the edge"])
    rows = [{"x": 0.1, "name": "</script>"}, {"x": math.nan, "name": "b"}]
    page.figure("Loss", spec(rows), height=300)
    page.code("Again", "python -m lrflow a='<b>'")
    text = page.write(tmp_path / "page.html").read_text()
    reader = Reader(text)
    assert reader.loaded == []
    assert not re.findall(r"https?://(?!www.w3.org)", text)
    assert json.loads(reader.scripts["figure-1"])["height"] == 300
    assert charts(text)["Loss"]["data"]["values"] == [{"x": 0.1, "name": "</script>"}, {"x": None, "name": "b"}]
    library = gzip.decompress(base64.b64decode(reader.scripts["library"])).decode()
    assert "window.vegaEmbed=" in library
    for part in ("of &lt;this&gt; sweep", "x &lt; y", "&lt;near&gt;", "a=&#x27;&lt;b&gt;&#x27;", "it &lt;falls&gt;"):
        assert part in text
    assert "default-src 'none'" in text
    assert "unsafe-eval" not in text
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]
    assert len(text) < 500_000


def test_values_are_kept_once_with_the_digits_that_are_visible(tmp_path: Path) -> None:
    page = Page("Loss")
    rows = [{"x": 1e6 + place, "y": 1 / 3, "series": "train/loss"} for place in range(4)]
    page.figure("Loss", spec(rows))
    page.figure("The same", {"layer": [spec(rows), spec(rows)]}, summary="twice")
    text = page.write(tmp_path / "page.html").read_text()
    assert text.count("0.333333,") == 3
    assert text.count("train/loss") == 1
    assert '<p class="summary">twice</p>' in text
    first, second = charts(text).values()
    assert first["data"]["values"][3] == {"x": 1000003, "y": 0.333333, "series": "train/loss"}
    assert second["layer"][1]["data"] == first["data"]


def test_a_page_without_charts_carries_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrflow.reports.page.library", None)
    page = Page("Trials")
    page.warnings([])
    text = page.write(tmp_path / "page.html").read_text()
    assert 'class="notes"><ul>' not in text
    assert len(text) < 30_000


@needs_browser
def test_a_browser_draws_every_chart_and_reports_nothing(tmp_path: Path) -> None:
    page = Page("Charts")
    step, loss = Axis("step"), Axis("loss", "log")
    lines = [
        Line("train", range(3000), [1 / (1 + at) for at in range(3000)]),
        Line("val", [0, 9], [1, 0.2], dash="fit"),
    ]
    page.figure("Loss", chart(step, loss, [*lines, Rule("spike", 99, "why")]), summary="it falls")
    shades = [Line("a", [0, 1], [1, 2], shade=0.1, hint="trial 1"), Points("b", [1], [2], ["x"], shades=[1.0])]
    page.figure("Shades", chart(step, loss, shades, shade="LR"))
    page.figure("Bars", bars({"lr": 0.6, "seed": 0.1}, "share", percent=True), height=120)
    page.figure("Parallel", parallel([Scale("lr", [0.1, 1.0], log=True), Scale("loss", [1.0, 2.0])], ["0", "1"]))
    path = page.write(tmp_path / "page.html")
    found = shown(path, tmp_path)
    assert found.console == []
    told = re.findall(r'<div class="chart"[^>]*role="img"[^>]*aria-label="([^"]*)"[^>]*>', found.dom)
    assert len(told) == found.dom.count("<svg") == 4
    assert told[0] == "it falls"
    assert found.dom.count('<details class="values"><summary class="">Values</summary>') == 3, "not of parallel lines"
    assert '<p class="notes">This chart' not in found.dom
    pressed = re.findall(r'<button[^>]* aria-pressed="false">(?:(?!</button>).)*</button>', found.dom)
    assert [re.sub("<.*?>", "", button) for button in pressed] == ["train", "val", "spike", "fit"]


def test_tables_sort_by_value(tmp_path: Path) -> None:
    page = Page("Trials")
    page.table(
        "Trials",
        ["LR", "status", "folder"],
        [[0.00012345678, "done", Cell("0", 0, "0/", "why <so>")], [None, "failed", Cell("1", 1)]],
        strong=1,
    )
    text = page.write(tmp_path / "page.html").read_text()
    rows = re.findall(r"<tr[^>]*>.*?</tr>", text[text.index("<tbody>") :])
    assert rows[0] == (
        '<tr><td class="number" data-key="0.00012345678">0.0001235</td><td data-key="done">done</td>'
        '<td class="number" data-key="0" title="why &lt;so&gt;"><a href="0/">0</a></td></tr>'
    )
    assert rows[1].startswith('<tr class="strong"><td class="number" data-key=""></td>')
    assert '<th class="number"><button type="button">LR</button></th><th><button' in text
