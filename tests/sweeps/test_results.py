from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest

from lrflow.errors import ConfigError
from lrflow.sweeps.analysis import analyse
from lrflow.sweeps.folders import find_sweep, read_sweep


def test_reads_trials_with_their_values(make_run) -> None:
    for number, lr in enumerate(("1e-3", "0.01", "0.1")):
        folder = make_run(number, ["seed=7", f"optimizer.lr={lr}", "optimizer=sgd"], {"val/loss": 0.5 - number / 10})
    sweep = read_sweep(folder)
    assert [trial.number for trial in sweep.trials] == [0, 1, 2]
    assert sweep.keys == ("optimizer.lr",)
    assert [trial.given for trial in sweep.trials] == [{"optimizer.lr": lr} for lr in (0.001, 0.01, 0.1)]
    assert (sweep.metric, sweep.mode, sweep.lr_key) == ("val/loss", "min", "optimizer.lr")
    assert sweep.best is sweep.trials[2]
    assert sweep.warnings == ()


@pytest.mark.parametrize("key", ["seed", "data.fold"])
def test_a_grid_over_seeds_or_folds_is_ranked_by_the_mean(make_run, key: str) -> None:
    losses = {"0.1": (0.1, 0.9, 0.8), "0.01": (0.4, 0.5, 0.6)}  # the luckiest run has the worse LR
    for number, (repeat, lr) in enumerate((repeat, lr) for repeat in range(3) for lr in losses):
        values = [f"optimizer.lr={lr}", f"{key}={repeat}"]
        folder = make_run(number, values, {"val/loss": losses[lr][repeat]}, steps=7)
    sweep = read_sweep(folder)
    assert sweep.keys == ("optimizer.lr",)
    assert sweep.best is not None
    assert (sweep.best.number, sweep.best.given, sweep.best.steps) == (1, {"optimizer.lr": 0.01}, 21)
    assert str(sweep.best.spread("val/loss")) == "0.5 ± 0.1"
    assert sweep.numbered[5].given == {"optimizer.lr": 0.01, key: 2}
    make_run(6, ["optimizer.lr=0.001", f"{key}=0"], {"val/loss": 0.3}, status=None)
    assert [trial.status for trial in read_sweep(folder).trials] == ["finished", "finished", "unfinished"]


def test_trials_are_sorted_by_number(make_run) -> None:
    for number in (10, 9, 2):
        folder = make_run(number, [f"seed={number}"], {"val/loss": 1.0})
    assert [trial.number for trial in read_sweep(folder).trials] == [2, 9, 10]


def test_reads_any_folder_of_run_folders(make_run) -> None:
    make_run("2026-01-01_mlp", ["optimizer=sgd"], {"val/loss": 0.5})
    folder = make_run("2026-01-02_mlp", [], {"val/loss": 0.4})
    (folder / "sweeps" / "x").mkdir(parents=True)
    sweep = read_sweep(folder)
    assert [(trial.number, trial.folder.name) for trial in sweep.trials] == [
        (0, "2026-01-01_mlp"),
        (1, "2026-01-02_mlp"),
    ]
    assert [trial.given for trial in sweep.trials] == [{"optimizer": "sgd"}, {"optimizer": "adamw"}]
    assert sweep.warnings == ()


def test_untyped_keys_have_the_value_of_the_config(make_run) -> None:
    make_run(0, ["optimizer=sgd", "optimizer.momentum=0.9"])
    folder = make_run(1, ["optimizer.lr=0.1"])
    first, second = read_sweep(folder).trials
    assert first.given == {"optimizer": "sgd", "optimizer.momentum": 0.9, "optimizer.lr": 0.001}
    assert second.given == {"optimizer": "adamw", "optimizer.momentum": None, "optimizer.lr": 0.1}


def test_keys_of_folders_and_names_are_not_swept_keys(make_run) -> None:
    make_run(0, ["seed=0", "trial.number=0", "output=a", "name=b"])
    folder = make_run(1, ["seed=1", "trial.number=1", "output=c", "name=d"])
    assert read_sweep(folder).keys == ("seed",)


