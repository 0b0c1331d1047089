"""Whole sweeps from the command line; only the training is replaced by a function."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import signal
import socket
import sqlite3
import sys
import textwrap
import zipfile
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import yaml

from lrflow.cli import main
from lrflow.config import Config, compose, save_config
from lrflow.config.checks.hydra_section import check_sweeper
from lrflow.errors import ConfigError, DivergedError, LrflowError, Problem, PrunedError, StoppedError
from lrflow.outcome import STATUSES, Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.study import JOURNAL, open_storage

LR = "optimizer.lr=interval(1e-4,1)"


def bowl(config: Config) -> float:
    """Best at an LR of 0.01."""
    return (math.log10(config.optimizer.lr) + 2) ** 2 + 0.1


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(str(folder / JOURNAL))
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def test_a_search_finds_the_best_lr(objective, sweep_folder, capsys: pytest.CaptureFixture[str]) -> None:
    ran = objective(bowl)
    assert main(["-m", LR, "sweep.sampler=tpe", "sweep.n_trials=9", "seed=3"]) == 0
    assert len(ran) == 9
    assert min(abs(math.log10(config.optimizer.lr) + 2) for config in ran) < 0.5
    assert [config.run_folder.name for config in ran] == [str(number) for number in range(9)]
    assert all(config.seed == 3 for config in ran)
    assert [config.trial.number for config in ran] == list(range(9))
    assert ran[0].overrides == ["seed=3", f"optimizer.lr={ran[0].optimizer.lr!r}"]
    record = yaml.safe_load((sweep_folder() / "sweep.yaml").read_text())
    assert record["space"] == ["optimizer.lr: log [0.0001, 1]"]
    assert record["settings"]["sampler"] == "tpe"
    out = capsys.readouterr().out
    assert "sweep by tpe, 9 trials" in out
    assert out.count("\ntrial ") == 9
    assert "sweep of 9 jobs" in out


def test_runs_a_sweep_from_a_file_of_options(objective, here) -> None:
    ran = objective(bowl)
    file = here / "options/sweep/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /hydra/sweeper: lrflow\nhydra:\n  sweeper:\n"
        "    sampler: grid\n    params: {optimizer: 'glob(rms*)', seed: 'range(0,2)', optimizer.lr: '0.1,0.2'}\n"
        "    when: {seed=1: {optimizer.lr: 0.3}}\n"
    )
    assert main(["-m", "--config-dir", "options", "sweep=mine"]) == 0
    given = [(config.choices["optimizer"], config.seed, config.optimizer.lr) for config in ran]
    assert given == [("rmsprop", 0, 0.1), ("rmsprop", 0, 0.2), ("rmsprop", 1, 0.3)]


def test_a_grid_has_the_order_of_hydra(objective) -> None:
    ran = objective(bowl)
    assert main(["-m", "optimizer=sgd,adamw", "optimizer.lr=0.1,0.01", "sweep.sampler=grid"]) == 0
    given = [(config.choices["optimizer"], config.optimizer.lr) for config in ran]
    assert given == [("sgd", 0.1), ("sgd", 0.01), ("adamw", 0.1), ("adamw", 0.01)]


def test_a_resumed_sweep_continues_the_sequence(objective, sweep_folder) -> None:
    whole = objective(bowl)
    assert main(["-m", LR, "sweep.n_trials=5"]) == 0
    parts = objective(bowl)
    assert main(["-m", LR, "sweep.n_trials=2", "hydra.sweep.dir=outputs/sweeps/z"]) == 0
    assert main(["-m", "sweep.resume=last", "sweep.n_trials=5"]) == 0
    assert sweep_folder().name == "z"
    rates = [config.optimizer.lr for config in parts]
    assert rates == [config.optimizer.lr for config in whole]
    assert len(set(rates)) == 5


def test_a_failing_job_is_a_failed_trial(objective, sweep_folder, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> float:
        if config.seed == 1:
            raise ValueError("oh")
        if config.seed == 2:
            raise DivergedError("step 3: the loss is nan")
        return 0.5 if config.seed else math.nan

    ran = objective(run)
    assert main(["-m", "seed=0,1,2,3", "sweep.sampler=grid"]) == 1
    assert len(ran) == 4
    out = capsys.readouterr().out
    assert "1 of 4 jobs failed: 1\n2 of 4 jobs diverged: 0, 2\n" in out
    assert "ValueError: oh" in out
    states = [trial.state.name for trial in trials_of(sweep_folder())]
    assert states == ["PRUNED", "FAIL", "PRUNED", "COMPLETE"]  # samplers learn from what diverged
    assert "ValueError: oh" in (sweep_folder() / "1/output.txt").read_text()


ENDS = {
    0: lambda: Outcome.finished({"val/loss": 0.5}),
    1: lambda: Outcome.ended_early("a time limit", 3, 9, {"val/loss": 0.1}),
    2: lambda: Outcome.from_error(PrunedError("trial 2 was pruned by asha", {"val/loss": 0.9})),
    3: lambda: Outcome.from_error(DivergedError("step 3: the loss is nan")),
    4: lambda: Outcome.from_error(ValueError("oh")),
    5: lambda: Outcome.ended_early("a dead loader", 0, 9),
}
"""The outcome of each seed; the run that ended early would be the best."""


@pytest.mark.parametrize("ranked", [False, True])
def test_reports_every_outcome(ranked: bool, objective, sweep_folder, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> float:
        save_config(config, RunFolder(config.run_folder).config)
        outcome = ENDS[config.seed]()
        RunFolder(config.run_folder).write_summary(outcome.summary())
        return outcome.raise_if_unfinished().metrics["val/loss"]

    objective(run)
    words = ["seed=0,1,2,3,4,5", "sweep.sampler=grid", f"sweep.rank_ended_early={str(ranked).lower()}"]
    assert main(["-m", *words]) == 1
    folder, out = sweep_folder(), capsys.readouterr().out
    wanted = ["finished", "ended_early", "pruned", "diverged", "failed", "ended_early"]
    trials = trials_of(folder)
    assert [trial.user_attrs["status"] for trial in trials] == wanted
    assert [trial.state.name for trial in trials] == [
        "COMPLETE", "COMPLETE" if ranked else "FAIL", "PRUNED", "PRUNED", "FAIL", "FAIL",
    ]  # fmt: skip
    with (folder / "sweep.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == wanted
    table = out.rpartition("sweep of 6 jobs")[2]
    rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()][:6]
    assert [next(word for word in row if word in STATUSES) for row in rows] == wanted
    assert "1 of 6 jobs failed: 4\n1 of 6 jobs diverged: 3\n2 of 6 jobs ended early: 1, 5\n" in out
    assert "ended early after 3 of 9 steps: a time limit" in out, "as it goes"
    for asked, best in ((None, 1 if ranked else 0), (False, 0), (True, 1)):
        found = read_sweep(folder, rank_ended_early=asked).best
        assert found is not None
        assert found.number == best


@pytest.mark.parametrize(("seeds", "code"), [("0,2", 0), ("0,1", 3), ("1,3", 1)])
def test_the_exit_code_of_a_sweep(seeds: str, code: int, objective) -> None:
    objective(lambda config: ENDS[config.seed]().raise_if_unfinished().metrics["val/loss"])
    assert main(["-m", f"seed={seeds}", "sweep.sampler=grid"]) == code


def test_an_unknown_metric_ends_the_sweep(objective, capsys: pytest.CaptureFixture[str]) -> None:
    ran = objective(bowl)
    assert main(["-m", LR, "sweep.metric=val/los", "sweep.n_trials=9", "model.loss=null"]) == 1
    assert len(ran) == 1
    err = capsys.readouterr().err
    assert "val/los" in err
    assert "did you mean val/loss?" in err


def test_several_objectives(objective, sweep_folder) -> None:
    objective(lambda config: {"val/loss": bowl(config), "val/accuracy": config.optimizer.lr})
    words = ["sweep.sampler=nsga2", "sweep.metric=[val/loss,val/accuracy]", "sweep.mode=[min,max]", "sweep.n_trials=2"]
    assert main(["-m", LR, *words]) == 0
    assert all(len(trial.values) == 2 for trial in trials_of(sweep_folder()))


KILLED = """
    import os, sys
    from types import ModuleType

    module = ModuleType("lrflow.tasks.train")

    def run(config):
        if config.run_folder.name == "2":
            os.kill(os.getpid(), 9)
        return {"val/loss": config.optimizer.lr}

    module.run = run
    sys.modules[module.__name__] = module
    from lrflow.cli import main
    main(sys.argv[1:])
