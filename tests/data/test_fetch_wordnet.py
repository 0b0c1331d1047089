from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow.data import fetch
from lrflow.errors import LrflowError

CONTENT = "  1 the licence\n00001740 03 n 01 entity 0 000 | that which is\n"


@pytest.fixture
def debian(
    nowhere: Path, debian_with: Callable[[str, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A machine whose apt has WordNet, as the folder of the package."""
    monkeypatch.setattr(fetch, "SYSTEM", Path("/usr/share/wordnet"))
    package = tmp_path / "package/usr/share/wordnet"
    package.mkdir(parents=True)
    (package / "data.noun").write_text(CONTENT)
    debian_with("wordnet-base", tmp_path / "package/usr")
    return package


def test_debians_package_is_unpacked_without_root(debian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert fetch.main(["wordnet"]) == 0
    first, again = capsys.readouterr().out.splitlines()
    assert "from Debian's package wordnet-base" in first
    assert "already" in again
    assert fetch.locate() == Path(".data/wordnet/data.noun")
    assert fetch.locate().read_text() == CONTENT
    assert fetch.locate(Path(".data/wordnet")) == fetch.locate()


def test_a_package_without_the_file_raises_an_error(debian: Path) -> None:
    (debian / "data.noun").unlink()
    with pytest.raises(LrflowError, match=r"apt-get download wordnet-base: .*data\.noun"):
        fetch.unpack_debian(Path("mine"))
    assert not Path("mine").exists()


def test_a_failed_fetch_does_not_prevent_the_others(debian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(["fashion_mnist", "wordnet"]) == 1
    captured = capsys.readouterr()
    assert "FashionMNIST could not be downloaded" in captured.err
    assert "WordNet is in" in captured.out
