"""The JavaScript that draws the charts of a page: Vega-Lite, which the package vl-convert-python brings."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import cache
from importlib.metadata import version

from lrflow.errors import LrflowError
from lrflow.files import user_cache, write_whole

_BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


@cache
def library() -> bytes:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, compressed by gzip.

    The package takes seconds to make it, so it is made once per version of the package and kept in the user's cache.

    Raises:
        LrflowError: the package cannot make it.
    """
    path = user_cache() / f"vega-{version('vl-convert-python')}.js.gz"
    with suppress(OSError, EOFError, zlib.error):
        kept = path.read_bytes()  # a damaged file does not match its checksum
        if gzip.decompress(kept) and path.stat().st_uid == os.getuid():  # all users may share the folder
            return kept
    made = gzip.compress(_bundle(), 9, mtime=0)
    with suppress(OSError):  # such as a home that cannot be written to
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, made)
    return made


def _bundle() -> bytes:
    """Make the bundle in a process of its own: the engine of JavaScript starts threads, which no fork survives."""
    try:
        return subprocess.run([sys.executable, "-c", _BUNDLE], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()[-1:]
        reason = last[0] if last else str(error)
        raise LrflowError(
            f"vl-convert-python cannot make the library that draws the figures of a page: {reason}"
        ) from None
