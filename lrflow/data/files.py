"""Where data sets lie on a machine, and how a file gets there."""

from __future__ import annotations

import os
from pathlib import Path

from lrflow.files import write_whole


def places(name: str, system: Path) -> list[Path]:
    """The folders in which a data set is looked for, in this order.

    Args:
        name: of its folder under `$LRFLOW_DATA`, `.data` and the user's cache.
        system: where Debian's package puts it.
    """
    here = Path(".data")
    unpacked = sorted(path for path in here.rglob(name) if path != here / name)
    chosen = [Path(data) / name] if (data := os.environ.get("LRFLOW_DATA")) else []
    return [*chosen, here / name, *unpacked, system, _cache() / name]


def default_folder(name: str) -> Path:
    """Where a download is kept: under `LRFLOW_DATA` if that is set, else in the user's cache."""
    return Path(os.environ.get("LRFLOW_DATA") or _cache()) / name


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrflow"


def keep(content: bytes, path: Path) -> None:
    """Writes a file under its name once all of it is on the disk: nobody ever sees half of one.

    Args:
        content: of the file.
        path: of the file; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
