from __future__ import annotations

import pytest

from lrflow.cli import main
from lrflow.cli.sweep_summary import show_summary
from lrflow.outcome import Outcome


@pytest.mark.parametrize(
    ("words", "headings"),
    [
        (
            ["scaling.reference=32,128", "schedule.also.weight_decay.low=0.01,0.02", "scaling=linear"],
            ["job", "reference", "low", "test/accuracy", "test/loss", "time", "status", "folder"],
        ),
        (
            [
                "schedule=constant",
                "schedule.cooldown=10%,20%",
                "schedule.also.weight_decay.cooldown=10%,20%",
                "schedule.warmup=0,5%",
            ],
            ["job", "schedule.cooldown", "weight_decay.cooldown", "warmup", "test/accuracy", "status"],
        ),
    ],
)
def test_metrics_come_before_whole_keys_and_folders(
    words: list[str], headings: list[str], task, capsys: pytest.CaptureFixture[str]
) -> None:
    task(lambda config: {"test/accuracy": 0.5, "test/loss": 0.25})
    assert main(["-m", *words]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    table = out[out.index("sweep of") :].splitlines()
    (shown,) = [line.split() for line in table if line.startswith("job")]
    assert shown == headings
    assert max(map(len, table)) <= 80


def test_test_metrics_come_first_with_any_separator(task, capsys: pytest.CaptureFixture[str]) -> None:
    task(lambda config: {"lr": 0.1, "valid_f1": 0.5, "val/loss": 1.0, "test_loss": 0.5, "test_f1": 0.25})
    assert main(["-m", "seed=0,1"]) == 0, capsys.readouterr().err
    (shown,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("job  ")]
    assert shown[2:6] == ["test_f1", "test_loss", "valid_f1", "val/loss"]


def test_objectives_come_first_and_a_sweep_without_an_lr_writes_its_files(
    make_run, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = []
    for number, decay in enumerate(("0.1", "0.2")):
        overrides, metrics = [f"optimizer.weight_decay={decay}"], {"test/accuracy": 0.9, "val/f1": 0.5 + number / 10}
        folder = make_run(number, overrides, metrics, found=["too_low"] * number)
        outcomes.append(Outcome.finished(metrics, overrides=overrides, seconds=1.0, folder=folder / str(number)))
    show_summary(outcomes)
    assert not (folder / "sweep.csv").exists()  # a grid
    row, line, page = capsys.readouterr().out.splitlines()[-3:]
    assert page == f"{folder}/: report.html"
    assert row.split()[-4:] == ["finished", "1", "too", "low"]
    assert line == "too low in 1 of 2 trials: 1"
    (folder / "sweep.yaml").write_text("settings: {metric: val/f1, mode: max}\n")
    show_summary(outcomes)
    (shown,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("job")]
    assert shown[1:4] == ["weight_decay", "val/f1", "test/accuracy"]
    assert {"sweep.csv", "report.html"} <= {path.name for path in folder.iterdir()}


def test_an_interrupted_sweep_says_how_many_of_its_jobs_ran(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [Outcome.finished({"val/loss": 1.0}, overrides=[f"optimizer.lr={lr}"]) for lr in (0.1, 0.2)]
    for asked, title in ((3, "sweep of 3 jobs, of which 2 ran"), (2, "sweep of 2 jobs"), (None, "sweep of 2 jobs")):
        show_summary(outcomes, asked)
        assert capsys.readouterr().out.splitlines()[1] == title
    assert main(["-m", "optimizer.lr=0.1,0.2,oops", "task=plan"]) == 2
    assert "sweep of" not in capsys.readouterr().out


def test_runs_that_only_repeat_each_other_are_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(lr: float, fold: int, loss: float, status: str = "finished") -> Outcome:
        return Outcome(status, metrics={"val/loss": loss}, overrides=[f"optimizer.lr={lr}", f"data.fold={fold}"])  # type: ignore[arg-type]

    losses = [(0.1, 0, 1.0), (0.1, 1, 2.0), (0.1, 2, 4.5), (0.2, 0, 3.0)]
    show_summary([*(outcome(*each) for each in losses), outcome(0.2, 1, 9.0, "diverged")])
    told = capsys.readouterr().out
    title, _, table = told.partition("mean ± standard deviation over ")[2].partition("\n")
    assert title == "data.fold"
    assert [line.split() for line in table.splitlines()[:3]] == [
        ["lr", "runs", "val/loss"],
        ["0.1", "3", "2.5", "±", "1.8"],  # the standard deviation of 1, 2, 4.5 is 1.803
        ["0.2", "1", "3"],
    ]
    show_summary([outcome(0.1, 0, 1.0), outcome(0.2, 0, 2.0)])
    assert "mean ±" not in capsys.readouterr().out
