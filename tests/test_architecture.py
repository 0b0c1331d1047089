"""Tests of the architecture: floors, import cycles, module length, and tests that mirror the modules."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
assert _spec
assert _spec.loader
tree = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tree)
PACKAGE = ROOT / "lrflow"
FLOORS = {
    "columns": 0, "errors": 0, "imports": 0, "memory": 0, "redaction": 0, "seal": 0, "wording": 0, "working_copy": 0,
    "files": 1, "launch": 1, "objectives": 1, "output": 1,
    "display": 2, "hub": 2, "limits": 2, "metric": 2, "outcome": 2, "runs": 2, "schedules": 2, "stops": 2,
    "finding": 3, "history": 3, "layers": 3, "models": 3, "data": 3, "remote": 3,
    "augment": 4, "clip": 4, "optimizers": 4, "plan": 4, "feedback": 4, "huggingface": 4,
    "config": 5,
    "loggers": 6, "translate": 6,
    "training": 7,
    "callbacks": 8,
    "health": 8,
    "assemble": 9,
    "tuning": 10,
    "sweeps": 11, "vectorized": 11,
    "reports": 12,
    "dashboard": 13, "tasks": 13,
    "cli": 14,
    "api": 15,
}  # fmt: skip
MAX_LINES = 400
WHOLE_ROOMS = {
    "health": {"recorded"},
    "optimizers": {"formulas", "learning_rate_free", "options", "prodigy", "schedule_free"},
    "schedules": {"against_formulas", "against_torch", "properties"},
}
"""Test files, by room, that test the whole room instead of one module."""


def dotted(path: Path) -> str:
    """`lrflow.plan.table` for lrflow/plan/table.py, `lrflow.plan` for its `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules of lrflow that a module imports: at its top, within functions, and for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                inner if (inner := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
    return names & MODULES.keys() - {"lrflow"}


@cache
def all_imports() -> dict[str, set[str]]:
    """Per module, the other modules of lrflow that it imports."""
    return {module: imports(path) - {module} for module, path in MODULES.items()}


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES if module not in ("lrflow", "lrflow.__main__")} == FLOORS.keys()


def test_the_architecture_page_has_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)} == FLOORS


def test_the_top_of_the_tree_is_what_the_architecture_page_says() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    described = page.partition("\nBeside `lrflow/`: ")[2].partition("\n\n")[0]
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    found = {path.name for path in ROOT.iterdir() if not any(path.match(pattern) for pattern in ignored)}
    assert found - {".git"} == {name.strip("/") for name in re.findall(r"`([\w./]+)`", described)} | {"lrflow"}


def test_rooms_import_only_from_floors_below() -> None:
    wrong = [
        f"{module} (floor {FLOORS[room(module)]}) imports {other} (floor {FLOORS[room(other)]})"
        for module, others in all_imports().items()
        if module not in ("lrflow", "lrflow.__main__")
        for other in sorted(others)
        if room(other) != room(module) and FLOORS[room(other)] >= FLOORS[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_import_cycles() -> None:
    left = {module: set(others) for module, others in all_imports().items()}
    while leaves := [module for module, others in left.items() if not others & left.keys()]:
        for module in leaves:
            del left[module]
    assert not left, "modules in import cycles, or above them: " + ", ".join(
        f"{module} -> {', '.join(sorted(others & left.keys()))}" for module, others in left.items()
    )


def test_no_module_is_too_long() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > MAX_LINES}


def test_the_tree_in_the_architecture_page_is_current() -> None:
    assert tree.PAGE.read_text() == tree.page(), "run: python docs/tree.py"


def test_the_tests_mirror_the_modules() -> None:
    """A file of a mirrored folder is named after a module, or after a module and a topic: test_plan_unfreezing.py."""
    misnamed = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        if folder == Path() or not (PACKAGE / folder / "__init__.py").exists():
            continue
        stems = {module.stem for module in (PACKAGE / folder).glob("*.py")} | WHOLE_ROOMS.get(folder.name, set())
        name = path.stem.removeprefix("test_")
        if not any(name == stem or name.startswith(f"{stem}_") for stem in stems):
            misnamed.append(str(path.relative_to(ROOT)))
    assert not misnamed
