"""Rooms import only from floors below them, and what starts light stays light."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "lrflow"
FLOORS = {
    "errors": 0, "files": 0, "lazy": 0, "lightning_alias": 0, "memory": 0, "metric": 0,
    "console": 1, "limits": 1, "outcome": 1, "runs": 1, "schedules": 1,
    "layers": 2, "models": 2, "data": 2,
    "optimizers": 3, "plan": 3, "feedback": 3,
    "training": 4,
    "tuning": 5, "vectorized": 5, "config": 5,
    "health": 6, "sweeps": 6, "reports": 7, "tasks": 8, "cli": 9,
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
