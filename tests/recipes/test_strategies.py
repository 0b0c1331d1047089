"""The comparison of strategies: how steps and the width of good LRs are counted, and runs in one process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import benchmarks.recipes.__main__ as command
from benchmarks.recipes.study import Study
from benchmarks.recipes.table import table


def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, float], **keys: Any) -> Study:
    """A study of one variant whose tuning runs had these validation accuracies; NaN: it diverged."""
    monkeypatch.setattr(Study, "data", property(lambda self: tmp_path / "a.json"))
    tune = {"key": "optimizer.lr", "values": list(accuracies), "metric": "val/accuracy", "within": 0.01}
    made = Study("a", {"x": []}, {"accuracy": "test/accuracy"}, tune=tune, **keys)
    for job, accuracy in zip(made.missing(), accuracies.values(), strict=True):
        ended = {"status": "failed", "metrics": {}}
        if accuracy == accuracy:
            ended = {"status": "finished", "metrics": {"val/accuracy": accuracy}}
        made.keep(job, ended)
    return made


@pytest.mark.parametrize(
    ("accuracies", "decades"),
    [
        ({"0.01": 0.8, "0.1": 0.9, "1": 0.8}, 0.2),  # a tenth of a decade down to 0.89 on each side
        ({"0.01": 0.895, "0.1": 0.9, "1": 0.8}, 1.1),  # the grid ends on the left
        ({"0.01": 0.88, "0.1": 0.9, "1": math.nan}, 0.5),  # beside it one diverged: nothing is known between
        ({"0.001": 0.9, "0.01": 0.8, "0.1": 0.901, "1": 0.9}, 1.099),  # good again beyond a bad one does not count
        ({"0.1": 0.9, "1": 0.9}, 1.0),
    ],
)
def test_decades(accuracies: dict[str, float], decades: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert study(tmp_path, monkeypatch, accuracies).decades("x") == pytest.approx(decades, abs=2e-3)


def test_steps_to_an_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, monkeypatch, {"0.1": 0.9}, seeds=3, reach=0.8, curve="val/accuracy")
    curves = [[0.5, 0.8, 0.7], [0.5, 0.7, 0.9], [0.5, 0.6, 0.7]]
    for job, values in zip(made.missing(), curves, strict=True):
        metrics = {"val/accuracy": values[-1], "test/accuracy": 0.7}
        curve = {"steps": [9, 19, 29], "values": values}
        made.keep(job, {"status": "finished", "seconds": 2.0, "metrics": metrics, "curve": curve})
    assert made.steps("x") == [20, 30, math.inf]
    heads, _, row = table(made).splitlines()
    assert heads == "| | `optimizer.lr` | accuracy | steps to 0.8 | decades within 0.01 | seeds | seconds per run |"
    assert row == "| x | 0.1 | 0.7000 ± 0.0000 | 25.0 ± 7.1 (1 of 3 did not) | 0.0 | 3 | 2 |"


def test_a_run_in_this_process_is_the_run_of_its_own(tmp_path: Path) -> None:
    variants = {"fixed": [], "Adam": ["optimizer=adam", "optimizer.lr=0.01"]}
    results = []
    for in_process in (True, False):
        made = Study(
            "a", variants, {}, ["recipe=strategies", "fast=true"], seeds=1, curve="val/accuracy", in_process=in_process
        )
        # Of those in this process the second is compared, so that the first has to have left no trace.
        jobs = made.missing() if in_process else made.missing()[1:]
        results.append([command.run(job, made, [], tmp_path / str(in_process)) for job in jobs][-1])
    here, apart = results
    assert here["status"] == "finished"
    for name in ("steps", "metrics", "curve"):
        assert here[name] == apart[name]


def test_a_run_that_cannot_start_ends_the_measurement(tmp_path: Path) -> None:
    made = Study("a", {"x": ["optimizer.lrr=1"]}, {}, in_process=True)
    with pytest.raises(SystemExit, match=r"optimizer\.lrr"):
        command.run(made.missing()[0], made, [], tmp_path)


def test_a_run_that_was_asked_to_stop_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary.json").write_text('{"status": "stopped", "error": "stopped as asked"}')
    monkeypatch.setattr(command, "make", lambda *_: tmp_path)
    made = Study("a", {"x": []}, {})
    with pytest.raises(SystemExit, match="as asked"):
        command.measure(made, [], None, tmp_path)
    assert made.runs == []
