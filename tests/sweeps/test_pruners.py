from __future__ import annotations

import csv
import json
from pathlib import Path

import optuna
import pytest

from lrflow.cli import main
from lrflow.config.schemas.sweep import Pruning, Trial
from lrflow.sweeps.pruners import Reporter, make_pruner, rungs
from lrflow.sweeps.study import JOURNAL, open_storage


def test_rungs_are_shares_of_the_run() -> None:
    assert rungs(Pruning()) == pytest.approx([1 / 9, 1 / 3])
    assert rungs(Pruning(first=1 / 16, reduction=4)) == pytest.approx([1 / 16, 1 / 4])
    assert rungs(Pruning(first=0.4)) == [0.4]


CURVES = [[1.0, 0.8, 0.6, 0.4], [1.1, 0.9, 0.7, 0.5], [1.2, 1.0, 0.8, 0.6], [3.0, 2.9, 2.8, 2.7]]


def lengths(
    path: Path, pruner: str, settings: Pruning, curves: list[list[float]], direction: str = "minimize"
) -> list[int]:
    """Return the number of reports of each trial; each report comes from a job that shares only the journal."""
    study = optuna.create_study(
        storage=open_storage(str(path)), study_name="s", pruner=make_pruner(pruner, settings), direction=direction
    )
    made = []
    for curve in curves:
        trial = study.ask()
        reporter = Reporter(Trial(number=trial.number, study="s", storage=str(path), pruner=pruner, pruning=settings))
        count, over = 0, False
        while not over and count < len(curve):
            over = reporter.report(curve[count], (count + 1) / len(curve))
            count += 1
        made.append(count)
        study.tell(trial, None if over else curve[-1], optuna.trial.TrialState.PRUNED if over else None)
    return made


@pytest.mark.parametrize(
    ("pruner", "settings", "expected"),
    [
        ("none", Pruning(), [4, 4, 4, 4]),
        ("median", Pruning(startup=2), [4, 4, 1, 1]),
        ("median", Pruning(startup=2, first=0.4), [4, 4, 2, 2]),
        ("asha", Pruning(first=0.25, reduction=2), [4, 1, 1, 1]),
        ("patience", Pruning(patience=1), [4, 4, 4, 4]),
    ],
)
def test_pruners_prune_worse_trials(pruner: str, settings: Pruning, expected: list[int], tmp_path: Path) -> None:
    assert lengths(tmp_path / JOURNAL, pruner, settings, CURVES) == expected


@pytest.mark.parametrize(
    ("pruner", "settings", "expected"),
    [
        ("median", Pruning(startup=2), [4, 4, 4, 1, 1]),
        ("asha", Pruning(first=0.25, reduction=2), [4, 4, 4, 1, 1]),
        ("patience", Pruning(patience=1), [4, 4, 4, 4, 4]),
    ],
)
def test_pruners_prune_lower_metrics_to_maximize(
    pruner: str, settings: Pruning, expected: list[int], tmp_path: Path
) -> None:
    curves = [
        [0.1, 0.2, 0.3, 0.4],
        [0.2, 0.3, 0.4, 0.5],
        [0.6, 0.7, 0.8, 0.9],
        [0.05, 0.9, 0.9, 0.9],
        [0.15, 0.9, 0.9, 0.9],
    ]
    assert lengths(tmp_path / JOURNAL, pruner, settings, curves, "maximize") == expected


def test_patience_prunes_a_metric_to_maximize_that_stops_rising(tmp_path: Path) -> None:
    curve = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]
    assert lengths(tmp_path / JOURNAL, "patience", Pruning(patience=1), [curve], "maximize")[0] < 8
    rising = [0.1 * step for step in range(1, 9)]
    assert lengths(tmp_path / "other", "patience", Pruning(patience=1), [rising], "maximize") == [8]


@pytest.mark.parametrize("pruner", ["hyperband", "wilcoxon"])
def test_pruners_keep_the_best_trial(pruner: str, tmp_path: Path) -> None:
    made = lengths(tmp_path / JOURNAL, pruner, Pruning(first=0.25, reduction=2), CURVES)
    assert made[0] == 4
    assert all(1 <= count <= 4 for count in made)


