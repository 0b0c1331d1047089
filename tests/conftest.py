"""What all tests share: one thread, no network, and the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
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


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the run folder of a trial, as a run would have: `sweep/NUMBER/`, and gives `sweep/`."""

    def make(
        number: int | str,
        overrides: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        status: str | None = "finished",
        losses: Sequence[float] = (2.0, 1.0),
        choices: Mapping[str, str] | None = None,
        **facts: object,
    ) -> Path:
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        config = {
            "optimizer": {"lr": 0.001},
            "trainer": {"checkpoint": {"monitor": "val/loss"}},
            "lrflow": {"choices": {"optimizer": "adamw", **(choices or {})}, "overrides": list(overrides)},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        rows = [f"{step},{loss}" for step, loss in enumerate(losses)]
        (folder / "metrics.csv").write_text("\n".join(["step,train/loss", *rows, ""]))
        if status is not None:
            summary = {"status": status, "steps": 60, "seconds": 1.5, **facts, "metrics": dict(metrics or {})}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder.parent

    return make
