"""Real signals to real processes: each ends at a step boundary, with a checkpoint that resumes exactly."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow import stops
from lrflow.config import compose
from lrflow.errors import StoppedError
from lrflow.runs import newest_checkpoint
from lrflow.tasks.train import run
from lrflow.training import interrupt
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.interrupt import StopRequest


@pytest.fixture
def exit_code(prepare: Any) -> Callable[..., int]:
    """Trains in a copy of this process, which exits like the command line; returns its exit code."""

    def go(folder: Path, *callbacks: pl.Callback, **options: Any) -> int:
        def run() -> None:
            os.setpgid(0, 0)
            try:
                prepare(folder, callbacks=callbacks, stop=StopRequest(), **options).fit()
            except StoppedError as error:
                print(error, flush=True)
                sys.exit(error.exit_code)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return go


class Signal(pl.Callback):
    """Sends this process, or its group with its workers, signals at the start of a batch, or within a validation."""

    def __init__(
        self, batch: int, *numbers: int, validating: bool = False, pause: float = 0, group: bool = True
    ) -> None:
        self.left, self.numbers, self.validating, self.pause = batch, numbers, validating, pause
        self.to = 0 if group else os.getpid()

    def on_train_batch_start(self, *_: Any) -> None:
        if self.left == 0 and not self.validating:
            self.send()
        self.left -= 1

    def on_validation_batch_start(self, *_: Any) -> None:
        if self.left <= 0 and self.validating:
            self.send()

    def send(self) -> None:
        for number in self.numbers:
            os.kill(self.to, number)
            time.sleep(self.pause)
        self.numbers = ()


def assert_goes_on_exactly(train: Any, folder: Path, **options: Any) -> None:
    resumed = train(folder, resume=newest_checkpoint(folder), **options)
    whole = train(folder.with_name("whole"), **options)
    assert resumed.rows() == whole.rows()
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())


@pytest.mark.parametrize(
    ("number", "batch", "options", "step"),
    [
        (signal.SIGTERM, 4, {}, 5),
        (signal.SIGINT, 4, {}, 5),
        (signal.SIGUSR1, 4, {}, 5),  # Slurm's warning that time is running out
        (signal.SIGHUP, 4, {}, 5),  # the terminal was closed
        (signal.SIGTERM, 6, {}, 7),  # in the last batch of an epoch
        (signal.SIGTERM, 8, {"accumulate": 3}, 4),  # within an accumulation window: 3 epochs of 3 steps
        (signal.SIGINT, 6, {"accumulate": 3}, 3),  # in a window of a single batch
        (signal.SIGINT, 4, {"workers": 1}, 5),
        (signal.SIGUSR1, 7, {"workers": 1, "accumulate": 3}, 4),  # two more batches are needed, from the worker
        (signal.SIGTERM, 20, {}, 21),  # in the last batch of the run
    ],
)
def test_it_stops_after_the_step_and_resumes_exactly(
    number: int, batch: int, options: dict[str, Any], step: int, exit_code: Any, train: Any, tmp_path: Path, capfd: Any
) -> None:
    folder = tmp_path / "run"
    assert exit_code(folder, Signal(batch, number), save_every=None, **options) == 128 + number
    saved = folder / "checkpoints" / f"step-{step:07d}.ckpt"
    assert newest_checkpoint(folder) == saved
    assert f"stopped as asked after {step} steps; saved as {saved}" in capfd.readouterr().out
    assert_goes_on_exactly(train, folder, **options)


def test_a_signal_during_setup_stops_it_before_the_first_step(exit_code: Any, tmp_path: Path, capfd: Any) -> None:
    class Early(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    assert exit_code(tmp_path / "run", Early(), save_every=None) == 143
    assert newest_checkpoint(tmp_path / "run") is None
    assert "stopped by SIGTERM at step 0, before the first step" in capfd.readouterr().out


@pytest.mark.parametrize(("val_every", "step"), [("3 steps", 3), ("1 epoch", 7)])
def test_a_validation_is_completed_first(val_every: str, step: int, exit_code: Any, train: Any, tmp_path: Path) -> None:
    folder, ask = tmp_path / "run", Signal(0, signal.SIGTERM, validating=True)
    assert exit_code(folder, ask, save_every=None, val_every=val_every) == 143
    assert newest_checkpoint(folder).name == f"step-{step:07d}.ckpt"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [step - 1]
    assert_goes_on_exactly(train, folder, val_every=val_every)


def test_a_killed_run_resumes_from_its_last_checkpoint(exit_code: Any, train: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert exit_code(folder, Signal(11, signal.SIGKILL), save_every="2 steps") == -signal.SIGKILL
    assert newest_checkpoint(folder).name == "step-0000010.ckpt"
    assert_goes_on_exactly(train, folder)


@pytest.mark.parametrize("number", stops.SIGNALS)
def test_a_second_signal_of_the_same_kind_ends_it_at_once(
    number: int, exit_code: Any, tmp_path: Path, capfd: Any
) -> None:
    assert exit_code(tmp_path, Signal(2, number, number, pause=2 * stops.SAME), save_every=None) == 128 + number
    assert newest_checkpoint(tmp_path) is None
    assert f"ended at once by a second {signal.Signals(number).name}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("numbers", "pause"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 0.0),  # `timeout` signals the process, then its group
        ((signal.SIGUSR1, signal.SIGTERM), 2 * stops.SAME),  # Slurm warns, then the time is over
        ((signal.SIGHUP, signal.SIGTERM, signal.SIGINT), 2 * stops.SAME),
    ],
)
def test_other_signals_after_the_first_change_nothing(
    numbers: tuple[int, ...], pause: float, exit_code: Any, tmp_path: Path
) -> None:
    assert exit_code(tmp_path, Signal(2, *numbers, pause=pause), save_every=None) == 128 + numbers[0]
    assert newest_checkpoint(tmp_path).name == "step-0000003.ckpt"


def test_a_signal_to_another_process_stops_this_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    others = (signal.SIGTERM, 0)  # what another process was asked, and its pace
    monkeypatch.setattr(
        interrupt, "_highest", lambda trainer, *own: [max(pair) for pair in zip(own, others, strict=False)]
    )
    asked_at: Any = SimpleNamespace(world_size=2, global_step=1)
    for ask in (StopRequest.agreed, lambda stop, trainer: stop.agreed_after_step(trainer, 50)):
        stop = StopRequest()
        assert ask(stop, asked_at)
        assert stop.exit_code == 143


@pytest.mark.parametrize("how", ["to its end", "stopped"])
def test_the_handlers_are_restored(how: str, prepare: Any, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    callbacks = [Signal(2, signal.SIGTERM, group=False)] if how == "stopped" else []  # the group is that of the tests
    run = prepare(tmp_path, callbacks=callbacks, stop=StopRequest(), max_epochs=1)
    if how == "stopped":
        with pytest.raises(StoppedError):
            run.fit()
    else:
        run.fit()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_in_another_thread_handles_no_signals(train: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path, max_epochs=1)))
    thread.start()
    thread.join()
    assert done[0].trainer.global_step == 7
    assert signal.getsignal(signal.SIGTERM) is before


SCRIPT = """
import sys
from lrflow.config import compose
from lrflow.errors import LrflowError
from lrflow.tasks import train

try:
    train.run(compose(sys.argv[1:]))
except LrflowError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_a_job_is_stopped_by_the_scheduler_and_resumed(python: Any, tmp_path: Path) -> None:
    """A cluster sends SIGTERM at any moment."""
    (tmp_path / "job.py").write_text(SCRIPT)
    common = [
        f"output={tmp_path}/runs",
        "trainer=cpu",
        "trainer.max_epochs=10",
        "trainer.log_every=10",
        "task.test=false",
    ]
    job = python("job.py", *common, cwd=tmp_path)

    def begun() -> bool:
        return any(len(path.read_text().splitlines()) > 30 for path in tmp_path.glob("runs/*/metrics.csv"))

    assert job.interrupt(signal.SIGTERM, begun) == 143
    _, told = job.communicate()
    assert "stopped as asked after" in told
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"continue with resume={folder}" in told

    assert run(compose([*common, f"resume.from={folder}"]))["folder"] == str(folder)
    whole = Path(run(compose(common))["folder"])
    ends = [read_checkpoint(max(path.glob("checkpoints/step-*.ckpt"))) for path in (folder, whole)]
    assert ends[0]["global_step"] == ends[1]["global_step"]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
