"""Sweeps of several workers, with a launcher whose jobs are functions in the workers' own threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from optuna.trial import TrialState

from lrflow import stops
from lrflow.config.composition.literal import how_to_resume
from lrflow.config.composition.overrides import Override
from lrflow.config.schemas.sweep import Sweep
from lrflow.errors import LrflowError, SignalReceived, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.space import read_space
from lrflow.sweeps.study import JOURNAL
from lrflow.sweeps.sweeper import SweepRun
from lrflow.sweeps.workers import Workers, ask_to_stop, workers_for

TIMEOUT = 30  # seconds until a test that would hang fails
PLUGINS = "hydra_plugins.hydra_{}_launcher.{}"
JOBLIB, LOCAL, SLURM, RAY = (
    PLUGINS.format(*names)
    for names in (
        ("joblib", "joblib_launcher.JoblibLauncher"),
        ("submitit", "submitit_launcher.LocalLauncher"),
        ("submitit", "submitit_launcher.SlurmLauncher"),
        ("ray", "ray_launcher.RayLauncher"),
    )
)


@pytest.mark.parametrize(
    ("config", "batch", "expected"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, None, Workers(1, 1)),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 3, Workers(1, 3)),
        ({"_target_": JOBLIB, "n_jobs": 4}, None, Workers(4, shared=True)),
        ({"_target_": JOBLIB, "n_jobs": 4}, 2, Workers(2, shared=True)),
        ({"_target_": JOBLIB, "n_jobs": 1}, 9, Workers(1, shared=True)),  # joblib then runs jobs in this very process
        ({"_target_": LOCAL}, 3, Workers(3)),
        ({"_target_": SLURM, "array_parallelism": 256}, None, Workers(20)),
        ({"_target_": SLURM, "array_parallelism": 8}, None, Workers(8)),
        ({"_target_": RAY}, None, Workers(20, shared=True)),
        (
            {"_target_": "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"},
            None,
            Workers(1, 20, whole_trials=True),
        ),
        ({"_target_": "somebody.elses.Launcher"}, 5, Workers(1, 5, whole_trials=True)),
    ],
)
def test_workers_match_the_concurrency_of_the_launcher(
    config: dict[str, Any], batch: int | None, expected: Workers
) -> None:
    assert workers_for(DictConfig(config), batch, 20) == expected


class Threads:
    """A launcher whose jobs call a function of the trial's number, which returns the metric."""

    def __init__(self, run: Callable[[int], float], folder: Path) -> None:
        self.run, self.folder = run, folder
        self.launched: list[int] = []
        self.threads: set[threading.Thread] = set()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        done = []
        for number in range(initial_job_idx, initial_job_idx + len(job_overrides)):
            self.launched.append(number)
            self.threads.add(threading.current_thread())
            (self.folder / str(number)).mkdir(exist_ok=True)
            outcome = Outcome.finished()
            try:
                outcome = Outcome.finished({"val/loss": self.run(number)})
            except LrflowError as error:
                outcome = Outcome.from_error(error)
            done.append(JobReturn(status=JobStatus.COMPLETED, _return_value=outcome))
        return done


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., tuple[SweepRun, Threads]]:
    """Return a factory of sweeps of a function with several workers."""

    def make(run: Callable[[int], float], workers: int, **settings: Any) -> tuple[SweepRun, Threads]:
        launcher = Threads(run, tmp_path)
        chosen = Sweep.model_validate({"sampler": "random", "n_trials": 6, "batch": workers, **settings})
        space = read_space(None, None, map(Override.read, ["optimizer.lr=interval(1e-4,1)"]))
        launching = DictConfig({"_target_": LOCAL})
        return SweepRun(chosen, space, tmp_path, str(tmp_path / JOURNAL), launcher, launching, []), launcher  # type: ignore[arg-type]

    return make


def save_when_asked(folder: Path, holds: Any) -> None:
    def save(number: int, frame: object) -> None:
        (folder / "saved").touch()
        os._exit(0)

    signal.signal(signal.SIGUSR1, save)
    with RunFolder(folder).locked():
        holds.set()
        time.sleep(TIMEOUT)


def states(sweep: SweepRun) -> list[str]:
    return [trial.state.name for trial in sweep.trials.all()]


