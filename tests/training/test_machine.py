"""What steps take of the machine: throughput against the step times in the same file, waiting for data, memory."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import lrflow.training.lean_loop
import lrflow.training.loops
import lrflow.training.signals
from lrflow.columns import DATA_TIME, PEAK, SAMPLES, STEPS
from lrflow.config import compose
from lrflow.tasks import train as task
from lrflow.training import machine

WORK, FETCH = 2**-4, 2**-6  # seconds per batch


def test_the_throughput_is_that_of_the_steps_since_the_last_one(tmp_path: Path) -> None:
    small = ["model=logistic", "trainer=cpu", "trainer.progress=false", "task.test=false", "data.batch_size=128"]
    steps = ["trainer.max_steps=10", "trainer.log_every=4", "trainer.val_every=10 steps"]
    folder = task.run(compose([*small, *steps, f"output={tmp_path}"]))["folder"]
    rows = [row for row in csv.DictReader((Path(folder) / "metrics.csv").open()) if row["train/loss"]]
    assert len(rows) == 10  # it has no rows of its own
    start = 0
    for step, row in enumerate(rows):
        assert 0 < float(row[DATA_TIME]) < float(row["train/step_time"])
        if row[STEPS]:
            speed = (step + 1 - start) / sum(float(one["train/step_time"]) for one in rows[start : step + 1])
            assert float(row[STEPS]) == pytest.approx(speed, rel=1e-3)
            assert float(row[SAMPLES]) == pytest.approx(128 * speed, rel=1e-3)
            start = step + 1
    assert start == 10


def test_the_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "peak_memory", lambda: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**31)
    for kind, expected in (("cpu", 1.5), ("cuda", 2.0)):
        trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(kind)))
        assert machine.machine_use(trainer, 5, 2.0) == {STEPS: 2.5, PEAK: expected}
    monkeypatch.setattr(machine, "peak_memory", lambda: None)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    assert machine.machine_use(trainer, 1, 0.0) == {}


@pytest.mark.parametrize("known", [True, False])
def test_the_time_of_fetching_is_waiting_for_data(
    known: bool, train: Any, tmp_path: Path, points: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of loaders without a reliable length, of which a batch is fetched ahead, before the first step."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    for module in (lrflow.training.lean_loop, lrflow.training.loops, lrflow.training.signals):
        monkeypatch.setattr(module, "time", clock)

    def collate(examples: Any) -> Any:
        clock.now += FETCH
        return torch.utils.data.default_collate(examples)

    class Slow(points):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            rows = super().train_dataloader().dataset
            examples = [(rows[index][0].squeeze(), rows[index][1].squeeze()) for index in range(0, 104)]
            return DataLoader(examples if known else Stream(examples), 16, collate_fn=collate)

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __init__(self, examples: Any) -> None:
            self.examples = examples

        def __iter__(self) -> Any:
            return iter(self.examples)

    class Work(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += WORK

    run = train(tmp_path, data=Slow(), callbacks=[Work()], accumulate=2, val_every="4 steps", max_steps=8)
    windows = [2, 2, 2, 1, 2, 2, 2, 1]
    fetched = windows if known else [2, 2, 2, 0, 3, 2, 2, 0]
    assert run.column(DATA_TIME) == [FETCH * batches for batches in fetched]
    assert run.column("train/step_time") == [WORK * a + FETCH * b for a, b in zip(windows, fetched, strict=True)]
    assert np.concatenate([block.data_seconds for block in run.blocks]).tolist() == run.column(DATA_TIME)
    block = next(one for one in run.blocks if len(one) > 1)
    parts = [block.part(block.first, block.first + 1), block.part(block.first + 1, block.first + len(block))]
    assert [len(part.data_seconds) for part in parts] == [1, len(block) - 1]
    assert [part.machine for part in parts] == [{}, block.machine]


@pytest.mark.parametrize(
    ("waited", "threads", "chosen", "device", "warned"),
    [
        (60, 2, {}, "cpu", True),
        (60, 1, {}, "cpu", False),
        (60, 2, {}, "cuda", False),
        (60, 2, {"OMP_NUM_THREADS": "2"}, "cpu", False),
        (60, 2, {"MKL_NUM_THREADS": "2"}, "cpu", False),
        (15, 2, {}, "cpu", False),
        (None, 2, {}, "cpu", False),
    ],
)
def test_several_threads_on_a_busy_machine_are_warned_of_and_not_changed(
    waited: int | None, threads: int, chosen: dict[str, str], device: str, warned: bool,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "_SCHEDULE", tmp_path / "schedstat")
    if waited is not None:
        (tmp_path / "schedstat").write_text(f"{100 - waited}000000000 {waited}000000000 1234\n")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(
        torch, "set_num_threads", lambda count: pytest.fail("results would differ in their last digits")
    )
    warning = machine.crowding(torch.device(device))
    assert (warning is not None) is warned
    if warning:
        assert f"waited {waited}% of its time" in warning
        assert f"PyTorch's {threads} threads" in warning
