"""Decoded images, kept in a file that is mapped into memory and shared by processes until their files change."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrflow.data.cache import default_folder, digest, file_identity, mapped, remove_others, sync
from lrflow.data.images.decoding import Decoded, Form, decode_all
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, Problem
from lrflow.files import expanded, lock, write_whole

log = logging.getLogger("lrflow")

NONE = "none"
AUTO = "auto"

_VERSION = 1
"""Is increased when images are decoded in another way, so that no file of an earlier version is read."""
_SHARE = 0.5
"""Share of the free space of the disk that the images of a data set may take."""


_MANY = 5000
"""Number of images from which on a line announces that they are decoded, since that takes a while."""


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """The images of a data set.

    Args:
        paths: of the images.
        form: of all of them.
        decoded: what was found while they were decoded.
        pixels: uint8 [images, *form.shape], mapped into memory; None: they are decoded when they are needed.
        file: of the pixels.
        why: why there is no such file.
    """

    paths: Sequence[str]
    form: Form
    decoded: Decoded
    pixels: np.ndarray | None
    file: Path | None = None
    why: str = ""


def decoded_images(
    paths: Sequence[str], form: Form, home: Path, cache: str = AUTO, processes: int | None = None
) -> DecodedImages:
    """Decode images, or read what an earlier process decoded of the same files in the same form.

    Files are the same if their paths, sizes and times are equal. A process that waits for another one reads its result.

    Args:
        paths: of the images.
        form: of all of them.
        home: what the images belong to; the cache holds one file for it and each form, the newest.
        cache: folder of the cache; `auto`: that of data sets on this machine; `none`: there is no cache.
        processes: that decode; None: one for each CPU.

    Raises:
        ConfigError: the folder that is given cannot be written.
        LrflowError: a process that decodes died.
    """
    size = len(paths) * int(np.prod(form.shape))
    if cache == NONE:
        return DecodedImages(paths, form, decode_all(paths, form, None, processes), None, why="data.cache is none")
    folder = default_folder("images") if cache == AUTO else expanded(cache)
    place = digest(_VERSION, str(home.resolve()), repr(form))
    kept = f"{place}-{digest(_VERSION, *map(file_identity, paths))}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / f"{place}.lock"):
            file, index = folder / f"{kept}.npy", folder / f"{kept}.npz"
            free = shutil.disk_usage(folder).free
            fits = size <= _SHARE * free or file.exists()
            why = "" if fits else f"the {size / 1e9:,.1f} GB do not fit into half of the free space of {folder}"
            decoded = _read_index(index, (len(paths), form.shape[0]))
            if decoded is None or (fits and mapped(file, (len(paths), *form.shape), np.uint8) is None):
                part = folder / f".{kept}.{os.getpid()}.part"
                if len(paths) >= _MANY:
                    where = f"into {file}" if fits else "to check them"
                    QuietConsole(stderr=True).print(f"decoding {len(paths):,} images {where}", soft_wrap=True)
                try:
                    decoded = decode_all(paths, form, part if fits else None, processes)
                    if fits:
                        sync(part)
                        os.replace(part, file)
                finally:
                    part.unlink(missing_ok=True)
                _write_index(index, decoded)
                remove_others(folder, kept)
            pixels = mapped(file, (len(paths), *form.shape), np.uint8) if fits else None
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        if cache != AUTO:
            raise ConfigError([Problem("data.cache", what, cache)]) from None
        log.warning("%s %s; images are decoded in every epoch", folder, what)
        return decoded_images(paths, form, home, NONE, processes)
    return DecodedImages(paths, form, decoded, pixels, file if fits else None, why)


def _write_index(index: Path, decoded: Decoded) -> None:
    rows = np.fromiter(decoded.wrong, np.int64, len(decoded.wrong))
    texts = np.array([decoded.wrong[row] for row in rows.tolist()], np.str_)
    content = {"sums": decoded.sums, "squares": decoded.squares, "rows": rows, "texts": texts}
    write_whole(index, lambda file: np.savez(file, **content))  # type: ignore[arg-type]


def _read_index(index: Path, shape: tuple[int, int]) -> Decoded | None:
    try:
        with np.load(index, allow_pickle=False) as content:
            wrong = dict(zip(content["rows"].tolist(), content["texts"].tolist(), strict=True))
            found = Decoded(content["sums"], content["squares"], wrong)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return found if found.sums.shape == found.squares.shape == shape else None