def test_a_free_worker_claims_the_next_trial_at_once(sweep) -> None:
    last, completed = threading.Event(), []

    def run(number: int) -> float:
        if number == 0:
            assert last.wait(TIMEOUT), "the others wait for this one"
        completed.append((number, [t.number for t in swept.trials.all() if t.state is TrialState.COMPLETE]))
        if number == 5:
            last.set()
        return 1.0

    swept, launcher = sweep(run, 2)
    swept.run()
    assert sorted(launcher.launched) == list(range(6))
    assert states(swept) == ["COMPLETE"] * 6
    # Each trial was drawn when the study knew how the outcome of the trial before it on its worker.
    assert completed[:5] == [(number, list(range(1, number))) for number in range(1, 6)]
    assert len(launcher.threads) == 2


def test_workers_share_the_runs_of_a_trial(sweep) -> None:
    both, first = threading.Barrier(2), threading.Event()

    def run(number: int) -> float:
        if number:
            assert first.is_set(), "its first run may be pruned"
            both.wait(TIMEOUT)
        else:
            time.sleep(0.1)
            first.set()
        return 1.0

    swept, launcher = sweep(run, 2, n_trials=1, repeats=3, pruner="median", metric="val/loss", mode="min")
    swept.run()
    assert sorted(launcher.launched) == [0, 1, 2]
    assert len(launcher.threads) == 2
    assert states(swept) == ["COMPLETE"]


def test_a_single_worker_uses_the_main_thread(sweep) -> None:
    swept, launcher = sweep(lambda number: 1.0, 1)
    swept.run()
    assert launcher.launched == list(range(6))
    assert launcher.threads == {threading.current_thread()}


def test_failing_jobs_and_launches_lose_no_trial(sweep, capsys: pytest.CaptureFixture[str]) -> None:
    died: list[int] = []

    def run(number: int) -> float:
        if number == 1:
            raise LrflowError("oh")
        if number == 2 and not died:
            died.append(number)
            raise ConnectionError("a worker was killed\nwith much to tell")
        return 1.0

    swept, launcher = sweep(run, 2)
    outcomes = swept.run()
    assert states(swept) == ["COMPLETE", "FAIL", *["COMPLETE"] * 4]
    assert sorted(launcher.launched) == [0, 1, 2, 2, 3, 4, 5]
    assert [outcome.status for outcome in outcomes].count("failed") == 1
    out = capsys.readouterr().out
    assert "the launcher failed: ConnectionError: a worker was killed\n" in out
    assert "trial 2: its process died; it is run again" in out


def test_a_launcher_that_starts_nothing_ends_the_sweep(sweep, tmp_path: Path) -> None:
    def run(number: int) -> float:
        (tmp_path / str(number)).rmdir()
        raise ConnectionError("no such cluster")

    swept, _ = sweep(run, 1)
    with pytest.raises(ConnectionError, match="no such cluster"):
        swept.run()


def test_local_runs_save_a_checkpoint_when_the_sweep_is_stopped(tmp_path: Path) -> None:
    """Runs in processes of the launcher save; processes that do not end are killed."""
    fork = multiprocessing.get_context("fork")
    holds = fork.Event()
    run = fork.Process(target=save_when_asked, args=(tmp_path, holds), daemon=True)
    idle = fork.Process(target=time.sleep, args=(TIMEOUT,), daemon=True)
    folders = [RunFolder(tmp_path), RunFolder(tmp_path / "nobody's")]
    run.start()
    idle.start()

    def work() -> None:
        if threading.current_thread().name == "worker 0":
            holds.wait(TIMEOUT)
            raise LrflowError("the disk is full")
        run.join(TIMEOUT)

    asked: list[int] = []
    with pytest.raises(LrflowError, match="the disk is full"):
        Workers(2).run(work, lambda: asked.append(ask_to_stop(folders)))
    assert asked == [1]
    assert (tmp_path / "saved").exists()
    idle.join(TIMEOUT)
    assert idle.exitcode == -signal.SIGKILL


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Enable Ctrl-C, which shells disable for background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("by", [None, *stops.SIGNALS])
def test_a_stopped_sweep_does_not_wait_for_remote_jobs(
    by: signal.Signals | None, sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs run elsewhere, as on a cluster."""
    never, handler = threading.Event(), signal.getsignal(signal.SIGTERM)

    def run(number: int) -> float:
        if number == 3:
            if by is None:
                raise StoppedError("stopped", 143)
            os.kill(os.getpid(), by)
        if number in (0, 3):
            never.wait(TIMEOUT)
        return 1.0

    swept, launcher = sweep(run, 2)
    with pytest.raises(StoppedError if by is None else SignalReceived):
        swept.run()
    assert not never.is_set()
    assert sorted(launcher.launched) == [0, 1, 2, 3]
    assert f"the sweep was stopped; {how_to_resume(swept.folder)}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is handler
    never.set()