def test_patience_prunes_a_trial_that_stops_improving(tmp_path: Path) -> None:
    assert lengths(tmp_path / JOURNAL, "patience", Pruning(patience=1), [[1.0, 0.5, 0.6, 0.7]]) == [4]
    longer = [[1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]]
    assert lengths(tmp_path / "other", "patience", Pruning(patience=1), longer)[0] < 8


def test_nan_prunes_no_trial(tmp_path: Path) -> None:
    assert lengths(tmp_path / JOURNAL, "median", Pruning(startup=1), [[1.0] * 4, [float("nan")] * 3 + [1.0]]) == [4, 4]


SHORT = [
    "trainer.max_epochs=9", "data.batch_size=512", "trainer.progress=false", "model.widths=[8]", "task.test=false",
    "trainer.checkpoint.monitor=null", "trainer.checkpoint.every=9 epochs", "sweep.sampler=grid",
]  # fmt: skip


def test_a_pruned_run_records_its_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "optimizer.lr=1e-2,1e-6", "sweep.pruner=asha", "hydra.sweep.dir=swept", *SHORT]
    assert main(words) == 0, (capsys.readouterr(), *(path.read_text() for path in here.rglob("output.txt")))
    first, second = (json.loads((here / f"swept/{number}/summary.json").read_text()) for number in (0, 1))
    assert first["status"] == "finished"
    assert second["status"] == "pruned"
    assert "pruned by asha: val/loss" in second["error"]
    assert "at 11% of the run" in second["error"]
    last = second["metrics"]["val/loss"]
    assert f"val/loss {last:.4g} at 11%" in second["error"]
    assert (here / "swept/1/config.yaml").exists()
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.split()[-2:] == ["pruned", "1"])
    assert f"{last:.4g}" in printed.split()
    with (here / "swept/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["status"], rows[1]["val/loss"]) == ("pruned", str(last))


def test_a_better_run_is_not_pruned_by_a_metric_to_maximize(here: Path) -> None:
    """The sweep is ranked by the metric of the checkpoints, whose name implies its direction."""
    words = ["-m", "optimizer.lr=1e-2,1e-6", "sweep.pruner=asha", "hydra.sweep.dir=swept", *SHORT]
    assert main([*words, "trainer.checkpoint.monitor=val/accuracy"]) == 0
    first, second = (json.loads((here / f"swept/{number}/summary.json").read_text()) for number in (0, 1))
    assert (first["status"], second["status"]) == ("finished", "pruned")
    assert "pruned by asha: val/accuracy" in second["error"]
    assert second["metrics"]["val/accuracy"] < first["metrics"]["val/accuracy"]
    assert "Trial 0 of a sweep" in (here / "swept/recipe/best.yaml").read_text()


def test_annealed_rungs_do_not_change_the_run(here: Path) -> None:
    words = ["-m", "optimizer.lr=1e-2,1e-6", "hydra.sweep.dir=swept", *SHORT]
    assert main([*words, "sweep.pruner=asha", "sweep.pruning.rungs=annealed"]) == 0
    assert main(["optimizer.lr=1e-2", "output=alone", *SHORT[:-1]]) == 0
    (alone,) = (here / "alone").iterdir()
    pruned, whole, plain = (
        json.loads((path / "summary.json").read_text()) for path in (here / "swept/1", here / "swept/0", alone)
    )
    assert whole["metrics"] == plain["metrics"]  # to the last bit
    assert pruned["status"] == "pruned"
    assert f"val/loss {pruned['metrics']['val/loss']:.4g} at 11%" in pruned["error"]
    reports = [trial.intermediate_values for trial in open_storage(str(here / "swept" / JOURNAL)).get_all_trials(0)]
    assert [list(values) for values in reports] == [[111, 333], [111]]
    assert reports[0][333] < reports[0][111]


def test_rejects_a_metric_that_cannot_prune(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optimizer.lr=1e-2,1e-3", "sweep.pruner=asha", "sweep.metric=test/loss", *SHORT]) == 2
    assert "a validation metric" in capsys.readouterr().err
