"""Writes the tree of `docs/architecture.md`: each module with the first line of its docstring.

python docs/tree.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: written by docs/tree.py -->\n", "<!-- end of tree -->\n"
TOP = "Modules without a room: shared by all rooms, `assemble.py`, and `api.py` for Python"


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def tree() -> str:
    """One heading per room, one line per module."""
    package = ROOT / "lrflow"
    rooms = [package, *sorted(path.parent for path in package.rglob("*/__init__.py"))]
    lines = []
    for room in rooms:
        about = TOP if room == package else summary(room / "__init__.py")
        lines += [f"\n**`{room.relative_to(ROOT)}/`** {about}\n\n"]
        lines += [
            f"- `{path.name}`: {summary(path)}\n"
            for path in sorted(room.glob("*.py"))
            if path.name not in ("__init__.py", "__main__.py")
        ]
    return "".join(lines)


def page() -> str:
    """The page with its tree as it is now."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    return head + BEGIN + tree() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
