"""Memory of a process: how much is left, and how it is freed between several runs in sequence."""

from __future__ import annotations

import ctypes
import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def freed_after() -> Iterator[None]:
    """Collect garbage when the block ends, of objects created within it.

    Trainer, module, loops and data of a run form reference cycles. Python collects cycles by the number of new objects,
    and a data set or a model on a GPU counts as few, so those of several runs would pile up. Objects from before the
    block are frozen and not traversed, so this takes milliseconds.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@contextmanager
def garbage_collection(enabled: bool) -> Iterator[None]:
    """Switch Python's garbage collector on or off within the block.

    It is off while a command starts: imports and composition create hundreds of thousands of objects and little
    garbage, and traversing them takes a sixth of the time.
    """
    before = gc.isenabled()
    switch = {True: gc.enable, False: gc.disable}
    switch[enabled]()
    try:
        yield
    finally:
        switch[before]()


@contextmanager
def kept_for_good() -> Iterator[None]:
    """Pause garbage collection for imports, and freeze what they created.

    The modules of torch and Lightning are a million objects that stay. Later collections do not traverse them.
    """
    with garbage_collection(False):
        try:
            yield
        finally:
            gc.freeze()


def clear_locals(error: BaseException) -> None:
    """Clear the traceback frames of a stored exception, so that their locals, such as a trainer, can be freed."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def available_memory() -> int | None:
    """Return how many bytes this process can still allocate in the machine's memory; None where that is unknown.

    It is the least of what the machine, the control group and the process's own limit (`ulimit -v`) leave. Only Linux
    reports it.
    """
    left = [*_left_in_machine(), *_left_in_groups(), *_left_of_limit()]
    return max(0, min(left)) if left else None


def release_memory() -> None:
    """Return freed memory that the C library keeps to the machine, where the library is glibc."""
    with suppress(OSError, AttributeError):  # another system or library
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int | None:
    """Return the most bytes that this process has held since `reset_peak_memory`; None where that is unknown."""
    return _kilobytes(_PROCESS / "status", "VmHWM")


def resident_memory() -> int | None:
    """Return how many bytes this process holds; None where that is unknown."""
    return _kilobytes(_PROCESS / "status", "VmRSS")


def reset_peak_memory() -> None:
    """Let `peak_memory` start from what the process holds now, where the system allows it."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


_PROCESS = Path("/proc/self")
_GROUPS = Path("/sys/fs/cgroup")


def _kilobytes(path: Path, name: str) -> int | None:
    """Return the bytes that a line such as `VmRSS:  1024 kB` states; None if there is none."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
        return int(found.group(1)) * 1024 if found else None
    return None


def _left_in_machine() -> list[int]:
    left = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return [] if left is None else [left]


def _left_in_groups() -> list[int]:
    """Return what the limits of this process's control groups leave, in version 2 and in version 1."""
    left = []
    with suppress(OSError):
        for line in (_PROCESS / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            )
            below = _GROUPS / controllers
            for folder in {below / path.strip("/"), below}:  # a container shows its own group as the root
                with suppress(OSError, ValueError):  # ValueError: "max", no limit
                    limit, used = (int((folder / name).read_text()) for name in names)
                    cached = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                    left.append(limit - used + (int(cached.group(1)) if cached else 0))
    return left


def _left_of_limit() -> list[int]:
    with suppress(ImportError):  # there is no such limit on Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        held = _kilobytes(_PROCESS / "status", "VmSize")
        if limit != resource.RLIM_INFINITY and held is not None:
            return [limit - held]
    return []