"""


def test_a_killed_sweep_resumes_without_losing_or_repeating_trials(objective, here, python, capsys) -> None:
    whole = objective(bowl)
    assert main(["-m", LR, "sweep.n_trials=5", "sweep.sampler=random"]) == 0
    words = [LR, "sweep.n_trials=5", "sweep.sampler=random", "hydra.sweep.dir=killed"]
    (here / "swept.py").write_text(textwrap.dedent(KILLED))
    assert python("swept.py", "-m", *words, cwd=here).wait(120) == -signal.SIGKILL
    journal = here / "killed" / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"worker_i')  # as a write that was cut short leaves it

    ran = objective(bowl)
    capsys.readouterr()
    assert main(["-m", "sweep.resume=killed"]) == 0
    assert [config.trial.number for config in ran] == [2, 3, 4]
    assert [config.optimizer.lr for config in ran] == [config.optimizer.lr for config in whole[2:]]
    assert [trial.state.name for trial in trials_of(here / "killed")] == ["COMPLETE"] * 5
    out = capsys.readouterr().out
    assert "an incomplete line at the end" in out
    assert "trial 2: its process died; it is run again" in out
    assert (here / "killed" / f"{JOURNAL}.broken-1").read_bytes().endswith(b'"worker_i')


def stop(config: Config) -> float:
    raise KeyboardInterrupt


def interrupted(objective, here: Path, at: int) -> list[Config]:
    """Stop a sweep in one of its three trials."""

    def run(config: Config) -> float:
        if config.run_folder.name == str(at):
            raise KeyboardInterrupt
        return bowl(config)

    ran = objective(run)
    assert main(["-m", LR, "sweep.n_trials=3", "hydra.sweep.dir=stopped"]) == 130
    return ran


def write_checkpoint(path: Path) -> None:
    """Write a file that is whole, as an archive of torch is."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", "")


