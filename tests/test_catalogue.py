"""The catalogue and the parity table are current, and would not be if anything that they tell of were changed.

The commands of the catalogue are run in test_commands.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lrflow.config.composition.options import Catalogue, Option
from lrflow.schedules import Cosine

DOCS = Path(__file__).parent.parent / "docs"
GROUPS = ("schedule", "feedback", "optimizer", "layers", "scaling", "find")
TASKS = {"layers": "task=plan ", "find": "task=find "}
OPTIONS = [one for group in GROUPS for one in Catalogue().options(group).values() if one.name != "module"]


def named(option: Option) -> str:
    return f"{option.group}={option.name}"


@pytest.fixture(scope="module")
def docs() -> Any:
    """The scripts of docs/, by name."""
    sys.path.insert(0, str(DOCS))
    import catalogue
    import option_files
    import parity
    import pictures

    modules: dict[str, ModuleType] = {module.__name__: module for module in (catalogue, option_files, parity, pictures)}
    yield modules
    sys.path.remove(str(DOCS))
    for name in modules:
        del sys.modules[name]


@pytest.fixture(scope="module")
def built(docs: dict[str, Any]) -> Any:
    """What there should be."""
    return docs["catalogue"].build()


@pytest.fixture
def text_of(docs: dict[str, Any]) -> Callable[[Option], str]:
    """The catalogue's text of a group, with this option in it."""

    def text(option: Option) -> str:
        options = {**Catalogue().options(option.group), option.name: option}
        pages = [docs["option_files"].Page(one) for one in options.values() if one.name != "module"]
        found: str = docs["catalogue"].catalogue({option.group: pages}, {})
        return found

    return text


def test_pages_and_pictures_are_current(docs: dict[str, Any], built: Any) -> None:
    assert docs["catalogue"].stale(*built) == []


def test_every_option_has_an_entry() -> None:
    entries = re.split(r"^### ", (DOCS / "catalogue.md").read_text(), flags=re.MULTILINE)
    for option in OPTIONS:
        (entry,) = [entry for entry in entries if entry.startswith(f"{named(option)}\n")] or [""]
        assert f"\npython -m lrflow {TASKS.get(option.group, '')}{named(option)}" in entry, named(option)
        if re.search(r"\b(19|20)\d\d\b", option.summary):  # it cites a work
            assert "](http" in entry, named(option)


def test_an_option_more_is_noticed(docs: dict[str, Any], text_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# A new one.\n_target_: torch.optim.SGD\nlr: 0.1 # why\n")
    text = text_of(Option("optimizer", "mine", tmp_path / "mine.yaml"))
    assert "### optimizer=mine" in text
    assert "| `optimizer.lr` | `0.1` | why |" in text
    (told,) = [line for line in docs["catalogue"].stale({DOCS / "catalogue.md": text}, []) if "images" not in line]
    assert told.startswith("catalogue.md")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lower: -6.0", "lower: -5.0"),
        ("# argument of tanh at the start", "# the argument of tanh at the start"),
        ("# Hyperbolic", "# The hyperbolic"),
    ],
    ids=["default", "comment", "summary"],
)
def test_a_change_of_its_file_is_noticed(old: str, new: str, text_of: Callable[..., str], tmp_path: Path) -> None:
    option = Catalogue().options("schedule")["tanh"]
    content = option.path.read_text()
    assert old in content
    changed = tmp_path / "tanh.yaml"
    changed.write_text(content.replace(old, new))
    assert text_of(Option("schedule", "tanh", changed)) != text_of(option)


def test_a_change_of_a_docstring_is_noticed(text_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    option = Catalogue().options("schedule")["cosine"]
    before = text_of(option)
    monkeypatch.setattr(Cosine, "__doc__", "Something else.")
    assert text_of(option) != before


def test_a_picture_of_another_plan_is_noticed(docs: dict[str, Any]) -> None:
    pictures = docs["pictures"]
    picture = pictures.schedule_picture("cosine")
    assert picture.is_current()
    other = pictures.plan_of(*pictures.ONE_GROUP, "schedule=cosine", "schedule.warmup=6%")
    assert not pictures.Picture(picture.name, (other,), picture.figure).is_current()
    assert not pictures.Picture("catalogue/none.png", picture.plans, picture.figure).is_current()


def test_a_picture_of_another_formula_is_noticed(docs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cosine, "__call__", lambda self, step, phase: 1.0 - phase.progress(step))
    assert not docs["pictures"].schedule_picture("cosine").is_current()


def test_a_picture_that_was_drawn_is_current(docs: dict[str, Any], tmp_path: Path) -> None:
    picture = docs["pictures"].schedule_picture("rex")
    assert not picture.is_current(tmp_path)
    picture.write(tmp_path)
    assert picture.is_current(tmp_path)
    (left,) = docs["catalogue"].stale({}, [], tmp_path)
    assert picture.name in left  # of no option that is there


class TestParity:
    def test_rows_speak_of_known_peers(self, docs: dict[str, Any]) -> None:
        content = docs["parity"].read()
        known = {"method", "lrflow", *content["peers"]}
        rows = [row for rows in content["tables"].values() for row in rows]
        assert [row for row in rows if not set(row) <= known or len(row) < 2] == []
        methods = [row["method"] for row in rows]
        assert len(methods) == len(set(methods))

    def test_every_option_stands_in_it(self, docs: dict[str, Any]) -> None:
        told = {token for rows in docs["parity"].read()["tables"].values() for row in rows for token in own(row)}
        assert {named(option) for option in OPTIONS if option.name != "none"} <= told

    def test_lrflow_has_what_it_says(self, docs: dict[str, Any]) -> None:
        catalogue = Catalogue()
        for rows in docs["parity"].read()["tables"].values():
            for token in (token for row in rows for token in own(row)):
                group, is_option, name = token.partition("=")
                if is_option:
                    assert name in catalogue.options(group), token
                else:
                    group, _, key = token.partition(".")
                    last = key.rpartition(".")[2]
                    files = [option.path.read_text() for option in catalogue.options(group).values()]
                    assert any(re.search(rf"^ *(- )?{last}:", file, re.MULTILINE) for file in files), token

    def test_torch_has_what_it_says(self, docs: dict[str, Any]) -> None:
        content = docs["parity"].read()
        version = content["peers"]["torch"]["version"]
        if torch.__version__.partition("+")[0] != version:
            pytest.skip(f"the table is of torch {version}")
        places = (torch.optim, torch.optim.lr_scheduler, torch.optim.swa_utils)
        for rows in content["tables"].values():
            for name in re.findall(r"\b[A-Z]\w+(?:LR|Restarts|Plateau|Scheduler)\b", " ".join(map(torch_cell, rows))):
                assert any(hasattr(place, name) for place in places), name
        for row in content["tables"]["Optimizers"]:
            for name in re.findall(r"^\w+", torch_cell(row)):
                assert hasattr(torch.optim, name), name

    def test_nothing_of_torch_is_left_out(self, docs: dict[str, Any]) -> None:
        told = " ".join(torch_cell(row) for rows in docs["parity"].read()["tables"].values() for row in rows)
        optimizers = {
            name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"
        }
        schedulers = set(torch.optim.lr_scheduler.__all__) - {"LRScheduler"}
        assert {name for name in optimizers | schedulers if not re.search(rf"\b{name}\b", told)} == set()


def own(row: dict[str, Any]) -> list[str]:
    found: list[str] = row.get("lrflow", [])
    return found


def torch_cell(row: dict[str, Any]) -> str:
    return str(row.get("torch", ""))
