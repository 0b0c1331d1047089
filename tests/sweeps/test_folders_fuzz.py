"""Whatever the files of a sweep's runs hold, the sweep can be read; never a crash."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import PHASES, broken_bytes, broken_trees, examples

from lrflow.loggers.csv_file import CSVLogger
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import read_sweep

FUZZ = settings(max_examples=examples(30), deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
FILES = ("config.yaml", "summary.json", "metrics.csv")
NAMES = ["lr", "lrflow", "choices", "overrides", "metrics", "status", "steps", "seconds", "val/loss", "trainer", "x"]


@pytest.fixture
def sweep(make_run: Callable[..., Path]) -> Path:
    for number, loss in enumerate((0.5, 0.4, 0.6)):
        folder = make_run(number, [f"optimizer.lr={10.0**-number}"], {"val/loss": loss})
    return folder


def read(folder: Path) -> None:
    found = read_sweep(folder)
    for trial in found.trials:
        trial.first_loss()
        trial.history("train/loss", "val/loss")
        trial.rate(found.lr_key)
    found.write_csv(folder / "sweep.csv")
    for path in folder.iterdir():
        if path.is_dir():
            Outcome.from_summary(RunFolder(path).read_summary(), path)


@settings(FUZZ)
@given(data=st.data())
def test_any_bytes(data: st.DataObject, sweep: Path) -> None:
    path = sweep / "1" / data.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    try:
        path.write_bytes(data.draw(broken_bytes(before)))
        read(sweep)
    finally:
        path.write_bytes(before)


@settings(FUZZ)
@given(data=st.data())
def test_any_tree(data: st.DataObject, sweep: Path) -> None:
    path = sweep / "1" / data.draw(st.sampled_from(FILES[:2]))
    before = path.read_bytes()
    tree: Any = yaml.safe_load(before)
    broken = data.draw(broken_trees(tree, NAMES))
    try:
        written = yaml.dump(broken) if path.suffix == ".yaml" else json.dumps(broken, default=str, skipkeys=True)
        path.write_bytes(written.encode(errors="surrogatepass"))
        read(sweep)
    finally:
        path.write_bytes(before)


@settings(FUZZ)
@given(data=st.data())
def test_any_metrics_can_be_added_to(data: st.DataObject, sweep: Path, tmp_path: Path) -> None:
    before = (sweep / "0" / "metrics.csv").read_bytes()
    path = tmp_path / "metrics.csv"
    path.write_bytes(broken := data.draw(broken_bytes(before)))
    logger = CSVLogger(path)
    logger.drop_from(1)
    logger.log_metrics({"train/loss": 1.0, "new": 2.0}, 1)
    with logger.path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert {"step", "train/loss", "new"} <= {*rows[0]}
    assert rows[-1][0] == "1"
    kept = list(tmp_path.glob("metrics.csv.broken-*"))
    assert not kept or kept[0].read_bytes() == broken
    for other in kept:
        other.unlink()
