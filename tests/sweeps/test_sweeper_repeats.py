"""Sweeps with several runs per trial and sweeps with a budget, from the command line; the training is a function."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import socket
import sqlite3
import textwrap
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest

from lrflow.cli import main
from lrflow.config import Config
from lrflow.config.checks.hydra_section import check_sweeper, repeats_problems
from lrflow.errors import DivergedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps import budget
from lrflow.sweeps.analysis import analyse
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.repeats import Spread
from lrflow.sweeps.study import JOURNAL, open_storage

LR = "optimizer.lr=interval(1e-4,1)"
GRID = "optimizer.lr=1e-3,1e-2,1e-1"


def noisy(config: Config) -> float:
    """Best at an LR of 0.01; the seed moves it by up to 0.05."""
    assert config.seed < 9
    return (math.log10(config.optimizer.lr) + 2) ** 2 + 0.1 + 0.05 * math.sin(7 * config.seed + 1)


def recording(metric=noisy):
    """Return a function that also writes the config of its run, which the results of a sweep are read from."""

    def run(config: Config) -> float:
        from lrflow.config import save_config

        save_config(config, RunFolder(config.run_folder).config)
        return metric(config)

    return run


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(str(folder / JOURNAL))
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def ran_as(configs: list[Config]) -> list[tuple[int, int, int]]:
    """The trial, the seed and the folder of each run."""
    return [(config.trial.number, config.seed, int(config.run_folder.name)) for config in configs]


def test_a_grid_with_repeats_has_the_mean_of_each_trial(objective, here, capsys) -> None:
    ran = objective(recording())
    words = [GRID, "sweep.repeats=3", "seed=4", "hydra.sweep.dir=swept"]
    assert main(["-m", *words]) == 0
    assert ran_as(ran) == [(job // 3, 4 + job % 3, job) for job in range(9)]
    values = [[noisy(config) for config in ran[at : at + 3]] for at in (0, 3, 6)]
    for trial, losses in zip(trials_of(here / "swept"), values, strict=True):
        assert trial.value == pytest.approx(np.mean(losses))
        assert trial.user_attrs["std"]["val/loss"] == pytest.approx(np.std(losses, ddof=1))
        assert trial.user_attrs["stderr"]["val/loss"] == pytest.approx(np.std(losses, ddof=1) / math.sqrt(3))
    out = capsys.readouterr().out
    assert "sweep by grid, 3 trials, each of 3 runs" in out
    assert f"val/loss {Spread.of(values[0])}" in out
    assert "sweep of 3 trials" in out

    sweep = read_sweep(here / "swept")
    assert [(trial.number, trial.folder.name, len(trial.runs)) for trial in sweep.trials] == [
        (0, "0", 3),
        (1, "3", 3),
        (2, "6", 3),
    ]
    assert sweep.keys == ("optimizer.lr",)
    assert sweep.best is sweep.trials[1]  # by its mean
    assert sweep.warnings == ()
    curve = analyse(sweep).curves[0]
    assert [len(point.trials) for point in curve.points] == [3, 3, 3]
    assert curve.seeds is not None
    assert curve.seeds[0] <= 0.01 <= curve.seeds[1]
    with (here / "swept/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/loss"]) for row in rows] == pytest.approx([np.mean(losses) for losses in values])
    assert [float(row["val/loss std"]) for row in rows] == pytest.approx([np.std(losses, ddof=1) for losses in values])
    record = json.loads((here / "swept/3/trial.json").read_text())
    assert (record["status"], record["spread"]["val/loss"]["runs"]) == ("finished", 3)


def test_the_runs_of_a_trial_train_together(here, capsys) -> None:
    words = ["fast=true", "optimizer.lr=1e-3,1e-2", "sweep.repeats=2", "trainer.max_steps=6"]
    together = ["hydra/launcher=vectorized", "hydra.launcher.measure=false"]
    assert main(["-m", *words, "hydra.sweep.dir=alone"]) == 0
    assert main(["-m", *words, *together, "hydra.sweep.dir=together"]) == 0
    assert "jobs 0 to 3 train together" in capsys.readouterr().out
    alone, population = (read_sweep(here / name).trials for name in ("alone", "together"))
    for one, other in zip(alone, population, strict=True):
        assert [run.metrics["val/loss"] for run in one.runs] == pytest.approx(
            [run.metrics["val/loss"] for run in other.runs], rel=1e-4
        )
        assert one.metrics["val/loss"] == pytest.approx(other.metrics["val/loss"], rel=1e-4)


def test_seeds_of_one_config_need_no_swept_key(objective, here, capsys) -> None:
    ran = objective(recording())
    assert main(["-m", "sweep.repeats=4", "optimizer.lr=0.1", "hydra.sweep.dir=swept"]) == 0
    assert [config.seed for config in ran] == [0, 1, 2, 3]
    assert "1 trial" in capsys.readouterr().out


def test_a_race_stops_the_further_runs_of_a_bad_trial(objective, here, capsys) -> None:
    ran = objective(recording(lambda config: noisy(config) + 0.02 * math.sin(999 * config.optimizer.lr * config.seed)))
    words = ["optimizer.lr=1e-2,1,1.1e-2", "sweep.sampler=grid", "sweep.pruner=race"]
    assert main(["-m", *words, "sweep.repeats=5", "hydra.sweep.dir=swept"]) == 0
    counts = [sum(config.trial.number == number for config in ran) for number in range(3)]
    assert counts == [5, 2, 5]
    states = [(trial.state.name, trial.user_attrs["status"]) for trial in trials_of(here / "swept")]
    assert states == [("COMPLETE", "finished"), ("COMPLETE", "pruned"), ("COMPLETE", "finished")]
    reason = "stopped after 2 of 5 runs: val/loss"
    assert reason in capsys.readouterr().out
    stopped = read_sweep(here / "swept").trials[1]
    assert (stopped.status, len(stopped.runs)) == ("pruned", 2)
    assert stopped.error.startswith(reason)


def test_only_the_first_run_of_a_trial_is_pruned(objective, here) -> None:
    ran = objective(noisy)
    words = [GRID, "sweep.sampler=grid", "sweep.pruner=median", "sweep.repeats=2", "hydra.sweep.dir=swept"]
    assert main(["-m", *words]) == 0
    assert {(config.trial.pruner, config.trial.repeat) for config in ran} == {("median", 0), ("median", 1)}

    from lrflow.errors import PrunedError

    def pruned(config: Config) -> float:
        if config.optimizer.lr == 0.1 and not config.trial.repeat:
            raise PrunedError("trial 2 was pruned by median: val/loss 1 at 11% of the run", {"val/loss": 1.0})
        return noisy(config)

    ran = objective(pruned)
    assert main(["-m", *words[:-1], "hydra.sweep.dir=again"]) == 0
    assert ran_as(ran) == [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3), (2, 0, 4)]
    assert [trial.state.name for trial in trials_of(here / "again")] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_runs_that_diverge_are_counted(objective, here, capsys) -> None:
    def run(config: Config) -> float:
        if config.optimizer.lr == 0.1 and config.seed == 1:
            raise DivergedError("step 3: the loss is nan")
        if config.optimizer.lr == 1:
            raise DivergedError("step 1: the loss is nan")
        if config.optimizer.lr == 0.01 and config.seed == 2:
            Outcome.ended_early("a dead loader", 3, 9, {"val/loss": 99.0}).raise_if_unfinished()
        return noisy(config)

    objective(recording(run))
    assert main(["-m", "optimizer.lr=0.01,0.1,1", "sweep.repeats=3", "hydra.sweep.dir=swept"]) == 1
    early, kept, bad = trials_of(here / "swept")
    assert early.user_attrs["counted"] == 2
    assert (kept.state.name, kept.user_attrs["counted"], bad.state.name) == ("COMPLETE", 2, "PRUNED")
    out = capsys.readouterr().out
    assert "1 of 3 runs diverged" in out
    assert "2 of 2 runs diverged: step 1: the loss is nan" in out
    rows = out.rpartition("sweep of 3 trials")[2].splitlines()[2:5]
    assert ["2 of 3" in row for row in rows] == [True, True, False]  # in the column `runs`
    assert f"{early.value:.4g} ±" in rows[0]


KILLED = """
    import os, sys
    from types import ModuleType

    module, at = ModuleType("lrflow.tasks.train"), sys.argv[1]

    def run(config):
        if config.run_folder.name == at:
            os.kill(os.getpid(), 9)
        return {"val/loss": config.optimizer.lr * (1 + config.seed)}

    module.run = run
    sys.modules[module.__name__] = module
    from lrflow.cli import main
    main(sys.argv[2:])
