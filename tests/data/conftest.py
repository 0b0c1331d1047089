from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from lrflow.data.fashion_mnist import files as fashion_mnist_files

# A busy machine is not a fault of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def global_rng_untouched() -> Callable[[], AbstractContextManager[None]]:
    """A context that fails where something draws from a global generator."""

    def states() -> tuple[object, ...]:
        kind, keys, *rest = np.random.get_state()
        return random.getstate(), kind, keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()

    @contextmanager
    def untouched() -> Iterator[None]:
        before = states()
        yield
        assert states() == before

    return untouched


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes in the idx format, written independently of the reader."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture
def small_fashion() -> dict[str, bytes]:
    """Four small idx files, unpacked, by name: 200 training and 40 test pictures of 4 x 4, pixel = label * 20."""
    files = {}
    for part, count in (("train", 200), ("t10k", 40)):
        labels = (np.arange(count) * 7 % 10).astype(np.uint8)
        images = np.broadcast_to((labels * 20)[:, None, None], (count, 4, 4))
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(np.ascontiguousarray(images))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


@pytest.fixture
def put(small_fashion: dict[str, bytes]) -> Callable[..., Path]:
    """Writes the small files into a folder."""

    def write(folder: Path, packed: bool = True) -> Path:
        folder.mkdir(parents=True)
        for name, content in small_fashion.items():
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture
def debian_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], Path]:
    """Puts programs that stand in for apt and dpkg first in the path: they have one package, with the files of `usr`.

    Returns the folder of the programs.
    """

    def make(package: str, usr: Path) -> Path:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, script in {
            "apt-get": f'[ "$1 $2" = "download {package}" ] && touch {package}_1_all.deb',
            "dpkg-deb": f'[ "$1" = -x ] && [ -f "$2" ] && cp -r {usr} "$3"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        return programs

    return make


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder on a machine that has no data set and reaches no server."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("LRFLOW_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist_files, "SYSTEM", tmp_path / "system" / "fashion-mnist")
    monkeypatch.setattr(fashion_mnist_files, "URLS", ("http://127.0.0.1:9",))
    return here
