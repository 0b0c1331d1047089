"""The cache of decoded images: what it returns, when it is made anew, and what a killed process leaves of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrflow.data.images import cache as image_cache
from lrflow.data.images.cache import decoded_images
from lrflow.data.images.decoding import Form, decode, decode_all
from lrflow.errors import ConfigError

FORM = Form(4, 4, "L", "crop")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    (tmp_path / "images").mkdir()
    found = [tmp_path / "images" / f"{number}.png" for number in range(5)]
    for number, path in enumerate(found):
        Image.fromarray(np.full((4, 4), 40 * number, np.uint8)).save(path)
    found[3].write_text("broken")
    return [str(path) for path in found]


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images of each time when images were decoded."""
    found: list[int] = []

    def counted(paths: Any, *rest: Any) -> Any:
        found.append(len(paths))
        return decode_all(paths, *rest)

    monkeypatch.setattr(image_cache, "decode_all", counted)
    return found


def test_images_are_decoded_again_only_when_their_files_or_the_form_changed(
    paths: list[str], tmp_path: Path, decodings: list[int]
) -> None:
    home, folder = tmp_path / "images", tmp_path / "cache"

    def read(form: Form = FORM) -> Any:
        return decoded_images(paths, form, home, str(folder), 1)

    first, second = read(), read()
    assert len(decodings) == 1
    for found in (first, second):
        assert found.decoded.wrong == {3: "is no image that Pillow can read"}
        assert found.decoded.sums[:, 0].tolist() == [0, 640, 1280, 0, 2560]
        expected = [np.zeros_like(first.pixels[0]) if row == 3 else decode(paths[row], FORM) for row in range(5)]
        np.testing.assert_array_equal(found.pixels, expected)
    assert isinstance(second.pixels, np.memmap)
    second.pixels[:] = 7  # a private copy
    np.testing.assert_array_equal(read().pixels, first.pixels)
    read(Form(4, 4, "RGB", "crop"))
    assert len(decodings) == 2
    assert len(list(folder.glob("*.npy"))) == 2
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(paths[3])
    assert read().decoded.wrong == {}
    os.utime(paths[0], (1, 1))
    read()
    assert len(decodings) == 4
    assert len(list(folder.glob("*.npy"))) == 2  # the older ones of the same form are gone
    for damage in ("*.npy", "*.npz"):
        for file in folder.glob(damage):
            file.write_bytes(file.read_bytes()[:40])
        assert read().decoded.sums[3] == 9 * 16
    assert len(decodings) == 6


def test_what_does_not_fit_or_cannot_be_written_is_decoded_when_it_is_needed(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodings: list[int]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache"):
        decoded_images(paths, FORM, tmp_path, str(tmp_path / "file"), 1)
    monkeypatch.setenv("LRFLOW_DATA", str(tmp_path / "file"))
    without = [decoded_images(paths, FORM, tmp_path, cache, 1) for cache in ("auto", "none")]
    free = namedtuple("free", "total used free")(1000, 920, 80)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: free)
    for _ in range(2):
        without.append(decoded_images(paths, FORM, tmp_path, str(tmp_path / "cache"), 1))
    assert "half of the free space" in without[-1].why
    for found in without:
        assert found.pixels is None
        assert found.decoded.sums[4] == 2560
    assert len(decodings) == 3  # what is small is kept


def test_a_process_that_is_killed_while_it_decodes_leaves_nothing_that_is_taken_for_whole(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        def dying(*arguments: Any) -> None:
            decode_all(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(image_cache, "decode_all", dying)
        decoded_images(paths, FORM, tmp_path, str(tmp_path / "cache"), 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob(".*.part"))) == 1
    found = decoded_images(paths, FORM, tmp_path, str(tmp_path / "cache"), 1)
    assert found.pixels is not None
    assert found.pixels[4].max() == 160
    assert not list((tmp_path / "cache").glob(".*.part"))
