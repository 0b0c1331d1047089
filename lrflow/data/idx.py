"""The idx format of the MNIST family: a type, a shape, and the numbers (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lrflow.errors import LrflowError

# The third byte of a file; numbers are stored big-endian.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """The array in an idx file, packed with gzip or not.

    Args:
        path: the file; what it holds counts, not its suffix.

    Returns:
        A writable array of the file's shape and type.

    Raises:
        LrflowError: the file cannot be read, is no idx file, or is longer or shorter than its header says.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise LrflowError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise LrflowError(f"{path} is not an idx file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise LrflowError(f"{path} is truncated: it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise LrflowError(f"{path} is {what}: {found:,} bytes of data where its header says {expected:,}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