"""


def test_a_sweep_killed_between_repeats_makes_exactly_the_missing_runs(objective, here, python) -> None:
    at = 4
    words = [LR, "sweep.n_trials=3", "sweep.sampler=random", "sweep.repeats=3", "hydra.sweep.dir=killed"]
    (here / "swept.py").write_text(textwrap.dedent(KILLED))
    assert python("swept.py", str(at), "-m", *words, cwd=here).wait(120) == -signal.SIGKILL
    ran = objective(lambda config: config.optimizer.lr * (1 + config.seed))
    assert main(["-m", "sweep.resume=killed"]) == 0
    assert ran_as(ran) == [(job // 3, job % 3, job) for job in range(at, 9)]
    for trial in trials_of(here / "killed"):
        assert trial.value == pytest.approx(2 * trial.params["optimizer.lr"], rel=1e-5)  # the mean of 1, 2 and 3
    assert main(["-m", "sweep.resume=killed"]) == 0
    assert len(ran) == 9 - at


def test_a_lost_journal_repeats_no_run(objective, here) -> None:
    ran = objective(recording())
    assert main(["-m", GRID, "sweep.repeats=2", "hydra.sweep.dir=swept"]) == 0
    (here / "swept" / JOURNAL).unlink()
    (here / "swept/3/summary.json").unlink()
    ran.clear()
    assert main(["-m", "sweep.resume=swept"]) == 0
    assert ran_as(ran) == [(1, 1, 3)]
    assert [trial.state.name for trial in trials_of(here / "swept")] == ["COMPLETE"] * 3


def test_another_machine_makes_the_missing_runs_of_a_dead_one(objective, here, monkeypatch) -> None:
    def run(config: Config) -> float:
        if config.run_folder.name == "1":
            raise KeyboardInterrupt
        return noisy(config)

    words = ["-m", LR, "sweep.storage=sqlite:///trials.db", "sweep.study=one", "sweep.sampler=random"]
    words += ["sweep.repeats=2", "sweep.n_trials=2", "hydra.sweep.dir=swept"]
    with monkeypatch.context() as away:
        away.setattr(socket, "gethostname", lambda: "another")
        objective(recording(run))
        assert main(words) == 130
    with closing(sqlite3.connect(here / "trials.db")) as database, database:
        assert database.execute("update trial_heartbeats set heartbeat = datetime('now', '-121 seconds')").rowcount
    ran = objective(recording())
    assert main(["-m", "sweep.resume=swept"]) == 0
    assert ran_as(ran) == [
        (1, 1, 3),
        (2, 0, 4),
        (2, 1, 5),
    ]  # the first run of trial 0 is that of trial 1, its successor
    trials = read_sweep(here / "swept").trials
    known = [(trial.number, [run.folder.name for run in trial.runs], trial.status) for trial in trials]
    assert (1, ["0", "3"], "finished") in known
    assert (2, ["4", "5"], "finished") in known


class Clock:
    """A clock that a run of the sweep moves by ten minutes."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(budget, "time", found)
    return found


