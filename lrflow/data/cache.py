"""The folders that hold data sets on a machine; write files to them, or read files from a Debian package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import is_file, user_cache, write_whole

if TYPE_CHECKING:
    import numpy as np


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
    return [*chosen, here / name, *unpacked, system, user_cache() / name]


def default_folder(name: str) -> Path:
    """The folder for downloads of a data set: under `$LRFLOW_DATA` if that is set, else in the user's cache."""
    return Path(os.environ.get("LRFLOW_DATA") or user_cache()) / name


def digest(version: int, *parts: str) -> str:
    """Return a short name for what is made of some texts.

    Args:
        version: of the way in which it is made.
        parts: the texts.
    """
    found = hashlib.sha256(str(version).encode())
    for part in parts:
        found.update(f"{len(part)} {part}".encode(errors="surrogateescape"))
    return found.hexdigest()[:16]


def file_identity(path: str | Path) -> str:
    """Return path, size and time of a file, by which a changed one is noticed."""
    try:
        status = os.stat(path)
    except OSError:  # such as a link to nothing, which reading reports
        return str(path)
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def mapped(file: Path, shape: tuple[int, ...], kind: Any) -> np.ndarray | None:
    """Return the array in a file, mapped into memory; None if there is none, or it is damaged.

    Args:
        file: as `np.save` writes it.
        shape: that it must have.
        kind: its type of numbers.
    """
    import numpy as np

    try:
        # Copy on write: nothing reaches the file, and torch does not warn that it cannot write.
        found = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == kind else None


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_others(folder: Path, kept: str) -> None:
    """Remove what a cache held of the same data before their files changed, and what killed processes left.

    Args:
        folder: of the cache.
        kept: the name of the files that stay, without their endings: that of the data, and a digest after a hyphen.
    """
    home = kept.partition("-")[0]
    for path in [*folder.glob(f"{home}-*"), *folder.glob(f".{kept}.*.part")]:
        if path.stem != kept:
            path.unlink(missing_ok=True)


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
