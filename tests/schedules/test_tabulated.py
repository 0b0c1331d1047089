"""Tables: multipliers read from a CSV file, and the problems of such files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import Horizon, Phase, Schedule, Tabulated
from lrflow.schedules.serialization import from_spec, to_spec

RUN = Horizon(100, 20)


def table(folder: Path, text: str) -> str:
    """A CSV file."""
    (folder / "lr.csv").write_text(text)
    return str(folder / "lr.csv")


@pytest.mark.parametrize(
    "text",
    [
        "0,0.5\n20,1\n60,0.2\n",
        "step,multiplier\n0,0.5\n20,1\n60,0.2",
        "\ufeffstep, multiplier\r\n0, 0.5\r\n\r\n20, 1\r\n60, 2e-1\r\n",
        "# of an old run\n0,0.5\n# the peak\n20,1.0\n60,0.2\n",
        "0 steps,0.5\n1 epoch,1\n60%,0.2\n",
    ],
    ids=repr,
)
def test_a_file_is_read_like_its_points(tmp_path: Path, text: str) -> None:
    steps = np.linspace(0, 110, 441)
    expected = np.interp(steps, [0, 20, 60], [0.5, 1.0, 0.2])
    np.testing.assert_allclose(Schedule(Tabulated(file=table(tmp_path, text)))(steps, RUN), expected, rtol=1e-12)


def test_a_plan_outlives_the_file(tmp_path: Path) -> None:
    file = table(tmp_path, "0,0.5\n20,1\n")
    schedule = Schedule(Tabulated(file=file, points=[[0, 1.0]]))  # the file, in place of the points
    Path(file).unlink()
    assert to_spec(schedule)["shape"] == {
        "_target_": "lrflow.schedules.Tabulated",
        "points": [["0 steps", 0.5], ["20 steps", 1.0]],
        "between": "linear",
    }
    assert from_spec(to_spec(schedule)) == schedule


def test_every_row_of_a_long_table_is_met(tmp_path: Path) -> None:
    values = (1 + np.cos(np.linspace(0, np.pi, 5000))) / 2
    file = table(tmp_path, "step,multiplier\n" + "\n".join(f"{i},{value!r}" for i, value in enumerate(values.tolist())))
    for between in ("linear", "hold"):
        rates = Schedule(Tabulated(file=file, between=between))(np.arange(5000), Horizon(5000))
        assert rates.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["file = {file!r}: has no rows of step, multiplier"]),
        ("step,multiplier\n", ["file = {file!r}: has no rows of step, multiplier"]),
        ("0,1\n10,half\n", ["file = 'half': the multiplier is not a number from 0 to 1 ({file}:2)"]),
        ("0,1\n10,1.5\n", ["file = '1.5': the multiplier is not a number from 0 to 1 ({file}:2)"]),
        ("0,1\n10,nan\n", ["file = 'nan': the multiplier is not a number from 0 to 1 ({file}:2)"]),
        ("0,1,2\n", ["file = '0': expected two cells, step and multiplier, not 3 ({file}:1)"]),
        ("0;1\n", ["file = '0;1': expected two cells, step and multiplier, not 1 ({file}:1)"]),
        ("0,1\n0.5,1\n", ["file = '0.5': 0.5 is not a whole number of steps"]),
        ("0,1\n\n20,1\n20,0\n", ["file = '20': is not after the row before it, 20 steps ({file}:4)"]),
        (
            "step,multiplier\nepoch,multiplier\n0,1\n-3,1\n",
            ["file = 'epoch': is not a duration", "file = {file!r}: more rows are wrong, in line 4"],
        ),
        (
            "x,1\n" * 30,
            [
                "file = 'x': is not",
                "file = {file!r}: more rows are wrong, in lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 19 more",
            ],
        ),
    ],
    ids=repr,
)
def test_problems_of_a_file_are_reported_with_their_line(tmp_path: Path, text: str, messages: list[str]) -> None:
    file = table(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Tabulated(file=file)
    assert len(caught.value.problems) == len(messages)
    for problem, start in zip(caught.value.problems, messages, strict=True):
        assert str(problem).startswith("schedule.shape." + start.format(file=file))


def test_a_file_of_secrets_is_not_shown(tmp_path: Path) -> None:
    lines = ["root:x:0:0:root:/root:/bin/bash", "me:hunter2hunter2hunter2hunter2:1,2", "AWS_SECRET=abcdef"]
    with pytest.raises(ConfigError) as caught:
        Tabulated(file=table(tmp_path, "\n".join(lines)))
    shown = str(caught.value)
    assert "root:x:0:0:root:/root:/b..." in shown
    assert not any(text in shown for text in ("hunter2", "abcdef", "bash"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for file, fragment in {
        tmp_path / "none.csv": "cannot be read: No such file or directory",
        tmp_path: "cannot be read: Is a directory",
        tmp_path / "binary.csv": "cannot be read: 'utf-8' codec can't decode",
    }.items():
        with pytest.raises(ConfigError, match=fragment):
            Tabulated(file=str(file))


@pytest.mark.parametrize(
    ("points", "fragment"),
    [
        (None, "points = None: expected a list of .step, multiplier., or a file"),
        ([], "points = .*: expected a list"),
        ("0,1", "points = '0,1': expected a list"),
        ([0, 1], r"points\[0\] = 0: expected .step, multiplier."),
        ([[0, 1, 2]], r"points\[0\] = .*: expected .step, multiplier."),
        ([["soon", 1]], r"points\[0\]\[0\] = 'soon': .* is not a duration"),
        ([[0, 1], [5, 2]], r"points\[1\]\[1\] = 2: expected a number from 0 to 1"),
    ],
    ids=str,
)
def test_invalid_points(points: object, fragment: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule.shape.{fragment}"):
        Tabulated(points)


@pytest.mark.parametrize(
    ("points", "messages"),
    [
        ([[0, 0.5], [50, 1]], []),
        ([[0, 0.5], [90, 0.2]], []),  # below the peak throughout
        ([[0, 1], [10, 0]], ["points: are 0 from step 10 to step 90"]),
        ([[0, 1], [101, 0.5]], ["points[1]: is step 101, but the run has 100"]),
        ([[0, 1], ["50%", 1], ["2 epochs", 0]], ["points[2]: is step 40, not after the point before it"]),
    ],
    ids=str,
)
def test_points_that_do_not_fit_a_phase(points: list[list[float]], messages: list[str]) -> None:
    texts = [f"{problem.key}: {problem.message}" for problem in Tabulated(points).check(Phase(10, 90, RUN))]
    assert len(texts) == len(messages)
    assert all(text.startswith(start) for text, start in zip(texts, messages, strict=True)), texts


def test_points_in_epochs_of_unknown_length() -> None:
    (problem,) = Tabulated([[0, 1], ["1 epoch", 0]]).check(Phase(0, 100, Horizon(100)))
    assert problem.key == "points[1]"
    assert "no steps_per_epoch" in problem.message


def test_held_multipliers_jump_where_they_change() -> None:
    held = Tabulated([[0, 1], [20, 1], [40, 0.5], ["50%", 1], [90, 0.1]], between="hold")
    assert held.jumps(Phase(10, 90, RUN)) == (40, 50)
    assert Tabulated([[0, 1], [20, 0.1]]).jumps(Phase(0, 100, RUN)) == ()
