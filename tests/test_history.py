from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lrflow.history import Series, read_history
from lrflow.metric import Metric


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("step,a\n", {}),
        ("step,a,b\r\n0,1,\r\n1,2,5\r\n", {"a": ([0, 1], [1, 2]), "b": ([1], [5])}),
        ("step,a\n0,nan\n1,inf\n", {"a": ([0, 1], [math.nan, math.inf])}),
        ("step,a\n0,1\n1,2.5", {"a": ([0], [1])}),  # is being written: 2.5 may become 2.53
        ("step,a,b\n0,1,2\n1,3\n", {"a": ([0], [1]), "b": ([0], [2])}),
        ("step,a\n0,text\n1,2\n", {"a": ([1], [2])}),
        ("step,a\nx,1\n,2\n3,4\n", {"a": ([3], [4])}),
        ('step,"a,""b"\n0,1\n', {'a,"b': ([0], [1])}),
        ("step,a\n5,1\n5,2\n", {"a": ([5, 5], [1, 2])}),
        ("no table at all\x00", {}),
    ],
)
def test_what_can_be_read_of_a_table_is_its_history(
    text: str, expected: dict[str, tuple[list[int], list[float]]], tmp_path: Path
) -> None:
    (tmp_path / "metrics.csv").write_text(text, newline="")
    found = read_history(tmp_path / "metrics.csv")
    assert found.keys() == expected.keys()
    for name, (steps, values) in expected.items():
        assert found[name].steps.tolist() == steps
        np.testing.assert_equal(found[name].values, np.array(values, float))


def test_a_missing_file_and_a_missing_column_are_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,lr/a,lr/b,loss\n0,1,2,3\n1,1,2,3\n")
    found = read_history(tmp_path / "metrics.csv", lambda name: name.startswith("lr/"), rows=1)
    assert (list(found), found.groups("lr"), len(found["loss"]), len(found["lr/a"])) == (
        ["lr/a", "lr/b"],
        ["a", "b"],
        0,
        1,
    )
    assert read_history(tmp_path / "none.csv") == {}


def test_a_smoothed_series_is_the_means_of_its_stretches() -> None:
    series = Series(np.arange(8), np.array([1, 3, 5, 7, math.nan, 9, 2, math.inf]))
    smooth = series.smoothed(3)
    assert smooth.steps.tolist() == [0.5, 2.5, 5.5]
    assert smooth.values.tolist() == [2, 6, 5.5]
    assert len(Series(np.array([3]), np.array([math.nan])).smoothed(4)) == 0


def test_rows_have_the_values_of_each_step_once(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,a,b\n3,1,\n1,2,5\n3,,7\n3,8,\n4,9,9\n5,1")
    found = read_history(tmp_path / "metrics.csv")
    assert found.rows(before=4) == [(1, {"a": 2, "b": 5}), (3, {"a": 8, "b": 7})]
    assert found.rows()[-1] == (4, {"a": 9, "b": 9})


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([2, 1, 1, 3], "min", (1, 1)),
        ([2, 1, math.inf, 3], "max", (3, 3)),
        ([math.nan, -math.inf], "min", None),
        ([], "max", None),
    ],
)
def test_the_best_value_is_finite_and_the_first(values: list[float], mode: str, best: tuple[float, int] | None) -> None:
    series = Series(np.arange(len(values)), np.array(values, float))
    assert series.best(Metric.parse("val/x", mode)) == best
