"""Images decoded by Pillow into bytes of one size and mode, many at once by several processes; without torch."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.errors import LrflowError, shortened
from lrflow.limits import Limit, is_whole
from lrflow.stops import leave_to_parent

if TYPE_CHECKING:
    from PIL import Image

FILE_TYPES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
"""Endings of the files that are taken for images, in small letters."""

MODES = {"RGB": 3, "L": 1}
"""Channels by mode: colours, or grey."""

FITS = ("crop", "stretch")
"""How an image of another shape is made to fit."""

_LARGEST = 8192


def _is_size(value: Any) -> bool:
    pair = value if isinstance(value, list | tuple) else [value, value]
    return len(pair) == 2 and all(is_whole(one) and 1 <= one <= _LARGEST for one in pair)


SIZES = Limit(f"pixels from 1 to {_LARGEST}, or [height, width]", _is_size)
"""Sizes to which images are decoded."""

_ORIENTATION = 0x0112
"""EXIF's tag of how the camera was held."""
_BYTES = np.arange(256)
_WHITE = (255, 255, 255, 255)
_PER_PROCESS = 64
"""Images from which on another process is worth its start; also those that a process reports at once."""


@dataclass(frozen=True)
class Form:
    """The form in which all images are read.

    Args:
        height: in pixels.
        width: in pixels.
        mode: `RGB` or `L`.
        fit: `crop`: scaled until it covers the form, and cut at its centre; `stretch`: scaled to the form.
    """

    height: int
    width: int
    mode: str
    fit: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return MODES[self.mode], self.height, self.width


@dataclass(frozen=True, eq=False)
class Decoded:
    """What was found while images were decoded.

    Args:
        sums: sum of the bytes of each channel; int64 [images, channels].
        squares: sum of their squares.
        wrong: by index, why an image could not be decoded.
    """

    sums: np.ndarray
    squares: np.ndarray
    wrong: dict[int, str]


def decode(source: str | Path | bytes, form: Form) -> np.ndarray:
    """Return an image, a file or what is in it, as bytes, uint8 [channels, height, width].

    The orientation of EXIF is applied. Transparent pixels are laid over white, 16 bits are scaled to 8, palettes and
    other colour spaces are converted by Pillow, and of several frames the first is taken. A JPEG is decoded at the
    smallest scale of at least twice the size that is needed. Scaling is bilinear over the whole area of a pixel.

    Raises:
        ValueError: it cannot be decoded; the message says why.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which counts as none, and of images that are large
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.draft(form.mode, _sizes_of_draft(image.size, form))
                return _decoded(image, form)
    except UnidentifiedImageError:
        size = len(source) if isinstance(source, bytes) else os.stat(source).st_size
        raise ValueError("is no image that Pillow can read" if size else "is empty") from None
    except Exception as error:  # Pillow's decoders raise many types
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"cannot be decoded: {shortened(message, 100)}") from error


def _sizes_of_draft(size: tuple[int, int], form: Form) -> tuple[int, int]:
    """Return the least sizes at which a JPEG may be decoded; its orientation is not known yet."""
    scale = 2 * max(form.height, form.width) / max(1, min(size))
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def _decoded(image: Image.Image, form: Form) -> np.ndarray:
    from PIL import Image, ImageOps

    if image.getexif().get(_ORIENTATION, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    image.load()
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    elif image.mode.startswith("I"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("holds 32-bit floats, whose range is unknown")
    if image.mode != form.mode:
        image = image.convert(form.mode)
    if image.size != (form.width, form.height):
        box = _box(image.size, form)
        image = image.resize((form.width, form.height), Image.Resampling.BILINEAR, box)
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _box(size: tuple[int, int], form: Form) -> tuple[float, float, float, float]:
    """Return the part of an image that is scaled to the form: left, top, right and bottom."""
    width, height = size
    if form.fit == "stretch":
        return 0, 0, width, height
    scale = min(width / form.width, height / form.height)
    left = max(0.0, (width - form.width * scale) / 2)
    top = max(0.0, (height - form.height * scale) / 2)
    return left, top, width - left, height - top


def decode_all(paths: Sequence[str], form: Form, pixels: Path | None, processes: int | None) -> Decoded:
    """Decode images, and write them into a file.

    Args:
        paths: of the images.
        form: of all of them.
        pixels: array file that is created, uint8 [images, *form.shape]; None: the images are only checked.
        processes: that decode; None: one for each CPU.

    Raises:
        LrflowError: one of the processes died.
        OSError: the file cannot be written.
    """
    channels = form.shape[0]
    found = Decoded(np.zeros((len(paths), channels), np.int64), np.zeros((len(paths), channels), np.int64), {})
    if pixels is not None:
        np.lib.format.open_memmap(pixels, "w+", np.uint8, (len(paths), *form.shape)).flush()
        if hasattr(os, "posix_fallocate"):  # a write to a page without space on the disk would kill the process
            with pixels.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, pixels.stat().st_size)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(processes or cpus, -(-len(paths) // _PER_PROCESS))
    if count <= 1:
        _collect(found, _decode_some(paths, form, pixels, range(len(paths))))
        return found
    forks = sys.platform == "linux"
    context: Any = multiprocessing.get_context("fork" if forks else None)
    workers: dict[Connection, Any] = {}
    try:
        for number in range(count):
            own, theirs = context.Pipe(duplex=False)
            inherited = [own, *workers] if forks else []
            options = (paths, form, pixels, number, count, theirs, inherited)
            process = context.Process(target=_work, args=options, daemon=True)
            process.start()
            theirs.close()
            workers[own] = process
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    report = connection.recv()
                except EOFError:
                    process = workers.pop(connection)
                    process.join()
                    if process.exitcode:
                        message = f"a process that decodes images died (exit code {process.exitcode})"
                        raise LrflowError(message) from None
                    continue
                if isinstance(report, OSError):
                    raise report
                _collect(found, report)
    finally:
        for process in workers.values():
            process.terminate()
            process.join()
    return found


Report = list[tuple[int, Any, Any, str]]
"""Of each image: its index, sums and squares of its channels, and why it could not be decoded."""


def _work(
    paths: Sequence[str],
    form: Form,
    pixels: Path | None,
    number: int,
    count: int,
    connection: Connection,
    inherited: Sequence[Connection],
) -> None:
    """Decode every `count`-th chunk of the images in a process of its own; a parent that died ends it."""
    leave_to_parent()
    for other in inherited:  # with an open end to read from, a parent that died would not be noticed
        other.close()
    try:
        for start in range(number * _PER_PROCESS, len(paths), count * _PER_PROCESS):
            rows = range(start, min(start + _PER_PROCESS, len(paths)))
            connection.send(_decode_some(paths, form, pixels, rows))
    except BrokenPipeError:
        return
    except OSError as error:
        connection.send(error)


def _decode_some(paths: Sequence[str], form: Form, pixels: Path | None, rows: range) -> Report:
    written = None if pixels is None else np.lib.format.open_memmap(pixels, "r+")
    report: Report = []
    for row in rows:
        try:
            image = decode(paths[row], form)
        except ValueError as error:
            report.append((row, 0, 0, str(error)))
            continue
        if written is not None:
            written[row] = image
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in image])
        report.append((row, counts @ _BYTES, counts @ _BYTES**2, ""))
    return report


def _collect(found: Decoded, report: Report) -> None:
    for row, sums, squares, wrong in report:
        found.sums[row], found.squares[row] = sums, squares
        if wrong:
            found.wrong[row] = wrong
