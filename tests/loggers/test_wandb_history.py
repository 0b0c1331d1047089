"""W&B's rows, read back from its own files and compared with metrics.csv."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrflow.loggers.wandb_file import rows_of
from lrflow.loggers.wandb_history import OF_LIGHTNING, STEP, WandbHistory
from lrflow.training.machine import varies
from tests.support.wandb_files import files_of, metrics_in, write_file


class Experiment:
    """What a logger needs of W&B's run."""

    def __init__(self, step: int = 0, offline: bool = True) -> None:
        self.step, self.offline = step, offline
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        assert commit
        assert step >= (self.rows[-1][0] + 1 if self.rows else self.step), "W&B refuses steps that do not rise"
        self.rows.append((step, {name: value for name, value in row.items() if name != STEP}))


def write_csv(folder: Path, rows: list[tuple[int, dict[str, Any]]]) -> None:
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        writer.writerows([step, *(row.get(name, "") for name in columns)] for step, row in rows)


@pytest.fixture
def logged(tmp_path: Path):
    """Log rows of a resumed run, and return what W&B gets."""

    def log(rows: list[tuple[int, dict[str, Any]]], experiment: Experiment) -> list[tuple[int, dict[str, Any]]]:
        logger = WandbHistory(tmp_path, id="abc", mode="offline")
        logger._experiment = experiment
        for step, row in rows:
            logger.log_metrics(row, step)
        logger._write()
        return experiment.rows

    return log


def loss(*steps: int) -> dict[int, dict[str, Any]]:
    return {step: {"loss": step / 8} for step in steps}


