"""Files out of Debian's packages, with apt and dpkg but without root."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lrflow.errors import LrflowError


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