def test_an_interrupted_sweep_prints_the_command_to_resume(objective, here, capsys: pytest.CaptureFixture[str]) -> None:
    ran = interrupted(objective, here, 1)
    assert len(ran) == 2
    assert "resume with python -m lrflow -m sweep.resume=stopped" in capsys.readouterr().out
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=stopped"]) == 0
    assert [config.trial.number for config in ran] == [1, 2]


def test_a_finished_run_is_not_run_again_after_a_crash_of_its_sweep(objective, here) -> None:
    interrupted(objective, here, 1)
    summary = {"status": "finished", "metrics": {"val/loss": 0.25}}
    (here / "stopped/1/summary.json").write_text(json.dumps(summary))
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=stopped"]) == 0
    assert [config.trial.number for config in ran] == [2]
    assert trials_of(here / "stopped")[1].value == 0.25


def test_a_dead_run_resumes_from_its_checkpoint(objective, here) -> None:
    interrupted(objective, here, 1)
    checkpoint = here / "stopped/1/checkpoints/step-0000010.ckpt"
    checkpoint.parent.mkdir()
    write_checkpoint(checkpoint)
    save_config(compose([]), here / "stopped/1/config.yaml")
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=stopped"]) == 0
    assert ran[0].resume.source == "stopped/1/checkpoints/step-0000010.ckpt"
    assert ran[1].resume.source is None
    assert all("resume" not in text and "trial" not in text for config in ran for text in config.overrides)


def test_a_trial_fails_after_too_many_deaths(objective, here) -> None:
    interrupted(objective, here, 1)
    again = objective(stop)
    assert main(["-m", "sweep.resume=stopped"]) == 130
    assert [config.trial.number for config in again] == [1]
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=stopped", "sweep.retries=1"]) == 1
    assert [config.trial.number for config in ran] == [2]
    assert trials_of(here / "stopped")[1].user_attrs["error"] == "its process died more than 1 time"


def test_a_trial_with_new_checkpoints_is_always_restarted(objective, here) -> None:
    interrupted(objective, here, 1)
    checkpoints = here / "stopped/1/checkpoints"
    checkpoints.mkdir()
    save_config(compose([]), here / "stopped/1/config.yaml")
    steps = iter(range(1, 4))

    def run(config: Config) -> float:
        if config.run_folder.name == "1" and (step := next(steps, None)):
            write_checkpoint(checkpoints / f"step-{step:07}.ckpt")
            raise KeyboardInterrupt
        return bowl(config)

    ran = objective(run)
    for code in (130, 130, 130, 0):
        assert main(["-m", "sweep.resume=stopped", "sweep.retries=1"]) == code
    assert [config.trial.number for config in ran] == [1, 1, 1, 1, 2]
    assert Path(ran[3].resume.source).name == "step-0000003.ckpt"


