"""Sweeps on the real command line whose jobs die, hang, or are killed with the sweep, and are resumed."""

from __future__ import annotations

import csv
import json
import shlex
import signal
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lrflow.cli.sweep_job import SweepJobs, _outcome_of
from lrflow.errors import TimeLimitError

ODD = """
import inspect, os, signal, time
from pathlib import Path
from torch import nn

class Odd(nn.Module):
    def __init__(self, how=0, **options):
        super().__init__()
        self.how, self.net = how, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        if self.how == 1:
            os._exit(0)
        if self.how == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == 3:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(600)
        if self.how == 4 and not Path("died").exists() and any("test_step" in f.function for f in inspect.stack()):
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)
"""
SHORT = ["trainer.max_epochs=2", "trainer.checkpoint.every=5 steps", "trainer.log_every=1", "output=out"]


@pytest.fixture
def odd(tmp_path: Path) -> list[str]:
    (tmp_path / "odd.py").write_text(ODD)
    return ["-m", "trust=odd", "model._target_=odd.Odd", "output=my runs, 'all'", "fast=true"]


def statuses(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("*/sweeps/*/*/summary.json"))
    return {path.parent.name: json.loads(path.read_text())["status"] for path in found}


def test_a_job_that_dies_is_a_failed_one_and_the_others_go_on(odd: list[str], lrflow, tmp_path: Path) -> None:
    done = lrflow(*odd, "model.how=0,1,2,0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert statuses(tmp_path) == {"0": "finished", "1": "failed", "2": "failed", "3": "finished"}
    assert "its process ended by itself, with the exit code 0" in done.stderr
    assert "its process was killed by SIGKILL; the system does this if memory runs out" in done.stderr


def test_a_trial_that_hangs_is_ended_and_one_that_dies_is_retried(odd: list[str], lrflow, tmp_path: Path) -> None:
    done = lrflow(*odd, "model.how=3,1,0,4", "sweep.timeout=8 s", "sweep.retries=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert statuses(tmp_path) == {"0": "failed", "1": "failed", "2": "finished", "3": "finished"}
    assert "took longer than sweep.timeout=8 s" in done.stdout
    assert done.stdout.count("trial 1: its process ended by itself, with the exit code 0; it is run again") == 1
    assert "its process died more than 1 time: its process ended by itself" in done.stdout
    # The last one died in its test, after its last checkpoint: only its end was run again.
    assert (
        "trial 3: its process was killed by SIGKILL; the system does this if memory runs out; it is run" in done.stdout
    )
    (other, last) = ([*csv.DictReader(path.open())] for path in sorted(tmp_path.glob("*/sweeps/*/[23]/metrics.csv")))
    assert [row["step"] for row in last] == [row["step"] for row in other]
    assert last[-1]["test/loss"] == other[-1]["test/loss"]
    # The command that is printed last can be pasted into a shell, even if the folder's name has commas and quotes.
    line = next(line for line in done.stdout.splitlines() if line.startswith("run the best again: "))
    words = shlex.split(line.partition(": ")[2])
    again = lrflow(*words[3:], "trust=odd", "--cfg", "job")
    assert again.returncode == 0, again.stderr
    assert "_target_: odd.Odd" in again.stdout


@pytest.mark.parametrize(
    ("number", "swept"),
    [
        (signal.SIGKILL, ["optimizer.lr=0.1,0.01", "seed=0,1"]),
        (signal.SIGINT, ["optimizer.lr=interval(1e-3,1e-1)", "sweep.n_trials=4", "sweep.sampler=random"]),
    ],
)
def test_a_sweep_stopped_half_way_is_resumed_with_nothing_lost_or_doubled(
    number: int, swept: list[str], python, lrflow, tmp_path: Path
) -> None:
    def rows_of(job: int) -> int:
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob(f"out/sweeps/*/{job}/metrics.csv"))

    if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
        number = signal.SIGTERM  # a job in the background of a shell ignores SIGINT
    process = python("-m", "lrflow", "-m", *SHORT, *swept, cwd=tmp_path)
    code = process.interrupt(number, lambda: rows_of(1) > 12)
    out, _ = process.communicate()
    assert code == (-9 if number == signal.SIGKILL else 128 + number), out
    (sweep,) = tmp_path.glob("out/sweeps/*")
    first = (sweep / "0/summary.json").read_text()
    assert not (sweep / "2").exists()
    if number != signal.SIGKILL:
        words = shlex.split(out[out.index("python -m lrflow -m sweep.resume=") :].splitlines()[0])[3:]
    else:
        words = ["-m", "sweep.resume=last", "output=out"]
    done = lrflow(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(tmp_path) == dict.fromkeys("0123", "finished")
    assert (sweep / "0/summary.json").read_text() == first
    for job in range(4):
        with (sweep / f"{job}/metrics.csv").open(newline="") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert steps == list(range(40))


def test_a_job_may_take_its_own_time_and_no_longer_than_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds of a job, by sweep.timeout and the seconds that are left of sweep.max_time."""
    given = [(None, None), ("8 s", None), (None, 60), ("8 s", 60), ("2 min", 60)]
    found = []
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"runtime": {"output_dir": "0"}}))
    monkeypatch.setattr(SweepJobs, "__call__", lambda jobs, work, limit: found.append(limit))
    monkeypatch.setattr("lrflow.cli.sweep_job.time.monotonic", lambda: 1000.0)
    for limit, left in given:
        SweepJobs(None, None).run(OmegaConf.create({"task": {"name": "plan"}}), limit, left and 1000.0 + left)
    assert found == [None, 8, 60, 8, 60]


def test_the_outcome_of_a_job_that_gave_none_has_its_overrides_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PART", "lower-half-7")
    overrides = {"task": ["++model.part=${oc.env:PART}", "optimizer=sgd"]}
    node = OmegaConf.create({"overrides": overrides, "runtime": {"output_dir": "0"}})
    outcome = _outcome_of(TimeLimitError("too long"), node, 0.0)
    assert outcome.overrides == ["model.part=${oc.env:PART}", "optimizer=sgd"]
