"""What all tests share: one thread, no network, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Two OpenMP threads on a busy machine of two cores can be many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"

# How long an example takes says more of the machine than of the code.
settings.register_profile("lrflow", deadline=None)
settings.load_profile("lrflow")


@pytest.fixture
def lrflow(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m lrflow ARGS` in an empty folder, as a user would; keyword arguments become environment."""

    def run(*arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lrflow", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