def test_reads_the_status_of_trials(make_run) -> None:
    make_run(0, ["seed=0"], {"val/loss": 0.5})
    make_run(1, ["seed=1"], status="failed", error="step 3: the loss is nan, at LR 1\n    lower it")
    make_run(2, ["seed=2"], status="failed", error="OSError: the disk is full")
    make_run(3, ["seed=3"], {"val/loss": 0.1}, status="pruned")
    make_run(4, ["seed=4"], status=None)
    folder = make_run(5, ["seed=5"], {"val/loss": math.nan})
    sweep = read_sweep(folder)
    assert [trial.status for trial in sweep.trials] == [
        "finished",
        "diverged",
        "failed",
        "pruned",
        "unfinished",
        "finished",
    ]
    costs = [sweep.cost(trial) for trial in sweep.trials]
    assert costs[0] == 0.5
    assert [costs[1], costs[5]] == [math.inf, math.inf]  # diverged
    assert all(math.isnan(cost) for cost in costs[2:5])  # nothing is known of what they would have ended at
    assert sweep.best is sweep.trials[0]


def test_notes_unreadable_trials_and_reads_the_rest(make_run) -> None:
    folder = make_run(0, ["seed=0"], {"val/loss": 0.5})
    make_run(1, ["seed=1"], {"val/loss": 0.4})
    (folder / "1" / "summary.json").write_text('{"status": "fini')
    make_run(2, ["seed=2"])
    (folder / "2" / "config.yaml").write_text("lrflow: [")
    (folder / "3").mkdir()
    (folder / "recipe").mkdir()
    sweep = read_sweep(folder)
    assert [trial.status for trial in sweep.trials] == ["finished", "unfinished"]
    assert sweep.warnings == ("trial 2 cannot be read", "trial 3 cannot be read")


def test_ignores_an_incomplete_last_row(make_run) -> None:
    folder = make_run(0, losses=(2.0, 1.5))
    with (folder / "0" / "metrics.csv").open("a") as file:
        file.write("2,1.")
    (trial,) = read_sweep(folder).trials
    history = trial.history("train/loss", "val/loss")
    assert {name: series.values.tolist() for name, series in history.items()} == {"train/loss": [2.0, 1.5]}
    assert trial.first_loss() == 2.0


def test_the_objective_of_the_sweep_overrides_that_of_the_checkpoints(make_run) -> None:
    folder = make_run(0, metrics={"val/loss": 0.5, "val/score": 0.7})
    make_run(1, metrics={"val/loss": 0.4, "val/score": 0.6})
    (folder / "sweep.yaml").write_text("settings: {metric: val/score, mode: max}\n")
    sweep = read_sweep(folder)
    assert (sweep.metric, sweep.mode) == ("val/score", "max")
    assert sweep.best is sweep.trials[0]
    assert read_sweep(folder, "val/loss").mode == "min"


def test_suggests_the_nearest_metric_if_no_trial_has_the_objective(make_run) -> None:
    logged = {"val_loss": 0.5, "val_acc": 0.8, "test_loss": 0.1, "test_acc": 0.9}
    for number, lr in enumerate((0.001, 0.01, 0.1, 1.0)):
        folder = make_run(number, [f"optimizer.lr={lr}"], logged)
    sweep = read_sweep(folder)
    assert (sweep.metric, sweep.best, analyse(sweep)) == ("val/loss", None, None)
    why = sweep.why_no_best()
    assert why.startswith("no best: no trial has the metric val/loss; did you mean val_loss?")
    assert f"task=analyze task.from={folder} task.metric=val_loss task.write=true" in why
    assert "trainer.checkpoint.monitor=val_loss" in why
    assert read_sweep(folder, "val_loss").why_no_best() is None


def test_says_nothing_of_a_best_trial_if_no_config_names_a_metric(make_run) -> None:
    folder = make_run(0, ["optimizer.lr=0.1"], {"height": 0.5})
    make_run(1, ["optimizer.lr=0.2"], {"height": 0.25})
    assert "no trial has the metric val/loss" in read_sweep(folder).why_no_best()
    for path in folder.glob("*/config.yaml"):
        path.write_text(path.read_text().replace("monitor: val/loss", "monitor: null"))
    assert read_sweep(folder).why_no_best() is None
    assert "no trial has the metric x" in read_sweep(folder, "x").why_no_best()
    assert read_sweep(folder, "height").best.number == 1


