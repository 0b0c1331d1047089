from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from schemas import against

from lrflow.config import Config, compose
from lrflow.config.composition.options import Catalogue
from lrflow.config.json_schema import json_schema
from lrflow.errors import ConfigError, Problem


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRFLOW_TRUST", raising=False)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def default() -> Config:
    """The config without any override."""
    return compose()


@pytest.fixture(scope="session")
def problems_of() -> Callable[..., list[Problem]]:
    """What is wrong with these overrides; fails where nothing is."""

    def find(overrides: Sequence[str], config_dir: Path | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            compose(overrides, config_dir)
        return caught.value.problems

    return find


@pytest.fixture
def write(nowhere: Path) -> Callable[[str, str], Path]:
    """Writes a file below the working directory."""

    def write(name: str, text: str) -> Path:
        path = nowhere / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def schema_error() -> Callable[..., str]:
    """What the JSON schema refuses in a config or recipe, or in an option of a group; empty: nothing."""
    return against(json_schema(Catalogue()))
