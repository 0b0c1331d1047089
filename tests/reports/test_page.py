from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lrflow.errors import ConfigError
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


@pytest.fixture
def figure():
    from plotly.graph_objects import Figure, Scatter

    return Figure(Scatter(x=np.array([0.1, 0.2]), y=[1.0, 2.0], text=["</script>", "b"]))


def test_a_page_is_self_contained(figure, tmp_path: Path) -> None:
    page = Page("Which LR?", "of <this> sweep")
    page.facts([Fact("best", "0.1", "x < y")])
    page.warnings(["it is <near> the edge"])
    page.figure("Loss", figure, height=300)
    page.code("Again", "python -m lrflow a='<b>'")
    text = page.write(tmp_path / "page.html").read_text()
    reader = Reader(text)
    assert reader.loaded == []
    drawn = json.loads(reader.scripts["figure-1"])
    assert drawn["data"][0]["text"] == ["</script>", "b"]
    assert drawn["layout"] == {"height": 300}
    for part in ("of &lt;this&gt; sweep", "x &lt; y", "&lt;near&gt;", "a=&#x27;&lt;b&gt;&#x27;"):
        assert part in text
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


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


def test_a_page_without_notes_has_no_notes_section(tmp_path: Path) -> None:
    page = Page("Trials")
    page.warnings([])
    assert 'class="notes"' not in page.write(tmp_path / "page.html").read_text()


def test_missing_plotly_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError) as caught:
        Page("Trials")
    assert "pip install 'lrflow[report]'" in str(caught.value)
