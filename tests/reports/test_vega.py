"""The library of a page comes from the user's cache, whatever became of it there."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lrflow.errors import LrflowError
from lrflow.reports import vega

MADE = b"window.vegaEmbed=0;"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache; the library is a short text, and each call looks for it again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vega, "_bundle", lambda: MADE)
    return tmp_path / "cache" / "lrflow"


def library() -> bytes:
    return gzip.decompress(vega.library.__wrapped__())


def test_it_is_made_once(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library() == MADE
    (kept,) = cached.iterdir()
    assert kept.name.startswith("vega-")
    monkeypatch.setattr(vega, "_bundle", lambda: b"another")
    assert library() == MADE


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:20] + b"x" + data[21:]]
)
def test_a_damaged_copy_is_made_anew(cached: Path, damage) -> None:
    library()
    (kept,) = cached.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert library() == MADE
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_only_time(cached: Path) -> None:
    cached.parent.write_text("a file where the folder would be")
    assert library() == MADE


def test_the_copy_of_another_user_is_not_trusted(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    monkeypatch.setattr(vega, "_bundle", lambda: b"our own")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert library() == b"our own"


def test_a_package_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vega, "_BUNDLE", "raise SystemExit('no memory')")
    with pytest.raises(LrflowError, match=r"vl-convert-python cannot make .*: no memory"):
        vega._bundle()
