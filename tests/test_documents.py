"""The documentation holds: its links lead somewhere, its options exist. Its commands are run in test_commands.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from lrflow.config.composition.options import GROUPS, Catalogue, home, recipes
from lrflow.errors import LrflowError

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


def exit_codes() -> dict[str, int]:
    """The exit code of each class of lrflow's errors, read from the code, since some modules import torch."""
    pattern = re.compile(r"^class (\w+Error)\((\w+Error)\):\n((?:    .*\n|\n)*)", re.MULTILINE)
    texts = [path.read_text() for path in (ROOT / "lrflow").rglob("*.py")]
    classes = {name: (base, body) for text in texts for name, base, body in pattern.findall(text)}

    def code(name: str) -> int | None:
        base, body = classes.get(name, ("", ""))
        own = re.search(r"^    exit_code = (\d+)", body, re.MULTILINE)
        return int(own[1]) if own else LrflowError.exit_code if base == "LrflowError" else code(base) if base else None

    return {name: found for name in classes if (found := code(name)) is not None}


def test_every_error_has_an_entry_in_troubleshooting() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = {name: int(number) for name, number in re.findall(r"^\| `(\w+Error)` \| (\d+)", text, re.MULTILINE)}
    assert told.pop("StoppedError") == 128  # and the signal's number, which only the run knows
    known = exit_codes()
    assert len(known) > 10
    assert told == {name: number for name, number in known.items() if name != "StoppedError"}


def messages(folder: Path) -> set[str]:
    """Every text in the code of a folder, with [...] for what is filled in."""
    nodes = [node for path in folder.glob("*.py") for node in ast.walk(ast.parse(path.read_text()))]

    def text(part: ast.expr) -> str:
        match part:
            case ast.Constant(str(constant)):
                return constant
            case ast.FormattedValue(ast.Call(ast.Name("counted"), [_, ast.Constant(str(unit))])):
                return f"[...] {unit}s"
        return "[...]"

    return {"".join(map(text, node.values)) for node in nodes if isinstance(node, ast.JoinedStr)}


def test_every_finding_has_an_entry_in_troubleshooting_with_its_message() -> None:
    watch = yaml.safe_load((home("conf") / "health" / "watch.yaml").read_text())
    kinds = {name for name, node in watch.items() if isinstance(node, dict) and "_target_" in node} - {"sharpness"}
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(?: \(off\))? \| (`.*?) \| ", text, re.MULTILINE)
    assert {kind for kind, _ in rows} == kinds
    off = {kind for kind in kinds if watch[kind].get("action") == "ignore"}
    assert set(re.findall(r"^\| `(\w+)` \(off\)", text, re.MULTILINE)) == off
    said = messages(ROOT / "lrflow" / "health")
    told = {message for _, cell in rows for message in cell.strip("`").split("`<br>`")}
    assert {message for message in told if not any(one.startswith(message) for one in said)} == set()


def test_agents_read_a_page() -> None:
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) < 60