def test_does_not_suggest_metrics_of_the_test(make_run) -> None:
    why = read_sweep(make_run(0, metrics={"test/loss": 0.5, "train/error": 0.1})).why_no_best()
    assert "train/error" in why
    assert "test/loss" not in why


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (
            ["ended_early", "ended_early"],
            "none of 2 trials finished (2 ended early). Rank trials that ended early: ",
        ),
        (["pruned", "diverged", "diverged"], "none of 3 trials finished (1 pruned, 2 diverged)"),
        (["failed"], "none of 1 trials finished (1 failed)"),
    ],
)
def test_explains_why_there_is_no_best_trial(ends: list[str], expected: str, make_run) -> None:
    for number, status in enumerate(ends):
        folder = make_run(number, [f"seed={number}"], {"val/loss": 0.5}, status=status)
    assert expected in read_sweep(folder).why_no_best()
    if "ended_early" in ends:
        assert read_sweep(folder, rank_ended_early=True).why_no_best() is None
        assert f"task.from={folder} task.rank_ended_early=true" in read_sweep(folder).why_no_best()


@pytest.mark.parametrize("record", ["sweep.yaml", "multirun.yaml"])
def test_overrides_of_a_resumed_trial_are_not_swept_keys(record: str, make_run) -> None:
    make_run(0, ["optimizer.lr=0.01"], {"val/loss": 0.5})
    folder = make_run(1, ["optimizer.lr=0.1", "trainer.max_epochs=9"], {"val/loss": 0.4})
    records = {
        "sweep.yaml": "settings: {}\nspace: ['optimizer.lr: 0.01, 0.1']\n",
        "multirun.yaml": "hydra: {overrides: {task: ['++optimizer.lr=0.01,0.1', '++seed=1']}}\n",
    }
    (folder / record).write_text(records[record])
    sweep = read_sweep(folder)
    assert sweep.keys == ("optimizer.lr",)
    assert sweep.warnings == ("trainer.max_epochs differs between trials, though it was not swept",)


def test_the_csv_has_one_row_per_trial(make_run, tmp_path: Path) -> None:
    make_run(0, ["optimizer.lr=0.1", "optimizer=sgd"], {"val/loss": 0.5, "test/loss": 0.6})
    typed = ["optimizer.lr=1", "optimizer=adamw"]
    folder = make_run(1, typed, status="failed", error="the loss is inf", steps=None, found=["too_high", "x", "x"])
    with read_sweep(folder).write_csv(tmp_path / "sweep.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == [
        "trial", "status", "optimizer.lr", "optimizer", "val/loss", "test/loss", "steps", "seconds", "folder",
        "findings", "error",
    ]  # fmt: skip
    assert rows[0] == ["0", "finished", "0.1", "sgd", "0.5", "0.6", "60", "1.5", "0", "", ""]
    assert rows[1] == ["1", "diverged", "1", "adamw", "", "", "", "1.5", "1", "too_high, x", "the loss is inf"]


def test_finds_sweeps(make_run, tmp_path: Path) -> None:
    folder = make_run(0)
    assert find_sweep(str(folder), tmp_path, "task.from") == folder
    for age, name in enumerate(("newer", "older")):
        run = tmp_path / "outputs" / "sweeps" / name / "0"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("")
        os.utime(run / "config.yaml", (1000 - age, 1000 - age))
    assert find_sweep("last", tmp_path / "outputs", "task.from").name == "newer"
    (tmp_path / "outputs" / "sweeps" / "older" / "sweep.csv").write_text("")  # as task=analyze writes it
    assert find_sweep("last", tmp_path / "outputs", "task.from").name == "newer"


def test_resumes_the_last_sweep_with_a_record(tmp_path: Path) -> None:
    for age, name in enumerate(("grid", "newer", "older")):
        folder = tmp_path / "sweeps" / name
        (folder / "0").mkdir(parents=True)
        left = folder / "0" / "config.yaml" if name == "grid" else folder / "sweep.yaml"
        left.write_text("")
        os.utime(left, (1000 - age, 1000 - age))
    assert find_sweep("last", tmp_path, "sweep.resume", searched=True).name == "newer"


@pytest.mark.parametrize("wanted", ["last", "nowhere", "sweep/0"])
def test_rejects_a_missing_sweep(wanted: str, make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_sweep(wanted, Path("outputs"), "task.from")
    assert str(caught.value).startswith(f"task.from = '{wanted}': ")
    (problem,) = caught.value.problems
    assert "folder" in f"{problem.message} {problem.hint}"
