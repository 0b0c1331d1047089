"""The tokens of a text data set: kept in memory, or in a file that is mapped into memory if they are many."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.cache import default_folder, digest, file_identity, mapped, remove_others, sync
from lrflow.errors import ConfigError, Problem
from lrflow.files import expanded, lock, write_whole

log = logging.getLogger("lrflow")

_VERSION = 2
"""Is increased when texts are prepared in another way, so that no file of an earlier version is read."""

_SMALL = 1 << 24
"""Bytes of tokens up to which they are kept in memory: making them takes less than a second."""


@dataclass(frozen=True, eq=False)
class Stored:
    """Tokens, and what is known of them.

    Args:
        tokens: an array of whole numbers.
        arrays: smaller arrays by name.
        about: plain data.
        file: of the tokens; None: they are in memory.
    """

    tokens: np.ndarray
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    file: Path | None = None


def stored(
    cache: str,
    home: Sequence[str],
    options: str,
    settled: Callable[[Stored], str],
    paths: Sequence[str],
    make: Callable[[], Stored],
) -> Stored:
    """Return what `make` returns, from a file if an earlier process made much of the same files in the same way.

    Args:
        cache: folder of the cache; `auto`: that of data sets on this machine; `none`: there is no cache.
        home: what the files belong to.
        options: how the tokens are made of the files.
        settled: other options that make the same, of what was made; both find it.
        paths: of the files.
        make: makes the tokens.

    Raises:
        ConfigError: the folder that is given cannot be written.
    """
    if cache == "none":
        return make()
    folder = default_folder("texts") if cache == "auto" else expanded(cache)
    state = digest(_VERSION, *map(file_identity, paths))
    own = f"{digest(_VERSION, *home, options)}-{state}"
    if (found := _read(folder, own)) is not None:
        return found
    made = make()
    if made.tokens.nbytes <= _SMALL:
        return made
    kept = f"{digest(_VERSION, *home, settled(made))}-{state}"
    part = folder / f".{kept}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / f"{kept.partition('-')[0]}.lock"):
            try:
                with part.open("wb") as target:
                    np.save(target, made.tokens)
                sync(part)
                os.replace(part, folder / f"{kept}.npy")
            finally:
                part.unlink(missing_ok=True)
            content: Any = {**made.arrays, "about": np.array(json.dumps([made.about, list(made.tokens.shape)]))}
            write_whole(folder / f"{kept}.npz", lambda target: np.savez(target, **content))
            remove_others(folder, kept)
            if own != kept:
                write_whole(folder / f"{own}.same", kept)
                remove_others(folder, own)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        if cache != "auto":
            raise ConfigError([Problem("data.cache", what, cache)]) from None
        log.warning("%s %s; the tokens stay in memory", folder, what)
        return made
    return _read(folder, kept) or made


def _read(folder: Path, name: str) -> Stored | None:
    """Return what the files of a name hold; None: they do not exist, or are damaged."""
    with suppress(OSError, UnicodeError):
        name = Path((folder / f"{name}.same").read_text(encoding="ascii")).name
    file = folder / f"{name}.npy"
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as content:
            about, shape = json.loads(str(content["about"]))
            arrays = {name: content[name] for name in content if name != "about"}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    for kind in (np.uint8, np.uint16, np.uint32):
        if (tokens := mapped(file, tuple(shape), kind)) is not None:
            return Stored(tokens, arrays, about, file)
    return None
