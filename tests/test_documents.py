"""The documentation holds: its links lead somewhere, its options exist, its commands can be run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lrflow.cli import sweep
from lrflow.cli.arguments import parse
from lrflow.config import compose
from lrflow.config.catalogue import GROUPS, Catalogue, home, recipes
from lrflow.config.overrides import expand, read
from lrflow.config.trust import extend

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:    |\$ )((?:python -m lrflow|torchrun)\b(?:.*\\\n)*.*)$", re.MULTILINE)
FILE = re.compile(r"^# ((?:options|my_pkg)/\S+?\.(?:yaml|py))\b", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(FENCED.sub("", path.read_text())):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


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


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_told_of_in_its_readme(name: str) -> None:
    assert re.search(rf"recipe={name}\b", (home("recipes") / name.partition("/")[0] / "README.md").read_text())


COMMANDS = sorted({command for path in DOCUMENTS for command in COMMAND.findall(path.read_text())})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the options and the packages that the documentation speaks of."""
    folder = tmp_path_factory.mktemp("place")
    for path in DOCUMENTS:
        for _, block in FENCED.findall(path.read_text()):
            if named := FILE.search(block):
                file = folder / named.group(1)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block)
            elif "LogDecay" in block or "def late" in block:
                with (folder / "shapes.py").open("a") as shapes:
                    shapes.write(block)
    with (folder / "my_pkg/__init__.py").open("a") as package:
        package.write((folder / "shapes.py").read_text())
    # What recipes/own_model/README.md is copied to, seen from inside and from beside.
    own = home("recipes") / "own_model"
    shutil.copytree(own / "my_project", folder / "my_project")
    shutil.copytree(own / "options", folder / "my_project/options")
    shutil.copytree(own / "options", folder / "options", dirs_exist_ok=True)
    shutil.copy(own / "pyproject.toml", folder)
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that folder, whose packages have not been imported, with sweeps of no more jobs than it takes."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("LRFLOW_TRUST", "")
    every = sweep._jobs_to_check
    monkeypatch.setattr(sweep, "_jobs_to_check", lambda *asked: covering(every(*asked)))
    for package in ("my_pkg", "my_project"):
        monkeypatch.delitem(sys.modules, package, raising=False)


def covering(jobs: list[list[str]]) -> list[list[str]]:
    """The first jobs of a sweep that have every value of every key."""
    seen: set[str] = set()
    found = []
    for job in jobs:
        if not seen.issuperset(job):
            found.append(job)
            seen.update(job)
    return found


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_run(command: str) -> None:
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    args = parse(words[words.index("lrflow") + 1 :])
    extend(args.trust)
    if args.multirun:
        catalogue = Catalogue([args.config_dir] if args.config_dir else [])
        sweep.check_sweep(read(expand(args.overrides), catalogue, sweep=True), args.config_dir, catalogue)
    elif not args.help:
        compose(args.overrides, args.config_dir)
    sys.modules.pop("my_pkg", None)
