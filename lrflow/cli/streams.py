"""The standard streams of the process, which may be closed, full, or unable to show every character."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from lrflow.errors import LrflowError


def open_streams() -> None:
    """Open closed standard streams on the null device, and let those without UTF-8 replace what they cannot show.

    Otherwise the next file that is opened, such as metrics.csv, would take the place of a closed stream, and what
    libraries print there would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for the whole process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if "utf" not in (getattr(stream, "encoding", None) or "utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def put(stream: TextIO, text: str = "") -> None:
    """Write a text to a stream, and flush it.

    Raises:
        BrokenPipeError: its reader is gone.
        LrflowError: it cannot be written to, such as a file on a full disk.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: it is closed
        reason = getattr(error, "strerror", None) or error
        raise LrflowError(f"the output of this command could not be written: {reason}") from error


def discard_unwritable(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device; otherwise Python reports it at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
