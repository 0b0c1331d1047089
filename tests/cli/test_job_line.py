"""A job of a grid prints one line, and the rest of its output goes into its folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lrflow.cli.job_line import JobLine
from lrflow.errors import EndedEarlyError, LrflowError
from lrflow.outcome import Outcome

METRICS = {"train/loss": 1.0, "val/loss": 0.5, "test/accuracy": 0.25}


def shown(outcome: Outcome, path: Path, alone: bool = True) -> None:
    line = JobLine(3, "seed=1", "val/loss", alone)
    with line.output_to(path):
        print("the plan")
        if outcome.error:
            print(outcome.error, file=sys.stderr)
    line.end(outcome)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome.finished(METRICS, seconds=2.0), "val/loss 0.5  test/accuracy 0.25  2.0 s  finished"),
        (Outcome.from_error(LrflowError("oh"), seconds=2.0), "2.0 s  failed"),
        (Outcome.from_error(EndedEarlyError("by timer")), "0.0 s  ended_early  by timer"),
    ],
)
def test_a_line(outcome: Outcome, line: str, alone: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(outcome, tmp_path / "3/output.txt", alone)
    errors = f"{outcome.error}\n" if outcome.error else ""
    assert capsys.readouterr() == (f"job 3  seed=1  {line}\n", errors)
    assert (tmp_path / "3/output.txt").read_text() == f"the plan\n{errors}"


def test_errors_on_a_terminal_are_below_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("NO_COLOR", "1")
    shown(Outcome.from_error(LrflowError("oh")), tmp_path / "output.txt")
    assert capsys.readouterr().out == "job 3  seed=1\njob 3  seed=1  0.0 s  failed\n"
