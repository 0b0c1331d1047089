"""The measured speed of training, against the step times in the same file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lrflow.config import compose
from lrflow.tasks import train


def test_the_speed_is_that_of_the_steps_since_the_last_row(tmp_path: Path) -> None:
    small = ["model=logistic", "trainer=cpu", "trainer.progress=false", "task.test=false", "data.batch_size=128"]
    steps = ["trainer.max_steps=10", "trainer.log_every=4", "trainer.val_every=10 steps"]
    folder = train.run(compose([*small, *steps, "callbacks=throughput", f"output={tmp_path}"]))["folder"]
    rows: dict[int, dict[str, str]] = {}
    for row in csv.DictReader((Path(folder) / "metrics.csv").open()):
        rows.setdefault(int(row["step"]), {}).update({name: value for name, value in row.items() if value})
    seconds, start = {step: float(rows[step]["train/step_time"]) for step in range(10)}, 0
    found = [step for step in rows if "throughput/steps_per_second" in rows[step]]
    assert found[-1] == 9
    for step in found:
        speed = (step + 1 - start) / sum(seconds[each] for each in range(start, step + 1))
        assert float(rows[step]["throughput/steps_per_second"]) == pytest.approx(speed, rel=0.05)
        samples = float(rows[step]["throughput/samples_per_second"])
        assert samples == pytest.approx(128 * float(rows[step]["throughput/steps_per_second"]), rel=1e-4)
        start = step + 1
