"""The table of what lrflow and its peers have, from parity.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "parity.yaml"

INTRO = """\
# Parity

What lrflow and others have to set a learning rate, each by its own name. An empty cell: nothing of its own, though
most of them take a function or an optimizer that you write. An optimizer of another package counts where its name is
all that it takes; so do those of `lrflow[optimizers]`. What lrflow lacks stands here too. The lrflow column is
held against [conf/](../conf) by a test, torch's against the installed torch; the others were read in their source at
the versions named. Made from [parity.yaml](parity.yaml) by `make catalogue`.
"""


def read() -> dict[str, Any]:
    """The content of parity.yaml."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def page() -> str:
    """The text of docs/parity.md."""
    content = read()
    peers = content["peers"]
    lines = [INTRO, "| | version | read in |", "| --- | --- | --- |"]
    for peer in peers.values():
        version = f"[{peer['version']}]({peer['link']})" if "link" in peer else peer["version"]
        lines.append(f"| {peer['name']} | {version} | {', '.join(f'`{path}`' for path in peer['read'])} |")
    for title, rows in content["tables"].items():
        has = {column: sum(column in row for row in rows) for column in ("lrflow", *peers)}
        heads = [f"{name} ({has[key]})" for key, name in {"lrflow": "lrflow", **names(peers)}.items()]
        lines += [f"\n## {title}\n", f"| method | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        for row in rows:
            own = ", ".join(f"`{token}`" for token in row.get("lrflow", []))
            cells = [own, *(_cell(row.get(peer, "")) for peer in peers)]
            lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def names(peers: dict[str, Any]) -> dict[str, str]:
    """The peers' names by their keys."""
    return {key: peer["name"] for key, peer in peers.items()}


def _cell(text: str) -> str:
    """A peer's names as code; what stands in brackets, and words between names, are left as they are."""
    if not text:
        return ""
    name, bracket, note = text.partition(" (")
    coded = ", ".join(part if " " in part else f"`{part}`" for part in re.split(r", (?![^(]*\))", name))
    return coded + bracket + note
