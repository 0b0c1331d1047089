"""Measure the cost of a sweep's trial: with lrflow, and with scripts that use Hydra, Lightning and Optuna.

Each trial trains the digits MLP for an epoch (20 steps of AdamW with a cosine). The cost of a trial is the difference
between a long and a short sweep, divided by the difference of their trials, so that starting Python and importing
torch cancel out. It is reported in CPU time of the processes, which does not depend on other load, and in wall time.

hydra-optuna-sweeper 1.3.0 requires optuna 2, so it needs a separate environment with torch, pytorch-lightning and
scikit-learn, whose Python is given by `--peer`.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("overhead.json")
SHORT = 4  # trials of the short sweep
ROUNDS = 2  # runs per sweep, in turn; the minimum of each counts
QUIET = ("trainer.max_epochs=1", "trainer.progress=false", "task.test=false")
PEER = ("-m", "benchmarks.sweeps.peer", "-m")
PLUGIN = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.direction=minimize")


def bare_sweep(trials: int) -> None:
    """Run a sweep like a script of thirty lines: Optuna in memory, a loop in torch, no files."""
    import optuna

    from benchmarks.sweeps.peer import bare

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: bare(trial.suggest_float("lr", 1e-4, 1e-1, log=True)), n_trials=trials)


def commands(trials: int, peer: str | None) -> dict[str, list[str]]:
    """Return the command of a sweep for each contestant.

    Args:
        trials: number of trials.
        peer: Python with hydra-optuna-sweeper; None: its rows are left out.
    """
    rates = ",".join(f"{10 ** (-4 + 3 * number / trials):.4g}" for number in range(trials))
    drawn = "tag(log,interval(1e-4,1e-1))"
    call = f"from benchmarks.sweeps.overhead import bare_sweep; bare_sweep({trials})"
    plugin = (*PEER, *PLUGIN, f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.n_jobs=1", f"lr={drawn}")
    sampled = ("sweep.sampler=random", f"sweep.n_trials={trials}", f"optimizer.lr={drawn}")
    found = {
        "bare loop, Optuna": [sys.executable, "-c", call],
        "bare loop, Hydra's basic sweeper": [sys.executable, *PEER, f"lr={rates}"],
        "Lightning, Hydra's basic sweeper": [sys.executable, *PEER, "how=lightning", f"lr={rates}"],
        "lrflow, Hydra's basic sweeper": [sys.executable, "-m", "lrflow", "-m", *QUIET, f"optimizer.lr={rates}"],
        "lrflow, hydra/sweeper=lrflow": [sys.executable, "-m", "lrflow", "-m", *QUIET, *sampled],
    }
    if peer:
        found["bare loop, hydra-optuna-sweeper"] = [peer, *plugin]
        found["Lightning, hydra-optuna-sweeper"] = [peer, *plugin, "how=lightning"]
    return found


def measure_overhead(trials: int, peer: str | None) -> None:
    """Run every sweep, long and short, and save the costs."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for _ in range(ROUNDS):
        for length, count in (("short", SHORT), ("long", SHORT + trials)):
            for name, command in commands(count, peer).items():
                taken = _timed(command)
                found.setdefault(name, {}).setdefault(length, []).append(taken)
                print(f"{name}, {count} trials: {taken} s of CPU and wall time", flush=True)
        _write(trials, peer, found)


def _write(trials: int, peer: str | None, found: dict[str, dict[str, list[list[float]]]]) -> None:
    versions = {name: version(name) for name in ("torch", "hydra-core", "optuna")}
    command = f"python -m benchmarks.sweeps overhead --trials {trials}{' --peer PYTHON' if peer else ''}"
    head = {"command": command, "python": platform.python_version()}
    FILE.write_text(json.dumps({**head, **versions, "trials": trials, "seconds": found}, indent=1) + "\n")


def _timed(command: Sequence[str]) -> list[float]:
    """Return CPU seconds (including child processes) and wall seconds of a command."""
    place = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": place}
    before, started = _cpu(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return [round(_cpu() - before, 3), round(time.monotonic() - started, 3)]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def costs() -> tuple[int, dict[str, tuple[float, float]]]:
    """Return the number of counted trials, and CPU and wall seconds per trial by contestant."""
    kept: dict[str, Any] = json.loads(FILE.read_text())
    trials = int(kept["trials"])
    found = {}
    for name, seconds in kept["seconds"].items():
        cpu, wall = (
            (min(row[kind] for row in seconds["long"]) - min(row[kind] for row in seconds["short"])) / trials
            for kind in (0, 1)
        )
        found[name] = (cpu, wall)
    return trials, found
