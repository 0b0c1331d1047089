"""`lrflow docs` prints pages, sections and the list of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.cli.pages import documents, headings, section

HOME = Path(__file__).parents[2]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["docs", *words]) == 0
    return capsys.readouterr().out


def test_every_page_is_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pages = {path.stem for path in (HOME / "docs").glob("*.md")}
    pages |= {f"recipes/{path.parent.name}" for path in (HOME / "recipes").glob("*/README.md")}
    listed = shown(capsys)
    assert all(f"- `{name}`: " in listed for name in pages)
    assert pages == documents().keys()
    assert shown(capsys, "plan.md") == (HOME / "docs" / "plan.md").read_text()


def test_a_section_ends_at_the_next_heading_of_its_level() -> None:
    text = "# A\n## B one\n```bash\n# C\n```\n### D\nd\n## E\ne\n"
    assert section(text, "b ONE", "page") == "## B one\n```bash\n# C\n```\n### D\nd"
    assert section(text, "e", "page") == "## E\ne"  # the same words before those that hold them


def test_a_heading_is_found_in_any_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "early", "stopping").startswith("### Early stopping\n")
    several = shown(capsys, "measured")
    assert all(line.startswith("- `lrflow docs ") for line in several.splitlines())
    assert "'Measured'" in several
    assert "Tables" in headings(HOME / "docs" / "data.md")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainng"], "did you mean training?"),
        (["training", "resumming"], "did you mean Resuming?"),
        (["?!"], "no page"),
    ],
)
def test_a_misspelt_page_or_heading(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
