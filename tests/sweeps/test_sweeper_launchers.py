"""Sweeps whose jobs run in other processes: real launchers, real kills; only the training is replaced by a function."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from lrflow.cli import main
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.runs import RunFolder
from lrflow.sweeps.study import JOURNAL, open_storage

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local"]
RAY = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"]

TRAINING = """
    import json, os, sys, time
    from types import ModuleType

    def run(config):
        if config.seed == 1:
            raise ValueError("oh")
        if config.seed == 2 and not (mark := config.run_folder / "killed").exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        if config.seed == 5:
            from lrflow.runs import RunFolder

            with RunFolder(config.run_folder).locked():
                while not config.run_folder.with_name("go").exists():
                    time.sleep(0.05)
        metrics = {"val/loss": config.optimizer.lr, "process": os.getpid()}
        if config.trial and config.trial.pruner != "none":
            from lrflow.sweeps.pruners import Reporter, pruned_error

            if Reporter(config.trial).report(metrics["val/loss"], 0.5):
                raise pruned_error(config.trial, metrics, 0.5)
        (config.run_folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
        return {**metrics, "folder": str(config.run_folder)}

    module = ModuleType("lrflow.tasks.train")
    module.run = run
    sys.modules[module.__name__] = module
"""


@pytest.fixture
def elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace training by a function in every process that is started, but not in this one."""
    site = here / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(textwrap.dedent(TRAINING))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by itself, which starves on a busy machine
    Plugins.instance()  # these register their options once a process
    singletons = Singleton.get_state()
    yield here
    Singleton.set_state(singletons)
    if importlib.util.find_spec("joblib"):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def states(folder: Path) -> list[str]:
    storage = open_storage(str(folder / JOURNAL))
    (study,) = storage.get_all_studies()
    return [trial.state.name for trial in storage.get_all_trials(study._study_id)]


def needs(words: list[str]) -> None:
    """Skip the test if a launcher is not installed."""
    name = words[0].partition("=")[2].partition("_")[0]
    if importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher") is None:
        pytest.skip(f"hydra-{name}-launcher is not installed")


@pytest.mark.parametrize("words", [JOBLIB, SUBMITIT, pytest.param(RAY, marks=pytest.mark.slow)], ids=lambda w: w[0])
def test_jobs_in_other_processes(words: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(words)
    assert main(["-m", *words, "hydra.sweep.dir=swept", "seed=0,1,3", "optimizer.lr=0.1"]) == 1
    out = capsys.readouterr().out
    assert "1 of 3 jobs failed: 1" in out
    assert "ValueError: oh" in out
    assert "ValueError: oh" in (elsewhere / "swept/1/output.txt").read_text()
    assert states(elsewhere / "swept") == ["COMPLETE", "FAIL", "COMPLETE"]
    assert str(os.getpid()) not in (elsewhere / "swept/0/summary.json").read_text()


def test_hydras_sweeper_reports_jobs_in_other_processes(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(JOBLIB)
    words = ["hydra/sweeper=basic", *JOBLIB, "hydra.sweep.dir=swept", "optimizer.lr=0.1"]
    assert main(["-m", *words, "seed=0,1,3"]) == 1
    out = capsys.readouterr().out
    assert "sweep of 3 jobs in swept/" in out
    assert "1 of 3 jobs failed: 1" in out
    assert (elsewhere / "swept/2/summary.json").exists()  # a job goes on after another has failed


def test_a_trial_in_another_process_is_pruned_through_the_journal(elsewhere: Path) -> None:
    needs(JOBLIB)
    words = ["sweep.sampler=grid", "sweep.pruner=median", "sweep.pruning.startup=2", "hydra.sweep.dir=swept"]
    assert main(["-m", *JOBLIB, *words, "optimizer.lr=0.1,0.2,0.3,0.4"]) == 0
    *first, third, last = states(elsewhere / "swept")
    assert (first, last) == (["COMPLETE", "COMPLETE"], "PRUNED")
    assert third in ("COMPLETE", "PRUNED")  # as it ends before or after its neighbour, which runs beside it


def test_a_killed_worker_loses_no_trial(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(JOBLIB)
    assert main(["-m", *JOBLIB, "hydra.sweep.dir=swept", "seed=0,2,3,4", "optimizer.lr=0.1"]) == 0
    out = capsys.readouterr().out
    assert "the launcher failed: TerminatedWorkerError" in out
    assert "trial 1: its process died; it is run again" in out
    assert states(elsewhere / "swept") == ["COMPLETE"] * 4


def test_a_resumed_sweep_waits_for_runs_that_survived(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(JOBLIB)

    def sleep(seconds: float) -> None:  # as the sweep does while it waits
        (elsewhere / "swept/go").touch()
        time.sleep(0.1)

    words = ["hydra.sweep.dir=swept", "seed=5,3", "optimizer.lr=0.1,0.2"]
    with subprocess.Popen([sys.executable, "-m", "lrflow", "-m", *JOBLIB, *words], stdout=subprocess.DEVNULL) as killed:
        runs = [RunFolder(elsewhere / "swept" / str(number)) for number in (0, 1)]
        while not all(holders := [run.holder() for run in runs]):
            assert killed.poll() is None
            time.sleep(0.1)
        killed.kill()
    monkeypatch.setattr("lrflow.sweeps.trials.time", SimpleNamespace(sleep=sleep))
    assert main(["-m", "sweep.resume=swept"]) == 0
    assert states(elsewhere / "swept") == ["COMPLETE"] * 4
    assert [str(run.read_summary()["metrics"]["process"]) for run in runs] == holders  # and no other process's
    assert f"waiting for process {holders[0]}, which still runs this trial" in capsys.readouterr().out
    for holder in holders:
        while Path(f"/proc/{holder}").exists():  # a worker whose sweep is gone ends with its run
            time.sleep(0.1)


def test_a_sweep_ended_by_a_full_disk_can_be_resumed(elsewhere: Path, objective, capsys) -> None:
    def no_room() -> None:  # the signal handler of writes beyond the limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    words = ["sweep.n_trials=20", "sweep.sampler=random", "optimizer.lr=interval(1e-4,1)", "hydra.sweep.dir=swept"]
    command = [sys.executable, "-m", "lrflow", "-m", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, preexec_fn=no_room)
    assert ended.returncode == 1
    assert "trials cannot be recorded: File too large; free disk space and resume the sweep" in ended.stderr
    assert "Traceback" not in ended.stderr
    before = states(elsewhere / "swept")
    done = before.count("COMPLETE")
    assert 0 < done < 20
    ran = objective(lambda config: config.optimizer.lr)
    assert main(["-m", "sweep.resume=swept"]) == 0
    assert states(elsewhere / "swept") == ["COMPLETE"] * 20
    assert 20 - done - 1 <= len(ran) <= 20 - done  # the one that was running may have ended, according to its folder


@pytest.mark.skipif("LRFLOW_TEST_DATABASE" not in os.environ, reason="LRFLOW_TEST_DATABASE names no database server")
def test_concurrent_sweeps_share_a_study_on_a_server(elsewhere: Path) -> None:
    name = f"test-{uuid.uuid4()}"
    words = ["sweep.storage=${oc.env:LRFLOW_TEST_DATABASE}", f"sweep.study={name}", "optimizer.lr=0.1,0.2,0.3,0.4"]
    words += ["sweep.sampler=grid", "seed=3,4,6"]
    command = [sys.executable, "-m", "lrflow", "-m", *words]
    try:
        sweeps = [subprocess.Popen([*command, f"hydra.sweep.dir={folder}"], text=True) for folder in ("one", "two")]
        assert [sweep.wait(240) for sweep in sweeps] == [0, 0]
        storage = open_storage(os.environ["LRFLOW_TEST_DATABASE"])
        trials = storage.get_all_trials(storage.get_study_id_from_name(name))
    finally:
        optuna.delete_study(study_name=name, storage=os.environ["LRFLOW_TEST_DATABASE"])
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert len({tuple(trial.user_attrs["overrides"]) for trial in trials}) == 12
    ran = {
        folder: {path.parent.name for path in (elsewhere / folder).glob("*/summary.json")} for folder in ("one", "two")
    }
    assert ran["one"].isdisjoint(ran["two"])
    assert ran["one"] | ran["two"] == {str(number) for number in range(12)}


def test_a_missing_launcher_is_an_error(monkeypatch: pytest.MonkeyPatch, composed_anew: None) -> None:
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml", raising=False)
    with pytest.raises(ConfigError) as raised:
        compose(["hydra/launcher=joblib"])
    (problem,) = raised.value.problems
    assert problem.message == "needs the package hydra-joblib-launcher, which is not installed"
    assert problem.hint == "pip install 'lrflow[joblib]'"
