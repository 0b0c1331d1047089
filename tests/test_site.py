"""The documentation as a site: every page has its place, every link leads somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import needs_browser, shown

ROOT = Path(__file__).parent.parent
WEB = ROOT / "docs" / "web"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'<[^>]*? (?:href|src)="([^"]*)"')
LOADED = re.compile(
    r'<(?:script|img|iframe|link rel="(?:stylesheet|icon|preconnect)")[^>]*? (?:href|src)="(?:https?:)?//'
)


@pytest.fixture(scope="module")
def contents(request: pytest.FixtureRequest):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(WEB))
        sys.modules.pop("contents", None)
        import contents

        yield contents
    sys.modules.pop("contents", None)


def entries(navigation: list) -> Iterator[str]:
    """The paths in a navigation."""
    for entry in navigation:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else entries(value)


def test_every_page_for_readers_is_in_the_navigation_once(contents) -> None:
    made = contents.Contents()
    named = list(entries(made.navigation()))
    assert sorted(named) == sorted(set(named))
    assert set(named) <= made.texts.keys()
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md"), *ROOT.glob("*.md")]
    groups = [path for path in (ROOT / "conf").iterdir() if any(path.glob("*.yaml"))]
    wanted = {path.relative_to(ROOT).as_posix() for path in pages} | {f"conf/{path.name}.md" for path in groups}
    assert wanted - set(named) == set()


def test_the_reference_has_every_package_that_a_page_imports(contents) -> None:
    code = [text for path in ROOT.glob("docs/*.md") for text in CODE.findall(path.read_text())]
    imported = {name for text in code for name in re.findall(r"^\s*from (lrflow[\w.]*) import", text, re.MULTILINE)}
    assert "lrflow.schedules" in imported
    assert imported - set(contents.PACKAGES) == set()


def test_a_link_leads_to_the_page_about_what_is_no_page(contents) -> None:
    text = (
        "[a](../conf) [b](../conf/health/watch.yaml) [c](../lrflow/metric.py#L3) [d](images/plan.png) "
        "[e](plan.md#checks)\n[f](https://example.org/x.py) [g](#here) `[h](x.py)`\n\n```python\n[i](x.py)\n```\n"
    )
    assert contents._relinked("docs/page.md", text) == (
        "[a](../conf/index.md) [b](../conf/health.md#healthwatch) [c](../lrflow/metric.py.md#L3) [d](images/plan.png) "
        "[e](plan.md#checks)\n[f](https://example.org/x.py) [g](#here) `[h](x.py)`\n\n```python\n[i](x.py)\n```\n"
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; what MkDocs itself finds wrong ends the build."""
    if not importlib.util.find_spec("mkdocs") or not importlib.util.find_spec("mkdocstrings_handlers"):
        pytest.skip("needs the extra docs: pip install 'lrflow[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "--site-dir",
        str(folder),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r' (?:id|name)="([^"]+)"', text)) for path, text in texts.items()}
    broken = set()
    for path, text in texts.items():
        for link in set(LINK.findall(text)):
            address = urlsplit(unescape(link))
            if address.scheme or address.netloc or path.name == "404.html":  # whose links begin at the server's root
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            fragment = unquote(address.fragment)
            if not target.is_file() or (fragment and fragment not in anchors.get(target, {fragment})):
                broken.add((str(path.relative_to(site)), link))
    assert len(texts) > 100
    assert sorted(broken) == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    found = {path.name: LOADED.findall(path.read_text(encoding="utf-8")) for path in files if path.suffix == ".html"}
    assert {name: links for name, links in found.items() if links} == {}
    styles = [path.name for path in files if path.suffix == ".css" and "url(http" in path.read_text(encoding="utf-8")]
    assert styles == []


PAGE = """
<h1>Page</h1><div class="interactive" data-figure="quadratic"></div><div class="interactive" data-figure="noise"></div>
<div><h1>All</h1><div class="interactive" data-figure="filter"></div><h2>One</h2><p>about</p><h3>a=b</h3><p>Momentum</p>
<h2>Two</h2><h3>c=d</h3><p>cosine</p><h3>c=e</h3><p>cosine with momentum</p></div>
<script>{script}</script>
<script>
const told = [];
const set = (input, value) => {{ input.value = value; input.dispatchEvent(new Event("input")); }};
const [bowl, floor, list] = document.querySelectorAll(".interactive");
const [rate, momentum] = bowl.querySelectorAll("input");
for (const [x, beta] of [[0.1, 0], [1, 0], [1.8, 0], [2, 0], [2.02, 0], [3.9, 0.95], [3.92, 0.95]]) {{
  set(momentum, beta); set(rate, x); told.push(bowl.querySelector("p").textContent);
}}
set(floor.querySelectorAll("input")[1], 50); told.push(floor.querySelector("p").textContent);
set(list.querySelector("input"), "cosine MOMENTUM"); told.push(list.querySelector("p").textContent);
told.push([...document.querySelectorAll("h2, h3")].filter((one) => !one.hidden).map((one) => one.textContent).join());
document.body.innerHTML = told.map((one) => `<li>${{one}}</li>`).join("");
</script>
"""


@needs_browser
def test_the_figures_say_what_the_formulas_do(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(script=(WEB / "figures.js").read_text()))
    found = shown(page, tmp_path)
    told = [unescape(one) for one in re.findall(r"<li>(.*?)</li>", found.dom)]
    wanted = [
        r"is 0\.9\. It crawls: 22 steps",  # ln 10 / -ln 0.9 = 21.9
        "lands on the minimum in one step",
        r"is 0\.8\. It overshoots.*: 11 steps",
        r"is 1\. At the bound",
        r"is 1\.02\. Above the bound",
        r"2 \+ 2 × momentum = 3\.9; .*At the bound",
        "Above the bound",
        r"LR / \(2 \(2 - LR\)\) = 0\.0939.*ends at a mean of 0\.00",
        "1 of 3 options",
        "Two,c=e",
    ]
    assert len(told) == len(wanted), found.console
    assert [(line, pattern) for line, pattern in zip(told, wanted, strict=True) if not re.search(pattern, line)] == []