def test_no_trial_starts_once_the_budget_is_spent(objective, here, clock: Clock, capsys) -> None:
    def run(config: Config) -> float:
        clock.now += 600
        return recording()(config)

    words = [LR, "sweep.sampler=random", "sweep.n_trials=9", "sweep.repeats=2", "sweep.budget=30 min"]
    ran = objective(run)
    assert main(["-m", *words, "hydra.sweep.dir=swept", "sweep.isolate=false"]) == 0
    assert len(ran) == 4  # the second trial began after 20 minutes, and was finished
    text = "the sweep ended after 2 of 9 trials: its budget of 30 min (sweep.budget) is spent"
    assert f"{text}; to go on, resume with python -m lrflow -m sweep.resume=swept" in capsys.readouterr().out
    assert read_sweep(here / "swept").warnings == (text,)
    clock.now += 10_000  # the time between a stop and a resume does not count
    assert main(["-m", "sweep.resume=swept", "sweep.isolate=false"]) == 0
    assert len(ran) == 4
    assert main(["-m", "sweep.resume=swept", "sweep.budget=1 h", "sweep.isolate=false"]) == 0
    assert len(ran) == 6  # 40 minutes were spent before
    assert main(["-m", "sweep.resume=swept", "sweep.budget=null", "sweep.isolate=false"]) == 0
    assert len(ran) == 18
    assert read_sweep(here / "swept").warnings == ()


