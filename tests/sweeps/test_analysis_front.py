"""The Pareto front of sweeps with several objectives."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.metric import Metric
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.results import SweepResults, TrialResult


def swept(values: Sequence[Sequence[float]], modes: Sequence[str]) -> SweepResults:
    """Return a sweep with these final values of the objectives."""
    objectives = tuple(Metric(f"metric{place}", mode) for place, mode in enumerate(modes))
    trials = [
        TrialResult(number, Path(str(number)), "finished", {}, {f"metric{p}": value for p, value in enumerate(row)})
        for number, row in enumerate(values)
    ]
    return SweepResults(Path(), tuple(trials), (), objectives)


# Few values, so that trials are often equal in one objective or in all.
ROWS = st.integers(1, 3).flatmap(
    lambda count: st.tuples(
        st.lists(st.tuples(*[st.integers(0, 4)] * count), min_size=1, max_size=12),
        st.tuples(*[st.sampled_from(["min", "max"])] * count),
    )
)


@given(ROWS)
@settings(max_examples=60)
def test_the_front_matches_optuna(case: tuple[list[tuple[int, ...]], tuple[str, ...]]) -> None:
    values, modes = case
    study = optuna.create_study(directions=["minimize" if mode == "min" else "maximize" for mode in modes])
    study.add_trials([optuna.create_trial(values=[float(value) for value in row]) for row in values])
    expected = {trial.number for trial in study.best_trials} if len(modes) > 1 else None
    front = swept(values, modes).front
    if expected is None:  # where Optuna names one of those that are equally good
        expected = {number for number, row in enumerate(values) if float(row[0]) == study.best_value}
    assert {trial.number for trial in front} == expected
    sign = 1 if modes[0] == "min" else -1
    firsts = [sign * trial.metrics["metric0"] for trial in front]
    assert firsts == sorted(firsts)


def test_ties_of_the_first_objective_are_broken_by_the_second() -> None:
    sweep = swept([(1.0, 5.0), (1.0, 3.0), (2.0, 1.0)], ["min", "min"])
    assert sweep.best is sweep.trials[1]
    assert sweep.by(sweep.objectives[1]).best is sweep.trials[2]


def test_only_finished_trials_are_on_the_front(make_run) -> None:
    make_run(0, ["seed=0"], {"val/loss": 0.5, "val/accuracy": 0.8})
    make_run(1, ["seed=1"], {"val/loss": 0.1, "val/accuracy": 0.99}, status="pruned")
    make_run(2, ["seed=2"], status="failed", error="the loss is nan")
    make_run(3, ["seed=3"], {"val/loss": 0.1, "val/accuracy": math.nan})
    folder = make_run(4, ["seed=4"], {"val/loss": 0.4, "val/accuracy": 0.7})
    (folder / "sweep.yaml").write_text("settings: {metric: [val/loss, val/accuracy], mode: [min, max]}\n")
    sweep = read_sweep(folder)
    assert [(each.name, each.mode) for each in sweep.objectives] == [("val/loss", "min"), ("val/accuracy", "max")]
    assert [trial.number for trial in sweep.front] == [4, 0]
    with sweep.write_csv(folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pareto"] for row in rows] == ["true", "false", "false", "false", "true"]
    assert rows[1]["val/loss"] == "0.1"  # a pruned trial's last


@pytest.mark.parametrize(
    ("settings", "metric", "mode", "expected"),
    [
        ("{metric: [a, b], mode: max}", None, None, [("a", "max"), ("b", "max")]),
        ("{metric: [a, b], mode: [min, max]}", "b", None, [("b", "max")]),
        ("{metric: [a, b], mode: [min, max]}", ["b", "accuracy"], None, [("b", "max"), ("accuracy", "max")]),
        ("{metric: a, mode: max}", ["a", "b"], "min", [("a", "min"), ("b", "min")]),
        ("{}", ["a", "b"], ["max", "min"], [("a", "max"), ("b", "min")]),
    ],
)
def test_objectives_come_from_the_arguments_or_the_sweep(settings, metric, mode, expected, make_run) -> None:
    folder = make_run(0, metrics={"a": 1.0, "b": 2.0, "accuracy": 0.5})
    (folder / "sweep.yaml").write_text(f"settings: {settings}\n")
    assert [(each.name, each.mode) for each in read_sweep(folder, metric, mode).objectives] == expected
