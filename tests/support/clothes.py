"""A small data set in the files of FashionMNIST."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_clothes(folder: Path, train: int = 400, test: int = 100) -> Path:
    """Write pictures of noise, darker to lighter by class, into the files of FashionMNIST in a folder; return it."""
    random = np.random.RandomState(0)
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.randint(0, 30, (count, 28, 28)).astype(np.uint8) + 20 * labels[:, None, None]
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / name).write_bytes(header + array.tobytes())
    return folder
