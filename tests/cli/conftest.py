from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig

from lrflow.config import Config


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty working directory, a terminal of 80 columns without colours, nobody trusted; nothing is left behind."""
    for name in ("LRFLOW_TRUST", "LRFLOW_DEBUG", "LRFLOW_RUN_FOLDER", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The folder `outputs/`, with a sweep of three, a whole run and one that was interrupted."""
    return Path(shutil.copytree(Path(__file__).parents[1] / "older_runs", tmp_path / "outputs"))


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Config]]:
    """Puts a function in the place of a task; gives the list of the configs that it is run with."""

    def put(run: Callable[[Config], Any] = lambda config: {"test/accuracy": 0.5}, name: str = "train") -> list[Config]:
        ran: list[Config] = []

        def noted(config: Config) -> Any:
            ran.append(config)
            return run(config)

        module = ModuleType(f"lrflow.tasks.{name}")
        module.run = noted  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return ran

    return put
