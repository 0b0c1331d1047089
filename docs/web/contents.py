"""What the documentation's site consists of: each of its files by path, made of the files of this repository.

A file keeps its path, so that a link means the same in the repository and on the site. Some pages exist on the site
only: the option files of each group, the reference of the Python interface, and every other file that a page links to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import lrflow

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
ATTRIBUTE = re.compile(r'(?<= (?:src)=")([^"#]+)')
INTERACTIVE = re.compile(r"<!-- interactive: (\w+) -->")
COPIED = {".png", ".gif", ".svg", ".csv", ".json", ".ipynb"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
NAMES = {"Optional": "More"}
"""Sections of llms.txt that its convention names otherwise than a site would."""
PACKAGES = (
    "lrflow", "lrflow.schedules", "lrflow.layers", "lrflow.plan", "lrflow.optimizers", "lrflow.feedback", "lrflow.clip",
    "lrflow.health", "lrflow.data", "lrflow.augment", "lrflow.models", "lrflow.training",
)  # fmt: skip
"""What the reference describes: the interface for scripts, then the packages that code of your own builds on."""


class Contents:
    """The files of the site.

    Args:
        root: folder of the repository.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.texts: dict[str, str] = {}
        """Pages as Markdown, by path."""
        self.files: set[str] = set()
        """Paths of files that are copied as they are."""
        for path in ["README.md", *(path for _, links in self.sections for _, path in links), *self._recipes()]:
            self._add(path)
        self.texts["docs/recipes.md"] += self._gallery()
        self.texts |= self._options() | self._reference()

    @cached_property
    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The sections of llms.txt: the title of each, and titles and paths of its pages."""
        _, *sections = (self.root / "llms.txt").read_text(encoding="utf-8").split("\n## ")
        link = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\)", re.MULTILINE)
        return [(section.partition("\n")[0], link.findall(section)) for section in sections]

    def navigation(self) -> list[dict[str, list[object]]]:
        """Every page for readers, section by section, as MkDocs takes it."""
        pages: dict[str, list[object]] = {
            title: [{name: path} for name, path in links] for title, links in self.sections
        }
        named = {path for _, links in self.sections for _, path in links}
        pages["Recipes"] += [{path.split("/")[1]: path} for path in self._recipes() if path not in named]
        pages["Reference"] += [
            {"Option files": [path for path in self.texts if path.startswith("conf/")]},
            {"Python interface": [path for path in self.texts if path.startswith("python/")]},
        ]
        return [{NAMES.get(title, title): entries} for title, entries in pages.items()]

    def _recipes(self) -> list[str]:
        """The page of each recipe."""
        return [path.relative_to(self.root).as_posix() for path in sorted(self.root.glob("recipes/*/README.md"))]

    def _add(self, path: str) -> None:
        """Take a file in, and all that it links to."""
        if path in self.texts or path in self.files or f"{path}.md" in self.texts:
            return
        source = self.root / path
        if not source.exists():
            return  # MkDocs reports the link
        if source.suffix in COPIED:
            self.files.add(path)
        elif source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            self.texts[path] = INTERACTIVE.sub(
                r'<div class="interactive" data-figure="\1"></div>', _relinked(path, text)
            )
            for target in _targets(path, text):
                if target.partition("/")[0] != "conf":
                    self._add(target)
        elif source.is_file():
            self.texts[f"{path}.md"] = f"{UNSEARCHED}# {path}\n\n{_block(source)}"
        elif source.is_dir():
            below = [file for file in sorted(source.rglob("*")) if file.suffix in LANGUAGES]
            parts = [f"## {file.relative_to(source)}\n\n{_block(file)}" for file in below]
            self.texts[f"{path}.md"] = "\n".join([f"{UNSEARCHED}# {path}\n", *parts])

    def _gallery(self) -> str:
        """The first picture of each recipe, with a link."""
        cards = []
        for path in self._recipes():
            if image := re.search(r"!\[([^\]]*)\]\(([^)]+\.(?:png|gif))\)", self.texts[path]):
                name, folder = path.split("/")[1], posixpath.dirname(path)
                cards.append(f"[![{image[1]}](../{folder}/{image[2]})<br>**{name}**](../{path})\n")
        return '\n## Gallery\n\n<div class="gallery" markdown>\n\n' + "\n".join(cards) + "\n</div>\n"

    def _options(self) -> dict[str, str]:
        """The option files of each group; the comments in them say what an option and its keys are."""
        conf = self.root / "conf"
        pages = {}
        for group in sorted(path for path in conf.iterdir() if path.is_dir()):
            entries = [
                f"## {group.name}={option.stem} {{#{group.name}{option.stem}}}\n\n{_block(option)}"
                for option in sorted(group.glob("*.yaml"))
            ]
            if entries:
                pages[f"conf/{group.name}.md"] = "\n".join([f"# {group.name}\n", *entries])
        listed = "\n".join(f"- [{Path(path).stem}]({Path(path).name})" for path in pages)
        about = "Each group has a page with its option files. The keys outside of groups are those of the root config:"
        root = _block(conf / "config.yaml")
        return {"conf/index.md": f"# All keys\n\n{listed}\n\n{about}\n\n{root}"} | pages

    def _reference(self) -> dict[str, str]:
        """A page for each package, which mkdocstrings fills from docstrings; those of the functions are in api.py."""
        pages = {f"python/{package}.md": f"# {package}\n\n::: {package}\n" for package in PACKAGES}
        functions = ", ".join(name for name in lrflow.__all__ if name.islower())
        classes = ", ".join(name for name in lrflow.__all__ if not name.islower())
        pages["python/lrflow.md"] = (
            "# lrflow\n\n"
            f"::: lrflow.api\n    options: {{members: [{functions}]}}\n\n"
            f"::: lrflow\n    options: {{members: [{classes}], show_root_members_full_path: false}}\n"
        )
        return pages


def _block(source: Path) -> str:
    """A file as a block of code."""
    return f"~~~~{LANGUAGES.get(source.suffix, 'text')}\n{source.read_text(encoding='utf-8').rstrip()}\n~~~~\n"


def _targets(path: str, text: str) -> Iterable[str]:
    """The paths that a page links to."""
    text = CODE.sub("", text)
    return sorted({_resolved(path, link) for link in [*LINK.findall(text), *ATTRIBUTE.findall(text)]})


def _relinked(path: str, text: str) -> str:
    """The page, whose links to what is no page lead to the page about it."""
    pieces = CODE.split(text)
    pieces[::2] = [LINK.sub(lambda found: _page_of(path, found.group()), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _page_of(path: str, link: str) -> str:
    target = _resolved(path, link)
    if target == "conf":
        return f"{link}/index.md"
    if option := re.fullmatch(r"conf/(\w+)/(\w+)\.yaml", target):
        return f"{posixpath.dirname(link)}.md#{option[1]}{option[2]}"
    return link if Path(link).suffix in {*COPIED, ".md"} else f"{link.rstrip('/')}.md"


def _resolved(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