def test_a_resumed_sweep_rejects_another_space(objective, here, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(objective, here, 1)
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=stopped", "optimizer.lr=interval(1e-3,1)", "sweep.mode=max"]) == 2
    err = capsys.readouterr().err
    assert "the sweep's search space" in err
    assert "sweep.mode" in err
    assert not ran


def test_a_folder_holds_one_sweep(objective, here, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(objective, here, 1)
    assert main(["-m", LR, "hydra.sweep.dir=stopped", "sweep.n_trials=5"]) == 2
    assert "sweep.resume=stopped" in capsys.readouterr().err


def test_a_database_is_shared_by_sweeps(objective, here, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIALS", "sqlite:///trials.db")
    ran = objective(bowl)
    words = ["-m", LR, "sweep.storage=${oc.env:TRIALS}", "sweep.study=one", "sweep.sampler=random"]
    assert main([*words, "sweep.n_trials=2", "hydra.sweep.dir=first"]) == 0
    assert main([*words, "sweep.n_trials=3", "hydra.sweep.dir=second"]) == 0
    assert len({config.optimizer.lr for config in ran}) == len(ran) == 3
    assert ran[2].run_folder == Path("second/2")
    row = capsys.readouterr().out.rpartition("sweep of 3 jobs in second/")[2].splitlines()[2:5]
    assert [line.split()[-1] for line in row] == ["finished", "finished", "2"]  # the others' folders lie elsewhere
    assert ran[0].trial.storage == "sqlite:///trials.db"
    assert "trials.db" not in (here / "first/sweep.yaml").read_text()  # a URL may hold a password


def test_a_trial_of_a_dead_machine_is_run_again_under_a_new_number(objective, here, monkeypatch) -> None:
    words = ["-m", LR, "sweep.storage=sqlite:///trials.db", "sweep.study=one", "sweep.sampler=random"]
    drawn: list[list[Config]] = []
    for folder, silent in (("first", 1), ("second", 2)):  # each is killed in a trial, the second in the first's
        with monkeypatch.context() as away:
            away.setattr(socket, "gethostname", lambda folder=folder: folder)

            def run(config: Config, silent: int = silent) -> float:
                if config.run_folder.name == str(silent):
                    raise KeyboardInterrupt
                return bowl(config)

            drawn.append(objective(run))
            assert main([*words, "sweep.n_trials=3", f"hydra.sweep.dir={folder}"]) == 130
        with closing(sqlite3.connect(here / "trials.db")) as database, database:
            assert database.execute("update trial_heartbeats set heartbeat = datetime('now', '-121 seconds')").rowcount
    ran = objective(bowl)
    assert main([*words, "sweep.n_trials=3", "hydra.sweep.dir=third"]) == 0
    assert [config.trial.number for config in ran] == [3, 4]
    assert ran[0].optimizer.lr == drawn[1][-1].optimizer.lr == drawn[0][-1].optimizer.lr
    (study,) = (storage := open_storage("sqlite:///trials.db")).get_all_studies()
    ended = [trial.state.name for trial in storage.get_all_trials(study._study_id)]
    assert ended == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("url", "driver", "remedy"),
    [
        ("postgresql+psycopg://lr:hidden@nowhere/trials", "psycopg", "pip install 'lrflow[postgresql]'"),
        ("mysql+pymysql://lr:hidden@nowhere/trials", "pymysql", ""),
    ],
)
def test_a_missing_database_driver_is_an_error(
    url: str, driver: str, remedy: str, objective, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.setenv("TRIALS", url)
    ran = objective(bowl)
    assert main(["-m", LR, "sweep.storage=${oc.env:TRIALS}", "sweep.n_trials=2"]) == 2
    err = capsys.readouterr().err
    assert f"needs the package {driver}, which is not installed" in err
    assert remedy in err
    assert url.replace("hidden", "***") in err
    assert "hidden" not in err
    assert not ran


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([LR], ["add sweep.sampler=tpe"]),
        ([LR, "sweep.sampler=tpee", "sweep.n_trials=0"], ["did you mean tpe?", "sweep.n_trials = 0"]),
        ([LR, "sweep.ntrials=3"], ["did you mean sweep.n_trials?"]),
        ([LR, "sweep.sampler=grid"], ["a grid needs values"]),
        (["sweep.sampler=tpe"], ["no key has several values"]),
        (["optimizer.lr=interval(1e-3,1e4)", "optimizer=sgd,adamm", "sweep.sampler=tpe"], ["adamm"]),
        (
            [
                "optimizer.lr=interval(1e-3,1e4)",
                "optimizer=adamw,lion",
                "optimizer.momentum=interval(0.1,0.9)",
                "sweep.sampler=tpe",
            ],
            ["at most 1000", "momentum"],
        ),
        (["sweep.resume=nowhere"], ["sweep.resume = nowhere", "there is no such folder"]),
    ],
)
def test_rejects_a_wrong_sweep_before_the_first_job(
    words: list[str], messages: list[str], objective, here, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = objective(bowl)
    assert main(["-m", *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert all(text in err for text in messages), err
    assert not ran
    assert not (here / "outputs").exists()


def test_sweeps_need_the_multirun_flag(objective, capsys: pytest.CaptureFixture[str]) -> None:
    ran = objective(bowl)
    assert main(["sweep=lr_bayes", "sweep.n_trials=3"]) == 2
    assert capsys.readouterr().err.count("add -m") == 2
    assert not ran


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"metric": ["a", "b"], "pruner": "median"}, ["cannot prune trials with several objectives"]),
        ({"metric": ["a", "b"], "mode": ["min"] * 3}, ["expected one mode, or one per metric of sweep.metric (2)"]),
        ({"metric": ["a", "b"], "sampler": "cmaes"}, ["supports only one objective"]),
        ({"storage": "memory", "pruner": "asha"}, ["pruning needs a storage that the jobs can open"]),
        ({"storage": "memory", "resume": "last"}, ["a sweep in memory cannot be resumed"]),
        ({"storage": "redis", "retries": -1}, ["expected memory, journal or the URL", "expected a whole number"]),
        ({"pruner": "patience", "pruning": {"rungs": "annealed"}}, ["needs more rungs"]),
        ({"pruning": {"rungz": 1}}, ["there is no such key"]),
        ({"storage": "${oc.env:TRIALS}"}, []),
        ({"storage": "postgresql://lr:hidden@host/trials"}, ["contains a password in plain text"]),
        ({"storage": "postgresql://lr@host/trials"}, []),
    ],
)
def test_rejects_incompatible_settings(settings: dict[str, object], messages: list[str]) -> None:
    problems = [str(problem) for problem in check_sweeper(settings)]
    assert len(problems) == len(messages)
    assert all(text in problem for text, problem in zip(messages, problems, strict=True)), problems


