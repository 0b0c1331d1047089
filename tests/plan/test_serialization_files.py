"""plan.csv, plan.json and plan.png hold the plan, exactly."""

import csv
import json

import numpy as np
import pytest

from lrflow.plan import Plan
from lrflow.plan.serialization import write_csv, write_json
from lrflow.plan.table import landmarks
from lrflow.schedules import Constant, Cosine, Horizon, MultiStep, Schedule


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_three_files_are_written(plan_of, horizon, tmp_path):
    written = plan_of(Schedule(Cosine()), horizon).write(tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["plan.png", "plan.csv", "plan.json"]
    assert all(path.stat().st_size > 0 for path in written)


def test_the_csv_holds_every_step_exactly(plan_of, schedule, horizon, tmp_path):
    plan = plan_of(schedule, horizon, 0.1, 1 / 3)
    head, *rows = read_csv(write_csv(plan, tmp_path / "plan.csv"))
    assert head == ["step", "a", "b"]
    assert [int(row[0]) for row in rows] == list(range(horizon.steps))
    assert np.array_equal([[float(cell) for cell in row[1:]] for row in rows], plan.lr(np.arange(horizon.steps)))


def test_frozen_groups_and_odd_names_in_the_csv(group, tmp_path):
    constant = Schedule(Constant())
    plan = Plan((group('head, "new"', 0.1, constant), group("stem", 0.1, constant, frozen=True)), Horizon(3))
    assert read_csv(write_csv(plan, tmp_path / "plan.csv"))[0] == ["step", 'head, "new"']


@pytest.mark.parametrize("steps", [9_999, 10_000, 10_001, 1_000_000])
def test_the_csv_of_a_long_run_is_sampled_evenly_with_every_landmark(plan_of, tmp_path, steps):
    plan = plan_of(Schedule(MultiStep(milestones=["33%", "77%"]), warmup=123), Horizon(steps), 0.1)
    rows = read_csv(write_csv(plan, tmp_path / "plan.csv"))[1:]
    found = np.array([int(row[0]) for row in rows])
    assert len(found) <= 10_000
    assert len(found) > 9_900
    assert set(landmarks(plan)) <= set(found.tolist())
    assert np.diff(found).min() >= 1
    assert np.diff(found).max() <= np.ceil(steps / 9_900)
    assert np.array_equal([float(row[1]) for row in rows], plan.lr(found)[:, 0])


def test_the_json_holds_the_plan_its_landmarks_and_checks(group, schedule, horizon, tmp_path):
    plan = Plan((group("a", 0.1, schedule, weight_decay=0.0), group("b", 0.2, schedule, frozen=True)), horizon)
    content = json.loads(write_json(plan, tmp_path / "plan.json").read_text())
    again = Plan.from_dict(content)
    assert again.fingerprint == content["fingerprint"] == plan.fingerprint
    assert [mark["step"] for mark in content["landmarks"]] == list(landmarks(plan))
    assert content["landmarks"][-1]["lr"] == {"a": plan.lr(199)[0]}
    assert {check["name"]: check["ok"] for check in content["checks"]} == {c.name: c.ok for c in plan.check()}