def test_processes_that_run_a_sweep_at_once_share_its_budget(here, clock: Clock) -> None:
    study = optuna.create_study()
    one = budget.Budget("1 h", study, here)
    clock.now += 600
    other = budget.Budget("1 h", study, here)
    clock.now += 600
    other.note()
    one.note()
    assert (one.spent, other.spent) == (1200, 1200)
    clock.now += 9000
    assert budget.Budget("1 h", study, here).spent == 1200


@pytest.mark.parametrize(("ended", "spent"), [(False, 900), (True, 600)])
def test_only_a_killed_process_counts_until_the_last_write(here, clock: Clock, ended: bool, spent: int) -> None:
    study = optuna.create_study()
    one = budget.Budget("1 h", study, here)
    clock.now += 600
    one.note(ended)
    clock.now += 9000
    path = RunFolder(here / "0").metrics  # `task=evaluate` writes into run folders too, after the sweep has ended
    path.parent.mkdir()
    path.touch()
    os.utime(path, (1_000_900, 1_000_900))
    assert budget.Budget("1 h", study, here).spent == spent


def test_a_killed_process_counts_until_its_last_write(here, clock: Clock) -> None:
    study = optuna.create_study()
    budget.Budget("1 h", study, here)  # killed before it could record more
    metrics = here / "0/metrics.csv"
    metrics.parent.mkdir()
    metrics.touch()
    os.utime(metrics, (clock.now + 500, clock.now + 500))
    clock.now += 9000
    assert budget.Budget("1 h", study, here).spent == 500


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sweep.budget=2", "expected a time with its unit, such as 2 hours, 30 min or 90 s"),
        ("sweep.budgte='2 hours'", "did you mean sweep.budget?"),
        ("sweep.repeats=0", "expected a whole number"),
        ("sweep.repeats=many", "expected a whole number"),
        ("sweep.pruner=races", "did you mean race?"),
    ],
)
def test_rejects_wrong_values(word: str, message: str, objective, capsys) -> None:
    ran = objective(noisy)
    assert main(["-m", LR, "sweep.sampler=random", word]) == 2
    assert message in "".join(capsys.readouterr())
    assert not ran


def test_rejects_repeats_that_contradict_other_settings(objective, capsys) -> None:
    ran = objective(noisy)
    assert main(["-m", "seed=0,1", "sweep.repeats=2"]) == 2
    assert "repeats each trial with other seeds, and seed is swept too" in "".join(capsys.readouterr())
    assert not ran
    (problem,) = check_sweeper({"pruner": "race"})
    assert problem.key == "sweep.pruner"
    assert not repeats_problems(3, ["data.fold"], 2**32 - 3)
    assert [problem.key for problem in repeats_problems(3, ["data.fold"], 2**32 - 2)] == ["seed"]
