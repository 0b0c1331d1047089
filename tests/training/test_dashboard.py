"""One run on every dashboard at once: each has the values of metrics.csv, the config, the options and the outcome."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lrflow.cli import main
from lrflow.runs import RunFolder
from lrflow.training.wandb_history import STEP, rows_of

Values = Counter[tuple[int, str, str]]
"""How often each step, name and value was logged; single precision in hexadecimal where a dashboard has no more."""

LOCAL = [name for name, package in {
    "wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "trackio": "trackio", "comet": "comet_ml",
}.items() if find_spec(package)]  # fmt: skip
"""The loggers whose packages are installed."""

SHORT = ["trainer.max_steps=25", "trainer.val_every=10", "trainer.log_every=7", "health.sharpness=null"]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    if find_spec("trackio"):
        import trackio.sqlite_storage
        import trackio.utils

        for module in (trackio.utils, trackio.sqlite_storage):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")


def written(value: float) -> str:
    return float(value).hex() if math.isfinite(value) else str(float(value))


def single(value: float) -> str:
    import numpy as np

    return written(float(np.float32(value)))


def of_csv(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (int(row["step"]), name, float(text)) for row in rows for name, text in row.items() if text and name != "step"
    ]


def of_wandb(folder: Path) -> Iterator[tuple[int, str, float]]:
    for path in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        for own, row in rows_of(path):
            assert own == row[STEP], "the axis is the optimizer step"
            yield from ((own, name, float(value)) for name, value in row.items() if name != STEP)


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def of_tensorboard(folder: Path) -> Iterator[tuple[int, str, float]]:
    events = board(folder)
    for name in events.Tags()["scalars"]:
        if not name.startswith("best/"):
            yield from ((event.step, name, event.value) for event in events.Scalars(name))


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "lrflow")
    found = f"tags.`lrflow.run_id` = '{RunFolder(folder).run_id}'"
    (run,) = client.search_runs([experiment.experiment_id], found)
    return client, run


def of_mlflow(folder: Path) -> Iterator[tuple[int, str, float]]:
    client, run = mlflow_run(folder)
    for name in run.data.metrics:
        yield from ((one.step, name, one.value) for one in client.get_metric_history(run.info.run_id, name))


def of_trackio(folder: Path) -> Iterator[tuple[int, str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    for row in SQLiteStorage.get_logs("lrflow", run_id=RunFolder(folder).run_id):
        names = row.keys() - {"step", "timestamp"}
        yield from ((int(row["step"]), name, float(row[name])) for name in names)


def of_comet(folder: Path) -> Iterator[tuple[int, str, float]]:
    from lrflow.training.comet_logger import metrics_in

    for metric in metrics_in(folder / "comet"):
        if not metric["metricName"].startswith("sys."):
            yield int(metric["step"]), metric["metricName"], float(metric["metricValue"])


READERS = {"wandb": of_wandb, "tensorboard": of_tensorboard, "mlflow": of_mlflow, "trackio": of_trackio,
           "comet": of_comet}  # fmt: skip


def check_against_csv(folder: Path) -> None:
    """Hold each dashboard against metrics.csv: the same names, steps and values, each once."""
    expected = dict.fromkeys(of_csv(folder))  # `epoch` is in the row of a validation and in that of a test
    assert len({(step, name) for step, name, _ in expected}) == len(expected)
    assert {"train/loss", "val/loss", "lr/decay", "lr_planned/decay"} <= {name for _, name, _ in expected}
    for logger in LOCAL:
        same = single if logger == "tensorboard" else written
        found = Counter((step, name, same(value)) for step, name, value in READERS[logger](folder))
        if logger in ("tensorboard",):  # which shows every event
            found = Counter(set(found))
        assert found == Counter((step, name, same(value)) for step, name, value in expected), logger


def run(*given: str) -> Path:
    assert main([*SHORT, f"logger=[{','.join(LOCAL)}]", *given]) == 0
    (folder,) = Path("outputs").glob("*_*")
    return folder


def test_every_dashboard_has_the_values_of_metrics_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_WORD", "nobody-may-read-this-1")
    folder = run(
        "schedule=wsd", "optimizer.lr=2e-3", "name=first", "data.root=${oc.env:MY_WORD}" if False else "seed=3"
    )
    check_against_csv(folder)
    if "mlflow" in LOCAL:
        _, found = mlflow_run(folder)
        assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
        assert found.data.tags["schedule"] == "wsd"
        assert found.data.params["optimizer.lr"] == "0.002"
        assert found.data.params["optimizer._target_"] == "torch.optim.AdamW"
