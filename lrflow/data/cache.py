"""Where data sets lie on a machine, and how their files get there: written whole, or out of Debian's packages."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lrflow.errors import LrflowError
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


def read_package(package: str, paths: Iterable[Path]) -> dict[Path, bytes]:
    """The content of files as a package would install them; apt checks the package against Debian's signature.

    Args:
        package: its name in Debian.
        paths: of the files, absolute.

    Returns:
        The content of each file.

    Raises:
        LrflowError: there is no apt here, or it has no such package, or that has no such file.
    """
    with tempfile.TemporaryDirectory() as temporary:
        try:
            _run("apt-get", "download", package, cwd=temporary)
            for archive in Path(temporary).glob("*.deb"):
                _run("dpkg-deb", "-x", archive.name, ".", cwd=temporary)
            return {path: (Path(temporary) / path.relative_to("/")).read_bytes() for path in paths}
        except (OSError, ValueError) as error:
            raise LrflowError(f"apt-get download {package}: {error}") from error


def _run(*command: str, cwd: str) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(lines[-1])
