from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig

from lrflow.config import Config


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Use an empty working directory and a terminal of 120 columns."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    HydraConfig.instance().cfg = None


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch, here: Path) -> Callable[..., list[Config]]:
    """Replace training by a function of the config, and return the list of configs that it is called with."""

    def put(metric: Callable[[Config], Any]) -> list[Config]:
        ran: list[Config] = []

        def run(config: Config) -> Any:
            ran.append(config)
            metrics = metric(config)
            metrics = metrics if isinstance(metrics, dict) else {"val/loss": metrics}
            assert config.run_folder
            (config.run_folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
            return {**metrics, "folder": str(config.run_folder)}

        module = ModuleType("lrflow.tasks.train")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return ran

    return put


@pytest.fixture
def sweep_folder(here: Path) -> Callable[[], Path]:
    """Return the folder of the newest sweep."""

    def find() -> Path:
        return max((here / "outputs/sweeps").iterdir(), key=lambda path: path.name)

    return find
