"""Rooms import only from floors below them, and what starts light stays light."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "lrflow"
FLOORS = {
    "errors": 0, "files": 0, "lazy": 0, "lightning_alias": 0, "memory": 0, "metric": 0,
    "display": 1, "limits": 1, "outcome": 1, "runs": 1, "schedules": 1,
    "layers": 2, "models": 2, "data": 2,
    "optimizers": 3, "plan": 3, "feedback": 3,
    "config": 4,
    "training": 5,
    "tuning": 6, "vectorized": 6,
    "health": 7, "sweeps": 7, "reports": 8, "tasks": 9, "cli": 10,
}  # fmt: skip
MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
]


def imported(path: Path) -> set[str]:
    """The rooms that a module imports from, at its top or within."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "lrflow" else {f"lrflow.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("lrflow.")} & FLOORS.keys()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def above(path: Path) -> list[str]:
    """The rooms, not below its own, that a module imports from."""
    own = room(path)
    return sorted(other for other in imported(path) if other != own and FLOORS[other] >= FLOORS[own])


def test_a_room_imports_only_from_floors_below() -> None:
    assert {str(path.relative_to(PACKAGE)): found for path in MODULES if (found := above(path))} == {}


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in MODULES} == FLOORS.keys()


def named(path: Path) -> str:
    """A module's name below `lrflow`; a package is called as its folder is."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """The modules that a module imports from: at its top, within a function, or for the type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrflow."):
            home = str(node.module).removeprefix("lrflow.")
            found |= {whole if (whole := f"{home}.{alias.name}") in known else home for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("lrflow.") for alias in node.names}
    return found & known - {named(path)}


def test_no_modules_import_each_other() -> None:
    known = {named(path) for path in MODULES}
    graph = {named(path): imported_modules(path, known) for path in MODULES}
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the modules of a circle
