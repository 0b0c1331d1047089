"""The documentation holds: its links lead somewhere, its options exist. Its commands are run in test_commands.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lrflow.config.options import GROUPS, Catalogue, home, recipes

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), ROOT / "llms.txt", *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*.md")])

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        for link in LINK.findall(FENCED.sub("", path.read_text())):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            if not link.startswith("http") and not (target.exists() and (not anchor or anchor in anchors(target))):
                broken.append((str(path.relative_to(ROOT)), link))
    assert broken == []


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md"])
def test_the_table_of_options_is_whole(name: str) -> None:
    root = yaml.safe_load((home("conf") / "config.yaml").read_text())
    defaults = {
        group: option for entry in root["defaults"] if isinstance(entry, dict) for group, option in entry.items()
    }
    catalogue = Catalogue()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", (ROOT / name).read_text(), re.MULTILINE))
    for group in GROUPS:
        told = re.findall(r"`(\w+)`", rows[group])
        # Variants of a recipe stand in its own README.
        assert sorted(told) == sorted(name for name in catalogue.options(group) if "/" not in name), group
        assert defaults[group] in (told[0], None), group


def test_a_recipe_is_told_of_in_its_readme() -> None:
    readmes = {name: home("recipes") / name.partition("/")[0] / "README.md" for name in recipes()}
    assert [name for name, path in readmes.items() if not re.search(rf"recipe={name}\b", path.read_text())] == []


def test_llms_txt_has_the_form_of_its_convention_and_every_page() -> None:
    """A title, a quotation, text, then sections of nothing but links with notes: llmstxt.org."""
    text = (ROOT / "llms.txt").read_text()
    head, *sections = text.split("\n## ")
    assert re.fullmatch(r"# lrflow\n\n(> .+\n)+\n[^#]+", head)
    for section in sections:
        title, _, links = section.partition("\n\n")
        assert re.fullmatch(r"[\w ]+", title)
        assert all(re.fullmatch(r"- \[[^\]]+\]\([^)]+\): .+", line) for line in links.strip().splitlines()), title
    assert sections[-1].startswith("Optional\n")
    named = {(ROOT / link).resolve() for link in LINK.findall(text)}
    assert {path for path in DOCUMENTS if path.parent != ROOT and path.parent.parent != ROOT / "recipes"} <= named


def test_agents_read_a_page() -> None:
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) < 60
