"""task=plan against=...: what a plan can be compared with, and what is said where there is no such plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow.cli.command import main
from lrflow.config import compose, save_config
from lrflow.tasks.plan import read_plan

PLAN = ["task=plan", "horizon.steps=20"]


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Makes a plan of 20 steps; gives its folder."""

    def make(*overrides: str) -> Path:
        before = set(Path("outputs").glob("*"))
        assert main([*PLAN, *overrides]) == 0
        capsys.readouterr()
        (folder,) = set(Path("outputs").glob("*")) - before
        return folder

    return make


def test_last_is_the_newest_run_that_has_a_plan(
    planned: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = planned("optimizer.lr=0.5"), planned("optimizer.lr=0.25")
    Path("outputs/9999-without-a-plan").mkdir()
    os.utime(first / "plan.json", (1, 1))
    peaks = {group.lr for group in read_plan("last", Path("outputs")).groups}
    assert peaks == {group.lr for group in read_plan(str(second), Path("outputs")).groups} == {0.25}
    assert main([*PLAN, "against=last"]) == 0
    assert "0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nope", "that exists, or `last`"),
        ("last", "under outputs/, and there is none"),
        ("empty", "it has no plan.json"),
        ("metrics.csv", "expected a run folder, a plan.json or a config file"),
        ("summary.json", "it is not a plan.json"),
        ("broken.json", "cannot be read"),
        ("old.json", "plan.version = 0: expected"),
        ("part.yaml", "expected the whole config of a run"),
    ],
)
def test_an_invalid_reference_is_reported_before_the_plan(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("metrics.csv").write_text("step,loss\n0,1.0\n")
    Path("summary.json").write_text('{"status": "finished"}')
    Path("broken.json").write_text("{")
    Path("old.json").write_text('{"version": 0, "groups": []}')
    Path("part.yaml").write_text("trainer: {max_epochs: 3}\n")
    assert main([*PLAN, f"against={given}"]) == 2
    out, err = capsys.readouterr()
    assert "1 problem\n" in err
    assert "against = " in err
    assert said in " ".join(err.split())
    assert "Plan" not in out
    assert not Path("outputs").exists()


def test_problems_of_the_compared_config_are_reported_under_against(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Path("other.yaml")
    save_config(compose(["optimizer.lr=0.5"]), other)
    assert {group.lr for group in read_plan(str(other), Path("outputs")).groups} == {0.5}
    other.write_text(other.read_text().replace("lr: 0.5", "lr: -1"))
    assert main([*PLAN, "against=other.yaml"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "against = other.yaml optimizer.lr = -1" in err


def test_a_misspelt_folder_is_answered_with_the_nearest_name(
    planned: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = planned("name=first")
    assert main([*PLAN, f"against={str(folder)[:-1]}"]) == 2
    assert f"did you mean {folder}?" in " ".join(capsys.readouterr().err.split())
