"""What a trial of a sweep costs: lrflow's sweeper, Hydra's basic one, and Optuna calling a bare training function.

Each trial trains the digits MLP for an epoch (20 steps of AdamW under a cosine). A trial's cost is the difference of a
long and a short sweep over the difference of their trials, so that starting Python and importing torch cancels out; it
is given in CPU time of the processes, which a busy machine leaves alone, and in wall time.
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
ROUNDS = 2  # each sweep is run so often, in turn; the least of each counts
QUIET = ("trainer.max_epochs=1", "trainer.progress=false", "task.test=false")
CONTESTANTS = ("bare function, Optuna", "lrflow, Hydra's basic sweeper", "lrflow, hydra/sweeper=lrflow")


def bare_sweep(trials: int) -> None:
    """A sweep as a script of thirty lines has it: Optuna in memory, a loop in torch, nothing written."""
    import optuna
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digits = load_digits()
    inputs = (torch.from_numpy(digits.images).float().flatten(1) / 16 - 0.3053) / 0.376
    targets = torch.from_numpy(digits.target).long()
    train, val = torch.arange(1257), torch.arange(1257, 1437)

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        stages = [
            nn.Sequential(nn.Linear(width, 256), nn.LayerNorm(256), nn.ReLU(), nn.Dropout(0.1)) for width in (64, 256)
        ]
        model = nn.Sequential(*stages, nn.Linear(256, 10))
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        model.train()
        for rows in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            return float(functional.cross_entropy(model(inputs[val]), targets[val]))

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)


def commands(trials: int) -> dict[str, list[str]]:
    """What runs a sweep of so many trials, by contestant."""
    rates = ",".join(f"{10 ** (-4 + 3 * number / trials):.4g}" for number in range(trials))
    sampled = ["optimizer.lr=interval(1e-4,1e-1)", "sweep.sampler=random", f"sweep.n_trials={trials}"]
    call = f"from benchmarks.sweeps.overhead import bare_sweep; bare_sweep({trials})"
    lines = (
        ["-c", call],
        ["-m", "lrflow", "-m", *QUIET, f"optimizer.lr={rates}"],
        ["-m", "lrflow", "-m", *QUIET, *sampled],
    )
    return {name: [sys.executable, *words] for name, words in zip(CONTESTANTS, lines, strict=True)}


def measure_overhead(trials: int) -> None:
    """Runs every sweep, long and short, and keeps what they cost."""
    found: dict[str, dict[str, list[list[float]]]] = {name: {"short": [], "long": []} for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name in CONTESTANTS:
            for length, count in (("short", SHORT), ("long", SHORT + trials)):
                found[name][length].append(_timed(commands(count)[name]))
                print(f"{name}, {count} trials: {found[name][length][-1]} s of CPU and wall time", flush=True)
        _write(trials, found)


def _write(trials: int, found: dict[str, dict[str, list[list[float]]]]) -> None:
    versions = {name: version(name) for name in ("torch", "hydra-core", "optuna")}
    head = {"command": f"python -m benchmarks.sweeps overhead --trials {trials}", "python": platform.python_version()}
    FILE.write_text(json.dumps({**head, **versions, "trials": trials, "seconds": found}, indent=1) + "\n")


def _timed(command: Sequence[str]) -> list[float]:
    """Seconds of CPU time, those of its own children included, and of wall time of a command."""
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
    """The trials that were counted, and the seconds of CPU and of wall time of one by contestant."""
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
