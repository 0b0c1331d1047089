"""What lrflow costs before the first step and around a trial, beside plain programs that do the same work.

    python -m benchmarks.starts                   # every row; about fifteen minutes on one core
    python -m benchmarks.starts cfg --rounds 3    # only rows whose name contains a word

Each row is a command of lrflow's and a plain one: a Hydra app on the same `conf/` that prints its config, a script by
Lightning, a loop by Optuna. The rows alternate, so that a change of the machine's speed meets both sides. What counts
is the CPU time of the process and of its children, user and system, in one thread. The ratio and the difference are
those of the minima. The cost of a trial is the difference between a sweep of 2n and one of n trials, per trial.

The limits are those that lrflow sets itself; the exit code is 1 if a row exceeds its own. What was measured is
written to `starts.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[1]
FILE = Path(__file__).with_name("starts.json")
STEPS = 5
"""Steps of the runs whose first step is measured."""
TRIALS = 15
"""Trials of a short sweep; a long one has twice as many."""

LRFLOW = ("-m", "lrflow")
PLAIN = ("-m", "benchmarks.starts", "plain")
QUIET = ("trainer.progress=false", "task.test=false")
TRIAL = ("trainer.max_epochs=1", *QUIET)


@dataclass(frozen=True)
class Row:
    """A command of lrflow's and what it is compared with.

    Args:
        name: of the row.
        lrflow: words after `python`; for trials also with as many trials as asked for.
        plain: likewise, of the plain program.
        limit: the most that lrflow may take: times as long, or of a trial the seconds more.
        exit_code: of lrflow's command.
        trials: the row measures the cost of a trial.
    """

    name: str
    lrflow: tuple[str, ...]
    plain: tuple[str, ...]
    limit: float
    exit_code: int = 0
    trials: bool = False


ROWS = (
    Row("cfg: --cfg job", (*LRFLOW, "--cfg", "job"), (*PLAIN, "app"), 1.3),
    Row("error: a value", (*LRFLOW, "optimizer.lr=fast"), (*PLAIN, "app"), 1.5, 2),
    Row("error: a value in layers.rules", (*LRFLOW, "layers.rules.0.lr=fast"), (*PLAIN, "app"), 1.5, 2),
    Row("first steps", (*LRFLOW, f"trainer.max_steps={STEPS}", *QUIET), (*PLAIN, "training"), 1.15),
    Row("trial of a search", ("search",), ("bare",), 0.2, trials=True),
    Row("job of a multirun", ("multirun",), ("bare",), 0.2, trials=True),
    Row("trial of a search, to a Trainer's", ("search",), ("trainer",), 0.2, trials=True),
    Row("job of a multirun, to a Trainer's", ("multirun",), ("trainer",), 0.2, trials=True),
)


def sweep_of(kind: str, trials: int) -> tuple[str, ...]:
    """The command of a sweep of so many trials."""
    if kind == "search":
        drawn = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
        return *LRFLOW, "-m", "sweep.sampler=random", f"sweep.n_trials={trials}", drawn, *TRIAL
    if kind == "multirun":
        rates = ",".join(f"{10 ** (-4 + 3 * number / trials):.4g}" for number in range(trials))
        return *LRFLOW, "-m", f"optimizer.lr={rates}", *TRIAL
    return *PLAIN, kind, str(trials)


def measure(rows: Sequence[Row], rounds: int) -> dict[str, dict[str, list[float]]]:
    """The CPU seconds of both sides of each row, one for each round."""
    found: dict[str, dict[str, list[float]]] = {row.name: {"lrflow": [], "plain": []} for row in rows}
    for _ in range(rounds):
        taken: dict[tuple[str, ...], float] = {}  # rows share what they are compared with
        for row in rows:
            for side, words in (("lrflow", row.lrflow), ("plain", row.plain)):
                code = row.exit_code if side == "lrflow" else 0
                if words not in taken:
                    taken[words] = _seconds_per_trial(words[0]) if row.trials else _seconds(words, code)
                found[row.name][side].append(round(taken[words], 4))
            print(row.name, *(f"{side} {values[-1]:.3f} s" for side, values in found[row.name].items()), flush=True)
    return found


def _seconds_per_trial(kind: str) -> float:
    short, long = (_seconds(sweep_of(kind, trials)) for trials in (TRIALS, 2 * TRIALS))
    return (long - short) / TRIALS


def _seconds(words: Sequence[str], exit_code: int = 0) -> float:
    """CPU seconds of a Python command, in an empty folder."""
    place = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": place}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # after their first start, both sides read compiled modules
    before = _cpu()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != exit_code:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: Sequence[Row], found: dict[str, dict[str, list[float]]]) -> tuple[str, bool]:
    """What was measured as a Markdown table, and whether every row is within its limit."""
    lines = ["| CPU seconds | lrflow: min, median | plain: min, median | ratio | over | limit |", "| --- " * 6 + "|"]
    within = True
    for row in rows:
        own, plain = found[row.name]["lrflow"], found[row.name]["plain"]
        ratio, over = min(own) / min(plain), min(own) - min(plain)
        within &= (over if row.trials else ratio) <= row.limit
        sides = (f"{min(side):.3f}, {statistics.median(side):.3f}" for side in (own, plain))
        limit = f"{1000 * row.limit:.0f} ms over" if row.trials else f"{row.limit}x"
        lines.append(f"| {row.name} | {' | '.join(sides)} | {ratio:.2f}x | {1000 * over:.0f} ms | {limit} |")
    return "\n".join(lines), within


def plain(words: Sequence[str]) -> None:
    """Runs a plain program: `app`, `training`, `bare N` or `trainer N`."""
    kind, *rest = words
    if kind == "app":
        plain_app(rest)
    elif kind == "training":
        import torchmetrics  # noqa: F401  # as a script does that measures an accuracy

        from benchmarks.sweeps.peer import LR, with_lightning

        with_lightning(LR, Path.cwd(), STEPS)
    else:
        plain_search(kind, int(rest[0]))


def plain_app(overrides: Sequence[str]) -> None:
    """Prints the config that Hydra composes from lrflow's `conf/`."""
    import hydra

    sys.argv = ["app", *overrides, "--cfg", "job"]
    hydra.main(config_path="pkg://lrflow.conf", config_name="config", version_base="1.3")(lambda cfg: None)()


def plain_search(how: str, trials: int) -> None:
    """Searches an LR by Optuna in this process, over a loop in torch (`bare`) or a Lightning trainer (`trainer`)."""
    import optuna

    from benchmarks.sweeps.peer import bare, with_lightning

    def loss_of(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        return bare(lr) if how == "bare" else with_lightning(lr, Path.cwd() / str(trial.number))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(loss_of, n_trials=trials)


def main() -> int:
    """Measures, prints the table and writes the file; returns the exit code."""
    if sys.argv[1:2] == ["plain"]:
        plain(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="measure only rows whose name contains one of these words")
    parser.add_argument("--rounds", type=int, default=5, help="how often each command is run")
    chosen = parser.parse_args()
    rows = [row for row in ROWS if not chosen.names or any(name in row.name for name in chosen.names)]
    found = measure(rows, chosen.rounds)
    text, within = table(rows, found)
    print(text)
    if len(rows) == len(ROWS):
        versions = {name: version(name) for name in ("torch", "pytorch-lightning", "hydra-core", "optuna")}
        head: dict[str, Any] = {"command": f"python -m benchmarks.starts --rounds {chosen.rounds}"}
        head |= {"python": platform.python_version(), **versions, "seconds": found}
        FILE.write_text(json.dumps(head, indent=1) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
