"""Shards named one by one, by ranges, patterns and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.data.stream.shards import find_shards
from lrflow.errors import ConfigError


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tars = [f"s/train-{number}.tar" for number in ("2", "10", "008", "009")]
    for name in (*tars, "s/.hidden.tar", "s/notes.txt", "p/a.parquet", "q/x.tar.gz", "m/a.tar", "m/b.parquet"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


FOUND = {
    "s/train-{008..009}.tar": ["008", "009"],
    "s/train-{2,10}.tar": ["2", "10"],
    "s/train-{8..10}.tar": None,
    "s": ["2", "008", "009", "10"],
    "s/train-0*.tar": ["008", "009"],
    "s/train-{0,1}*.tar": ["008", "009", "10"],
}


@pytest.mark.usefixtures("_files")
def test_names_stand_for_files() -> None:
    for given, numbers in FOUND.items():
        if numbers is None:
            with pytest.raises(ConfigError, match=r"there is no s/train-8\.tar"):
                find_shards(given, "data.shards")
        else:
            assert [str(one) for one in find_shards(given, "data.shards")] == [f"s/train-{n}.tar" for n in numbers]
    assert [one.name for one in find_shards(["p/a.parquet"], "data.shards")] == ["a.parquet"]


WRONG = {
    "s/train-3.tar": r"no such file or folder\n.*did you mean s/train-2.tar\?",
    "s/train-{009..008}.tar": r"range \{009\.\.008\} has no numbers",
    "s/*.parquet": "matches no file",
    "q": r"folder q has no \.tar or \.parquet file",
    "q/x.tar.gz": "compressed as a whole",
    "s/notes.txt": r"expected \.tar or \.parquet files, found s/notes.txt",
    "m": "expected shards of one kind",
    "s/{train-2,train-2}.tar": "names s/train-2.tar twice",
}


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("given", WRONG)
def test_mistakes_are_named(given: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){WRONG[given]}"):
        find_shards(given, "data.shards")
