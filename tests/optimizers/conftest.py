from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def conf() -> Callable[[str], dict[str, Any]]:
    """The content of an option of `conf/optimizer`."""
    folder = Path(__file__).parents[2] / "conf" / "optimizer"
    return lambda name: OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml"))  # type: ignore[return-value]
