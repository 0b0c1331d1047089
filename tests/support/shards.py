"""Shards of digits for tests, written by tarfile and pyarrow alone."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

Sample = tuple[str, Mapping[str, bytes]]
"""Name of a sample, and the content of its files by their endings."""


def png(image: np.ndarray) -> bytes:
    """An image of digits, 8 x 8 with values from 0 to 16, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray((image * 15.9).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def digit_samples(first: int, last: int) -> list[Sample]:
    """Digits as samples of four files: `png`, `cls`, `npy` and `json` with `pixels` and `label`."""
    data = load_digits()
    return [
        (
            f"{row:06d}",
            {
                "png": png(data.images[row]),
                "cls": str(data.target[row]).encode(),
                "npy": npy(data.images[row].astype(np.float32)[None]),
                "json": json.dumps({"pixels": data.data[row].tolist(), "a": {"label": int(data.target[row])}}).encode(),
            },
        )
        for row in range(first, last)
    ]


def write_tar(path: Path, samples: Sequence[Sample], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, files in samples:
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def digit_shards(folder: Path, samples: int = 400, shards: int = 5) -> Path:
    """Write digits into tar shards of nearly equal sizes."""
    cuts = np.linspace(0, samples, shards + 1).round().astype(int).tolist()
    for number in range(shards):
        write_tar(folder / f"train-{number:03d}.tar", digit_samples(cuts[number], cuts[number + 1]))
    return folder


def digit_tables(folder: Path, samples: int = 400, shards: int = 5, group: int = 30) -> Path:
    """Write digits into Parquet shards with columns `pixels`, `image`, `mean`, `label` and `name`."""
    import pyarrow
    from pyarrow import parquet

    data = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    cuts = np.linspace(0, samples, shards + 1).round().astype(int).tolist()
    for number in range(shards):
        rows = range(cuts[number], cuts[number + 1])
        columns = {
            "pixels": pyarrow.array([data.data[row].tolist() for row in rows], pyarrow.list_(pyarrow.float32())),
            "image": [{"bytes": png(data.images[row]), "path": f"{row}.png"} for row in rows],
            "mean": [float(data.data[row].mean()) for row in rows],
            "label": [int(data.target[row]) for row in rows],
            "name": [f"digit {data.target[row]}" for row in rows],
        }
        parquet.write_table(pyarrow.table(columns), folder / f"part-{number}.parquet", row_group_size=group)
    return folder