def test_a_full_disk_is_a_clear_error(objective, here, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> float:
        if config.run_folder.name == "2":
            monkeypatch.setattr(os, "fsync", full)
        return bowl(config)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    objective(run)
    assert main(["-m", LR, "sweep.n_trials=5", "hydra.sweep.dir=full"]) == 1
    captured = capsys.readouterr()
    assert "No space left on device; free disk space and resume the sweep" in captured.err
    monkeypatch.undo()
    os.chdir(here)
    ran = objective(bowl)
    assert main(["-m", "sweep.resume=full"]) == 0
    assert [config.trial.number for config in ran] == [3, 4]  # the third had ended, according to its folder


def test_a_journal_broken_in_the_middle_is_cut_there(objective, here, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(objective, here, 2)
    journal = here / "stopped" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\x00\x00\n", *lines[3:]]))
    objective(bowl)
    assert main(["-m", "sweep.resume=stopped"]) == 0
    assert f"removed {len(lines) - 2} lines from the first broken one on" in capsys.readouterr().out
    assert [trial.state.name for trial in trials_of(here / "stopped")] == ["COMPLETE"] * 3


def test_an_unpicklable_error_keeps_its_message() -> None:
    class OddError(Exception):
        pass

    error = Outcome.from_error(OddError("why")).picklable().error
    assert isinstance(error, LrflowError)
    assert str(error) == "OddError: why"
    stopped = pickle.loads(pickle.dumps(Outcome.from_error(StoppedError("stopped", 143)).picklable()))
    assert (stopped.status, stopped.exit_code) == ("stopped", 143)
    wrong = pickle.loads(pickle.dumps(ConfigError([Problem("a", "b")])))
    assert wrong.problems == [Problem("a", "b")]
