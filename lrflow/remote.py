"""Run folders on remote file systems (`output=s3://...`): a local folder that is uploaded, and downloaded to resume it.

A run writes below `remote_outputs/`, where paths follow the addresses: `remote_outputs/s3/bucket/runs/RUN` is the local
copy of `s3://bucket/runs/RUN`. What has changed is uploaded when the run starts, after each checkpoint and at the end.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lrflow import files
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.redaction import redact_text, without_password
from lrflow.runs import SUFFIX, RunFolder

log = logging.getLogger("lrflow")

WORK = "remote_outputs"
"""Folder in the working directory that holds the local copies."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_WHOLE_UPLOADS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "tos")
"""Object stores: an upload is there as a whole or not at all, and to rename is to copy."""
_PART = ".part"
_LOCAL = ("file", "local")


def is_url(text: str) -> bool:
    """Return whether a text is an address on a file system, such as `s3://bucket/runs`."""
    return _URL.fullmatch(text) is not None


def local_path(url: str) -> str:
    """Return the path of the local copy of an address, relative to the working directory."""
    scheme, rest = _split(url)
    return str(PurePosixPath(WORK, scheme, rest.strip("/")))


def url_of(path: Path) -> str | None:
    """Return the address of which a local path is the copy; None: it is no copy."""
    below = Path(os.path.abspath(path))
    work = Path.cwd() / WORK
    if not below.is_relative_to(work) or len(parts := below.relative_to(work).parts) < 2:
        return None
    return f"{parts[0]}://{'/' if parts[0] in _LOCAL else ''}{'/'.join(parts[1:])}"


def check_url(url: str, key: str) -> None:
    """Check that an address can be used, without asking the server.

    Args:
        url: the address.
        key: config key that the error message names.

    Raises:
        ConfigError: no file system has this scheme, its package is not installed, or the path leads elsewhere.
    """
    if (public := without_password(url)) != url:
        hint = "give it to the store's own configuration, or to its environment variables"
        raise ConfigError([Problem(key, "contains a password in plain text", public, hint)])
    scheme, rest = _split(url)
    parts = rest.strip("/").split("/")
    if not all(parts) or {".", ".."} & {*parts} or "\\" in rest or not rest.isprintable():
        message = "expected an address with a folder, such as s3://bucket/runs, without empty parts or .."
        raise ConfigError([Problem(key, message, url)])
    if scheme in _LOCAL and not rest.startswith("/"):
        message, meant = "expected a whole path, after three slashes", f"{scheme}://{Path(rest).absolute()}"
        raise ConfigError([Problem(key, message, url, f"did you mean {meant}?")])
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ConfigError([Problem(key, f"the package for {scheme}:// is not installed: {error}", url)]) from None
    except ValueError:
        near = did_you_mean(scheme, fsspec.available_protocols())
        raise ConfigError([Problem(key, f"fsspec knows no file system {scheme}://", url, near)]) from None


def download(url: str, key: str) -> Path:
    """Download the run folder of an address, and return the local path of the run or of its checkpoint.

    A local copy with a later checkpoint stays: the run was killed before it was uploaded.

    Args:
        url: address of a run folder, or of a checkpoint in it.
        key: config key that the error message names.

    Raises:
        ConfigError: there is no run with this address, or it cannot be read.
    """
    check_url(url, key)
    url = url.rstrip("/")
    run = posixpath.dirname(posixpath.dirname(url)) if url.endswith(SUFFIX) else url
    path = Path(local_path(run))
    try:
        system, home = _connect(run)
        found = _listed(system, home)
        if not any(name.startswith("checkpoints/") or name == "plan.json" for name in found):
            raise ConfigError([Problem(key, "there is no run folder with this address", url)])
        path.mkdir(parents=True, exist_ok=True)
        with files.lock(path / ".download"):  # the processes of one machine need one copy
            _fetch(system, home, found, path)
    except ConfigError:
        raise
    except Exception as error:  # each file system raises types of its own
        raise ConfigError([Problem(key, f"cannot be read: {_reason(error)}", url)]) from error
    return Path(local_path(url))


def _fetch(system: Any, home: str, found: dict[str, int], path: Path) -> None:
    """Download a run folder, unless the local copy has the same files or a later checkpoint.

    Args:
        system: the file system.
        home: path of the run folder on it.
        found: size of each remote file.
        path: the local copy.
    """
    here, there = _newest_step(dict(_files(path))), _newest_step(found)
    if here > there:
        log.warning(
            "%s: this local copy has a later checkpoint than %s, so the run continues from it", path, url_of(path)
        )
        return
    sizes = {name: size for name, (size, _) in _files(path)}
    if here < there or any(sizes.get(name) != size for name, size in found.items()):
        for name in sorted(found, key=_step_of):  # checkpoints last
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}{_PART}")
            try:
                system.get_file(f"{home}/{name}", str(part))
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    mirror = Mirror(Path(os.path.abspath(path)), str(url_of(path)), system, home)
    mirror.sent = {name: state for name, state in _files(path) if name in found}
    mirror.there = {*found}
    _mirrors[mirror.path] = mirror


