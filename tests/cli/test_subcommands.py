"""`lrflow list` and `lrflow compare`, on folders of real runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.finding import Finding

pytestmark = pytest.mark.usefixtures("outputs")


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["list", "--json", *words]) == 0
    return [Path(run["folder"]).relative_to("outputs").as_posix() for run in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sort", "val/loss"], ["sweep/1", "whole", "sweep/0", "sweep/2", "interrupted"]),
        (["--sort", "val/accuracy"], ["sweep/1", "whole", "sweep/0", "sweep/2", "interrupted"]),
        (["--sort", "optimizer.lr"], ["sweep/0", "interrupted", "whole", "sweep/1", "sweep/2"]),
        (["status=stopped"], ["interrupted"]),
        (["status!=finished"], ["interrupted"]),
        (["val/loss<1.5", "--sort", "val/loss"], ["sweep/1", "whole"]),
        (["val/loss>=1.3", "val/loss<=1.8", "--sort", "val/loss"], ["whole", "sweep/0"]),
        (["optimizer.lr=1e-1"], ["sweep/1"]),
        (["optimizer=sgd"], []),
        (["outputs/sweep", "optimizer.lr>1"], ["sweep/2"]),
        (["val/loss=null"], ["interrupted"]),
    ],
)
def test_the_runs_that_meet_the_conditions_the_best_first(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys, *words) == expected


def test_start_times_are_compared(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, started in {"whole": "2026-01-31T09:05:59+00:00", "interrupted": "2026-02-01T00:00:00+00:00"}.items():
        (outputs / name / "environment.json").write_text(json.dumps({"started": started}))
    assert listed(capsys, "started>2026-01-31 09:00", "started<2026-02") == ["whole"]
    assert listed(capsys, "started>=2026-02-01") == ["interrupted"]


def test_the_table_has_the_swept_keys_and_says_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "outputs/sweep", "--limit", "2", "--sort", "val/loss"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["status", "steps", "lr", "val/loss"]
    assert [row.split()[:4] for row in rows[:2]] == [
        ["finished", "60", "0.1", "0.8711"],
        ["finished", "60", "0.01", "1.796"],
    ]
    assert rows[-1] == "3 runs under outputs/sweep/; --limit 0 shows 1 more"


def test_a_run_that_goes_on_is_told_from_one_that_was_killed(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lrflow.runs import RunFolder

    (outputs / "whole" / "summary.json").unlink()
    with RunFolder(outputs / "whole").locked():
        assert listed(capsys, "status=running") == ["whole"]
    assert listed(capsys, "status=unfinished") == ["whole"]


def test_the_name_of_a_run_stays_whole(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "whole-" * 15
    (outputs / "whole").rename(outputs / name)
    (outputs / name / "findings.jsonl").write_text(json.dumps(Finding("too_low", 40, 30, "so it is").record()) + "\n")
    assert main(["list", "outputs"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert name in [line.split()[-1] for line in shown if line]
    assert shown[-3].startswith("no room for findings, ")


def test_the_folder_of_a_search_for_the_lr_is_no_run(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (outputs / "whole" / "config.yaml").read_text()
    assert "    task: train\n" in config
    (outputs / "whole" / "config.yaml").write_text(config.replace("    task: train\n", "    task: find\n"))
    assert "whole" not in listed(capsys)


def test_the_newest_of_the_same_minute_comes_first(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for second, name in enumerate(("interrupted", "whole")):
        started = {"started": f"2099-01-01T00:00:0{second}+00:00"}
        (outputs / name / "environment.json").write_text(json.dumps(started))
    assert listed(capsys)[:2] == ["whole", "interrupted"]


def test_compared_runs_show_their_differences_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "sweep/0", "outputs/sweep/1"]) == 0
    told = capsys.readouterr().out
    config = told.partition("config\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split() for line in config] == [["1", "2"], ["optimizer.lr", "0.01", "0.1"]]
    assert ["val/accuracy", "0.388889", "0.65"] in [line.split() for line in told.splitlines()]
    assert "all groups: 0.01 → 0.1 (10x)" in told


def test_what_monitors_found_is_listed_selected_and_compared(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = (Finding(kind, 40, 30, "so it is") for kind in ("too_low", "diverging"))
    records = "".join(json.dumps(one.record()) + "\n" for one in (low, high, low))
    (outputs / "whole" / "findings.jsonl").write_text(records)
    assert main(["list", "--sort", "findings"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert "findings" in head
    assert "too_low, diverging" in first
    assert listed(capsys, "findings=diverging") == listed(capsys, "findings!=null") == ["whole"]
    assert listed(capsys, "findings=too low") == ["whole"]  # as compare and the pages show the kind
    assert listed(capsys, "findings=plateau") == []
    assert main(["compare", "whole", "interrupted"]) == 0
    assert f"findings\n1  {low.line}\n1  {high.line}\n1  {low.line}\n\n" in capsys.readouterr().out


def test_runs_of_another_folder_are_compared(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs.rename(outputs.with_name("elsewhere"))
    assert main(["compare", "whole", "interrupted"]) == 2
    assert main(["compare", "output=elsewhere", "whole", "interrupted"]) == 0
    assert main(["compare", "whole", "interrupted", "output=elsewher"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_the_same_run_has_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "whole", "whole"]) == 0
    assert "config\nthe same" in capsys.readouterr().out


def test_a_broken_folder_is_listed_and_compared(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "whole" / "plan.json").write_text("{")
    (outputs / "whole" / "summary.json").write_text("[1")
    (outputs / "interrupted" / "config.yaml").write_text("a: [")
    assert len(listed(capsys)) == 5
    assert main(["compare", "whole", "interrupted"]) == 0
    assert "no plan that can be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lst"], "did you mean lrflow list?"),
        (["list", "val/los<1"], "did you mean val/loss?"),
        (["list", "--sort", "optimiser.lr"], "did you mean optimizer.lr?"),
        (["list", "val/loss<little"], "compares numbers"),
        (["list", "status=stoped"], "did you mean stopped?"),
        (["list", "status<finished"], "compares numbers"),
        (["list", "val/loss"], "expected a folder, KEY=VALUE"),
        (["list", "--limit", "-1"], "expected a number of runs"),
        (["list", "--limit", "few"], "--limit"),
        (["list", "--sorted"], "--sorted"),
        (["list", "outputs", "outputs/sweep"], "takes one folder"),
        (["compare"], "lrflow compare needs two or more runs lrflow compare RUN RUN"),
        (["compare", "whole"], "needs two or more runs"),
        (["compare", "whole", "sweep"], "is in the names of 3 runs"),
        (["compare", "whole", "interupted"], "did you mean interrupted?"),
        (["compare", "whole", ""], "expected `last`"),
    ],
)
def test_a_wrong_command_gets_one_message(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"no runs under outputs{os.sep}\n"
    assert listed(capsys) == []


def test_the_help_of_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: lrflow compare RUN RUN ... [page=FILE] [output=FOLDER]")
