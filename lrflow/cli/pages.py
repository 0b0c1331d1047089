"""`lrflow docs`: the pages of the documentation in the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.config.composition.options import home, recipes
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.output import put

_HEADING = re.compile(r"(#{1,6}) (.*)")
_FENCE = "```"


def show_page(words: Sequence[str]) -> None:
    """Print a page, a section of it, or the list of all pages.

    A terminal gets formatted text; anything else, such as a pipe, gets the Markdown.

    Args:
        words: name of a page and words of a heading; a heading alone is looked for in all pages.

    Raises:
        ConfigError: there is no such page or heading.
    """
    pages = documents()
    if not words:
        listed = [f"- `{name}`: {title(path)}" for name, path in pages.items()]
        _print("\n".join(["# Pages: `lrflow docs PAGE [HEADING]`", "", *listed]))
        return
    name, heading = words[0].removesuffix(".md"), " ".join(words[1:])
    if name in pages:
        text = pages[name].read_text(encoding="utf-8")
        _print(section(text, heading, name) if heading else text)
        return
    wanted = " ".join(words).lower()
    found = [(page, line) for page, path in pages.items() for line in headings(path) if wanted in line.lower()]
    if not found:
        known = [*pages, *(line for path in pages.values() for line in headings(path))]
        message = "there is no page of this name, and no heading with these words"
        raise ConfigError([Problem("lrflow docs", message, " ".join(words), did_you_mean(" ".join(words), known))])
    if len(found) == 1:
        page, line = found[0]
        _print(section(pages[page].read_text(encoding="utf-8"), line, page))
        return
    _print("\n".join(f"- `lrflow docs {page} '{line}'`" for page, line in found))


def documents() -> dict[str, Path]:
    """Return the file of each page by name; those of the recipes as `recipes/NAME`."""
    found = {path.stem: path for path in sorted(home("docs").glob("*.md"))}
    readmes = {f"recipes/{name}": path.parent / "README.md" for name, path in recipes().items() if "/" not in name}
    return found | {name: path for name, path in readmes.items() if path.is_file()}


def title(path: Path) -> str:
    """Return the first heading of a page."""
    return next(iter(headings(path)), path.stem)


def headings(path: Path) -> list[str]:
    """Return the headings of a page, without those in blocks of code."""
    return [line for _, _, line in _headings(path.read_text(encoding="utf-8").splitlines())]


def section(text: str, heading: str, page: str) -> str:
    """Return the section of a page whose heading is, or holds, these words, with its subsections.

    Raises:
        ConfigError: there is none.
    """
    lines = text.splitlines()
    found = _headings(lines)
    wanted = heading.lower()
    matches = [one for one in found if one[2].lower() == wanted] or [one for one in found if wanted in one[2].lower()]
    if not matches:
        hint = did_you_mean(heading, [line for _, _, line in found])
        raise ConfigError([Problem("lrflow docs", f"the page {page} has no such heading", heading, hint)])
    start, level, _ = matches[0]
    end = next((number for number, deeper, _ in found if number > start and deeper <= level), len(lines))
    return "\n".join(lines[start:end]).rstrip()


def _headings(lines: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return line, level and text of each heading."""
    found, in_code = [], False
    for number, line in enumerate(lines):
        in_code ^= line.startswith(_FENCE)
        if not in_code and (match := _HEADING.fullmatch(line)):
            found.append((number, len(match[1]), match[2]))
    return found


def _print(text: str) -> None:
    if not sys.stdout.isatty():
        put(sys.stdout, f"{text.rstrip()}\n")
        return
    from rich.markdown import Markdown

    from lrflow.cli.errors import console

    console().print(Markdown(text))