CASES: dict[str, tuple[dict[int, Any], list[int], list[int], list[int]]] = {
    # rows that W&B has; steps in metrics.csv; steps logged; steps that W&B gets
    "a new run": ({}, [], [0, 1, 2], [0, 1, 2]),
    "rows were lost": (loss(0, 1), [0, 1, 2, 3], [4, 5], [2, 3, 4, 5]),
    "a row within was lost": (loss(0, 2, 3), [0, 1, 2, 3], [4], [1, 4]),
    "rows come twice": (loss(0, 1, 2, 3, 4), [0, 1], [2, 3, 4, 5], [5]),
    "all was lost": ({}, [0, 1], [2], [0, 1, 2]),
    "metrics.csv is missing": (loss(0, 1), [], [4, 5], [4, 5]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_one_row(case: str, tmp_path: Path, logged) -> None:
    has, recorded, now, expected = CASES[case]
    if has:
        write_file(tmp_path, has)
    if recorded:
        write_csv(tmp_path, list(loss(*recorded).items()))
    rows = logged([(step, {"loss": step / 8}) for step in now], Experiment())
    assert rows == [(step, {"loss": step / 8}) for step in expected]


def test_rows_that_a_rollback_abandoned_count_as_lost_after_a_kill(tmp_path: Path, logged) -> None:
    write_file(tmp_path, loss(0, 1, 2, 3, 4), shifted={2: {"loss": 7.0}})
    write_csv(tmp_path, [*loss(0, 1).items(), (2, {"loss": 7.0}), (3, {"loss": 8.0})])
    rows = logged([(4, {"loss": 9.0}), (5, {"loss": 10.0})], Experiment(6))
    assert [row for _, row in rows] == [{"loss": 8.0}, {"loss": 9.0}, {"loss": 10.0}]


def test_the_values_of_a_step_are_one_row(tmp_path: Path, logged) -> None:
    write_csv(tmp_path, [(0, {"loss": 0.5}), (1, {"loss": 0.25}), (1, {"val": 1.5, "epoch": 0})])
    rows = logged([(2, {"loss": 0.125}), (2, {"val": 2.5}), (3, {"test": 1.0})], Experiment())
    expected = [{"loss": 0.5}, {"loss": 0.25, "val": 1.5, "epoch": 0}, {"loss": 0.125, "val": 2.5}, {"test": 1.0}]
    assert rows == list(enumerate(expected))


def test_rows_of_several_files_count_up_to_where_the_last_was_cut(tmp_path: Path, logged) -> None:
    write_file(tmp_path, loss(0, 1))
    write_file(tmp_path, {2: {"loss": 0.25, "text": "x" * 100_000}, 3: {"loss": 0.375}}, "2", cut=5)
    write_csv(tmp_path, list(loss(0, 1, 2, 3).items()))
    assert [step for step, _ in logged([(4, {"loss": 0.5})], Experiment())] == [3, 4]


def test_rows_are_read_wherever_a_block_ends(tmp_path: Path) -> None:
    for size in range(32660, 32720):
        write_file(tmp_path, {0: {"text": "x" * size}, **loss(1, 2)}, f"{size}")
        (path,) = tmp_path.glob(f"wandb/*-{size}-*/*.wandb")
        assert [row for _, row in rows_of(path)][1:] == [{**row, STEP: step} for step, row in loss(1, 2).items()], size


def test_a_damaged_file_does_not_end_the_run(tmp_path: Path, logged, caplog: pytest.LogCaptureFixture) -> None:
    write_file(tmp_path, loss(0, 1, 2))
    (path,) = tmp_path.glob("wandb/*/*.wandb")
    data = bytearray(path.read_bytes())
    data[-3:] = b"\xff\xff\xff"
    path.write_bytes(data)
    os.utime(path, (0, 0))
    write_csv(tmp_path, list(loss(0, 1, 2).items()))
    assert [step for step, _ in logged([(3, {"loss": 0.375})], Experiment())] == [2, 3]
    assert f"{path}: cannot be read to its end" in caplog.text


def test_a_file_that_the_service_of_a_killed_run_still_writes_is_read_once_it_is_whole(
    tmp_path: Path, logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path, loss(0, 1, 2), cut=5)
    (path,) = tmp_path.glob("wandb/*/*.wandb")
    os.utime(path)  # a moment ago
    written = []

    def rest_is_written(seconds: float) -> None:
        written.append(seconds)
        shutil.rmtree(tmp_path / "wandb")
        write_file(tmp_path, loss(0, 1, 2))

    own = SimpleNamespace(sleep=rest_is_written, time=time.time, monotonic=time.monotonic)  # other threads sleep too
    monkeypatch.setattr("lrflow.loggers.wandb_history.time", own)
    write_csv(tmp_path, list(loss(0, 1, 2).items()))
    assert [step for step, _ in logged([(3, {"loss": 0.375})], Experiment())] == [3]
    assert len(written) == 1


def test_a_step_that_holds_other_values_is_followed_by_the_new_ones(tmp_path: Path, logged) -> None:
    """A finished run whose test had the step at which it now trains on."""
    write_file(tmp_path, {**loss(0, 1), 2: {"test": 1.0}})
    write_csv(tmp_path, list(loss(0, 1).items()))
    rows = logged([(2, {"loss": 0.25}), (3, {"loss": 0.375})], Experiment())
    assert rows == [(3, {"loss": 0.25}), (4, {"loss": 0.375})]


def test_rows_that_were_moved_are_known_by_the_step_of_the_optimizer(tmp_path: Path, logged) -> None:
    """A run that was resumed twice: its first resume moved the row of step 1 behind that of a test."""
    write_file(tmp_path, {**loss(0), 1: {"test": 1.0}, 2: {"loss": 0.125, STEP: 1}})
    write_csv(tmp_path, list(loss(0, 1).items()))
    rows = logged([(2, {"loss": 0.25}), (3, {"loss": 0.375})], Experiment())
    assert rows == [(3, {"loss": 0.25}), (4, {"loss": 0.375})]


def test_a_run_of_an_earlier_version_keeps_its_axis(tmp_path: Path, logged) -> None:
    """Lightning's logger wrote several rows for a step; a chart over another axis would not show them."""
    write_file(tmp_path, loss(0, 1), axis=OF_LIGHTNING, shifted={1: {"val": 1.5}})
    write_csv(tmp_path, [*loss(0, 1).items(), (1, {"val": 1.5}), (2, {"loss": 0.25})])
    rows = logged([(3, {"loss": 0.375}), (4, {"loss": 0.5})], Experiment())
    assert rows == [(step + 1, {**loss(step)[step], OF_LIGHTNING: step}) for step in (2, 3, 4)]


def test_a_server_with_later_rows_gets_the_lost_ones_after_them(tmp_path: Path, logged) -> None:
    write_csv(tmp_path, list(loss(0, 1, 2).items()))
    rows = logged([(3, {"loss": 0.375})], Experiment(step=10, offline=False))
    assert [row for _, row in rows] == list(loss(0, 1, 2, 3).values())


def test_a_killed_and_resumed_run_has_every_value_once(python, lrflow, tmp_path: Path) -> None:
    words = [
        "logger=wandb", "logger.wandb.mode=offline", "trainer.max_epochs=4", "trainer.checkpoint.every=7 steps",
        "trainer.log_every=5", "trainer.val_every=10 steps", "output=out",
    ]  # fmt: skip

    def rows() -> int:
        return sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("out/*/metrics.csv"))

    python("-m", "lrflow", *words, cwd=tmp_path).interrupt(signal.SIGKILL, lambda: rows() > 40)
    done = lrflow("resume=last", "output=out")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.glob("out/*")
    union: list[tuple[int, dict[str, Any]]] = []
    for path in files_of(folder):
        union += rows_of(path)
    steps = [step for step, _ in union]
    assert len(steps) == len(set(steps))
    assert steps == sorted(steps)
    written: dict[int, dict[str, float]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            written.setdefault(step, {}).update({name: float(text) for name, text in row.items() if text})
    assert steps == sorted(written)
    for step, row in union:
        own = {name: value for name, value in metrics_in(row).items() if not varies(name)}
        assert own == {name: value for name, value in written[step].items() if not varies(name)}, step


def test_a_rollback_logs_its_steps_again(tmp_path: Path) -> None:
    """Under W&B's next steps, since it refuses earlier ones; the axis has the optimizer's."""
    logger = WandbHistory(tmp_path, id="abc", mode="offline")
    logger._experiment = experiment = Experiment()  # type: ignore[assignment]
    logger.drop_from(0)  # as a resumed run does before its first row
    for step, loss in [(0, 1.0), (1, 0.9), (2, 8.0), (3, 9.0)]:
        logger.log_metrics({"loss": loss}, step)
    logger.drop_from(2)
    for step, loss in [(2, 0.8), (3, 0.7)]:
        logger.log_metrics({"loss": loss}, step)
    logger._write()
    assert [(at, row["loss"]) for at, row in experiment.rows] == [*enumerate([1.0, 0.9, 8.0, 9.0, 0.8, 0.7])]
