"""The folders that hold data sets on a machine; write files to them, or read files from a Debian package."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import is_file, write_whole


def search_folders(name: str, system: Path) -> list[Path]:
    """The folders in which a data set is searched, in this order.

    Args:
        name: the name of its folder under `$LRFLOW_DATA`, `.data` and the user's cache.
        system: the folder where Debian's package installs it.

    Raises:
        ConfigError: $LRFLOW_DATA is a file.
    """
    if (data := os.environ.get("LRFLOW_DATA")) and is_file(Path(data)):
        raise ConfigError([Problem("LRFLOW_DATA", "is a file; expected a folder of data sets", data)])
    here = Path(".data")
    unpacked = sorted(path for path in here.rglob(name) if path != here / name)
    chosen = [Path(data) / name] if data else []
    return [*chosen, here / name, *unpacked, system, _cache() / name]


def default_folder(name: str) -> Path:
    """The folder for downloads of a data set: under `$LRFLOW_DATA` if that is set, else in the user's cache."""
    return Path(os.environ.get("LRFLOW_DATA") or _cache()) / name


def _cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrflow"
    except RuntimeError:  # a user without a home, as in a container
        return Path(tempfile.gettempdir()) / "lrflow"


def write_file(content: bytes, path: Path) -> None:
    """Write a file atomically, so that a reader never finds half of it.

    Args:
        content: the content of the file.
        path: the path of the file; its folder is created if necessary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def read_package(package: str, paths: Iterable[Path]) -> dict[Path, bytes]:
    """Download a Debian package with apt, which checks its signature, and read files from it without installing it.

    Args:
        package: the name of the package.
        paths: the absolute paths of the files where the package would install them.

    Returns:
        The content of each file.

    Raises:
        LrflowError: there is no apt here, apt has no such package, or the package has no such file.
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
