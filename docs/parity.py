"""The table of what lrflow and its peers have, from parity.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "parity.yaml"

INTRO = """\
# Parity

This page lists what lrflow and other libraries offer to set a learning rate and to average weights, by the name that
each library uses. It also lists what lrflow lacks. An empty cell means that the library has nothing of its own, though
most of them accept a function or an optimizer that you write. An optimizer of another package counts if its name is
enough to select it; this includes those of `lrflow[optimizers]`.

A test checks the lrflow column against [conf/](../conf), and torch's against the installed torch. The others were read
in the source code at the listed versions. `make catalogue` generates this page from [parity.yaml](parity.yaml).
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