def _step_of(name: str) -> int:
    """Return the step of one of the latest checkpoints by its name; 0 for other files."""
    match = re.fullmatch(rf"checkpoints/step-(\d+){re.escape(SUFFIX)}", name)
    return int(match.group(1)) if match else 0


def _newest_step(names: Iterable[str]) -> int:
    return max(map(_step_of, names), default=0)


@dataclass
class Mirror:
    """The remote copy of a local folder.

    Args:
        path: the local folder.
        url: address of the copy.
        system: its file system; None: not connected yet.
        home: path of the copy on it.

    Attributes:
        sent: size and time that each local file had when the remote copy was the same.
        there: remote files that this process may delete.
        failure: why the last upload failed; empty: it did not.
    """

    path: Path
    url: str
    system: Any = None
    home: str = ""
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)
    failure: str = ""

    def update(self) -> None:
        """Upload every file that has changed, then delete remote checkpoints that have no local file any more.

        Raises:
            LrflowError: another process has continued the run.
            Exception: of the file system.
        """
        here = dict(_files(self.path))
        if self.system is None:
            self._connect(here)
        for name, state in sorted(here.items(), key=lambda item: item[0] == "summary.json"):  # the end comes last
            if self.sent.get(name) != state:
                self._upload(name)
                self.sent[name] = state
                self.there.add(name)
        for name in [name for name in self.there if name not in here and name.startswith("checkpoints/")]:
            self.system.rm_file(f"{self.home}/{name}")
            self.there.remove(name)

    def _connect(self, here: Iterable[str]) -> None:
        system, self.home = _connect(self.url)
        found = _listed(system, self.home)
        if (step := _newest_step(found)) > _newest_step(here):
            hint = f"resume={self.url} continues from it"
            raise LrflowError(f"{self.url} has a later checkpoint, of step {step}, than {self.path}\n    {hint}")
        self.system, self.there = system, {*found} & {*here}

    def clean(self) -> None:
        """Delete the partial files of processes that were killed.

        Raises:
            Exception: of the file system.
        """
        for name in _listed(self.system, self.home, hidden=True):
            last = name.rpartition("/")[2]
            if last.startswith(".") and last.endswith(_PART):
                self.system.rm_file(f"{self.home}/{name}")

    def _upload(self, name: str) -> None:
        source, target = str(self.path / name), f"{self.home}/{name}"
        folder, _, last = target.rpartition("/")
        if _split(self.url)[0] in _WHOLE_UPLOADS:
            self.system.put_file(source, target)
            return
        self.system.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{last}{_PART}"
        self.system.put_file(source, part)
        try:
            self.system.mv(part, target)
        except OSError:
            if not self.system.exists(target):
                raise
            self.system.rm_file(target)  # a file system that does not rename onto a file
            self.system.mv(part, target)


_mirrors: dict[Path, Mirror] = {}


def upload(folder: RunFolder, must: bool = False, starts: bool = False) -> str | None:
    """Upload what has changed in a run folder whose output is remote, and return its address; None for others.

    Args:
        folder: the run folder.
        must: whether a failure is an error; otherwise it is logged, and the next upload tries again.
        starts: whether a run starts or is resumed; partial files of killed processes are then deleted.

    Raises:
        LrflowError: it could not be uploaded.
    """
    path = Path(os.path.abspath(folder.path))
    if not path.is_dir() or (url := url_of(path)) is None:
        return None
    mirror = _mirrors.setdefault(path, Mirror(path, url))
    try:
        mirror.update()
        if starts:
            mirror.clean()
    except LrflowError:
        raise
    except Exception as error:  # each file system raises types of its own
        message = f"{url}: could not be uploaded: {_reason(error)}"
        reported, mirror.failure = mirror.failure, message
        if must:
            raise LrflowError(f"{message}\n    the run is in {folder.path}") from error
        if message != reported:  # an outage is reported once
            log.warning("%s; the next upload tries again", message)
    else:
        mirror.failure = ""
    return url


def _reason(error: Exception) -> str:
    return redact_text(f"{type(error).__name__}: {error}".rstrip(": "))


def _split(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    assert match is not None
    return match.group(1), match.group(2)


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path on it."""
    from fsspec.core import url_to_fs

    system, home = url_to_fs(url)
    system.invalidate_cache()
    return system, home.rstrip("/")


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each file that is uploaded, with its size and time: no hidden ones, which are locks and partial files."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and not path.is_symlink():
                status = path.stat()
                yield path.relative_to(folder).as_posix(), (status.st_size, status.st_mtime_ns)


def _listed(system: Any, home: str, hidden: bool = False) -> dict[str, int]:
    """Return the size of each file in a remote folder; empty if there is none."""
    if not system.exists(home):
        return {}
    found = system.find(home, detail=True)
    prefix = system._strip_protocol(home).rstrip("/") + "/"
    names = {str(path).removeprefix(prefix): int(info.get("size") or 0) for path, info in found.items()}
    return {name: size for name, size in names.items() if hidden or not any(p.startswith(".") for p in name.split("/"))}
