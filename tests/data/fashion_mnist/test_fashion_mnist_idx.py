from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lrflow.data.fashion_mnist.fashion_mnist import read_idx
from lrflow.errors import LrflowError

PICTURES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
Writer = Callable[[np.ndarray], bytes]


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_is_read_as_it_was_written(tmp_path: Path, idx: Writer, packed: bool) -> None:
    path = tmp_path / "pictures"  # the suffix says nothing
    path.write_bytes(gzip.compress(idx(PICTURES)) if packed else idx(PICTURES))
    read = read_idx(path)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert np.array_equal(read, PICTURES)


def test_wider_numbers_are_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"\0\0\x0c\x01" + (2).to_bytes(4, "big") + (-2).to_bytes(4, "big", signed=True) + b"\0\0\1\0")
    assert read_idx(path).tolist() == [-2, 256]
    path.write_bytes(b"\0\0\x0d\x01" + (1).to_bytes(4, "big") + b"\x3f\xc0\0\0")
    assert read_idx(path).tolist() == [1.5]


def test_an_empty_array_is_an_array(tmp_path: Path, idx: Writer) -> None:
    path = tmp_path / "none"
    path.write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    assert read_idx(path).shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda whole: b"", "not an idx file: it begins with nothing"),
        (lambda whole: b"<htm" + whole[4:], "not an idx file: it begins with 3c 68 74 6d"),
        (lambda whole: b"\0\0\x07" + whole[3:], "not an idx file"),
        (lambda whole: whole[:10], "truncated: it ends within its header"),
        (lambda whole: whole[:-1], "truncated: 23 bytes of data, expected 24 from its header"),
        (lambda whole: whole + b"\0", "too long: 25 bytes of data, expected 24 from its header"),
        (lambda whole: gzip.compress(whole)[:-9], "cannot be read: Compressed file ended before"),
        (lambda whole: gzip.compress(whole)[:10] + b"\xff" * 20, "cannot be read: Error -3"),
        (lambda whole: gzip.compress(whole)[:-8] + b"\0" * 8, "cannot be read: CRC check failed"),
    ],
)
def test_a_corrupt_file_is_reported_by_name(
    tmp_path: Path, idx: Writer, spoil: Callable[[bytes], bytes], complaint: str
) -> None:
    path = tmp_path / "pictures.gz"
    path.write_bytes(spoil(idx(PICTURES)))
    with pytest.raises(LrflowError, match=complaint) as raised:
        read_idx(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LrflowError, match="No such file"):
        read_idx(tmp_path / "nothing")
