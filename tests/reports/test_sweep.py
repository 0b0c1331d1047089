"""The report of a sweep: the page, the figures and the printed summary."""

from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pages import charts, colour, curves, marks
from rich.console import Console

from lrflow.display import COLD_TO_HOT, MUTED, scale_of
from lrflow.reports.sweep import report
from lrflow.reports.sweep_charts import interpolate_line
from lrflow.reports.sweep_picture import rate_colours
from lrflow.sweeps.folders import read_sweep


def printed(folder: Path) -> str:
    """Return the printed summary of a sweep."""
    out = StringIO()
    report(read_sweep(folder), Console(file=out, width=100))
    return out.getvalue()


def figures(folder: Path) -> dict[str, dict[str, Any]]:
    return charts((folder / "report.html").read_text())


@pytest.fixture
def swept(make_run) -> Path:
    """Two optimizers at four LRs; adamw diverged at the highest."""
    for place, optimizer in enumerate(("sgd", "adamw")):
        for rank, lr in enumerate((1e-3, 1e-2, 1e-1, 1.0)):
            typed = [f"optimizer={optimizer}", f"optimizer.lr={lr}"]
            if optimizer == "adamw" and lr == 1.0:
                error = "step 2: the loss is nan, at LR 1"
                folder = make_run(4 * place + rank, typed, status="failed", error=error, losses=[2.0, 9.0, math.nan])
            else:
                loss = 1.0 + 0.1 * place + 0.2 * (rank - 1) ** 2
                folder = make_run(4 * place + rank, typed, {"val/loss": loss})
    return folder


def test_the_lr_figure_shows_every_trial(swept: Path) -> None:
    printed(swept)
    chart = figures(swept)["val/loss against optimizer.lr"]
    dots = {rows[0]["series"]: rows for rows in marks(chart, "point", "circle")}
    assert [row["x"] for row in dots["sgd"]] == [1e-3, 1e-2, 1e-1, 1.0]
    assert [row["y"] for row in dots["sgd"]] == pytest.approx([1.2, 1.0, 1.2, 1.8])
    ((cross,),) = marks(chart, "point", "M-.7")
    assert (cross["x"], cross["y"], cross["series"]) == (1.0, 1.8, "adamw")
    assert cross["hint"].splitlines()[0] == "trial 7"
    assert cross["hint"].splitlines()[-1] == "diverged"


def test_the_table_shows_errors(swept: Path) -> None:
    printed(swept)
    page = (swept / "report.html").read_text()
    assert "8 trials, 1 diverged" in page
    assert "step 2: the loss is nan, at LR 1" in page


def test_the_table_and_the_summary_have_what_monitors_found(swept: Path, make_run) -> None:
    make_run(8, ["optimizer=sgd", "optimizer.lr=1e-4"], {"val/loss": 1.9}, found=["too_low", "plateau", "too_low"])
    with (swept / "7" / "findings.jsonl").open("w") as file:
        file.write('{"kind": "diverging", "step": 9}\n')
    (swept / "1" / "findings.jsonl").write_text('{"kind": "plateau", "step": 9}\n')
    found = [line for line in printed(swept).splitlines() if " in " in line and " of 9 trials: " in line]
    assert found == ["! plateau in 2 of 9 trials: 1, 8", "! too low in 1 of 9 trials: 8"], "7 is shown as diverged"
    assert "too low, plateau" in (swept / "report.html").read_text()


def test_prints_a_summary(swept: Path) -> None:
    lines = printed(swept).splitlines()
    assert lines[1].split()[:2] == ["sgd", "0.01"]
    assert lines[2].split()[0] == "adamw"
    assert "! adamw: 3 LRs are too few to fit: the best of those tried is shown" in lines
    assert lines[-1] == f"run the best again: python -m lrflow --config-dir {swept} recipe=best"
    assert f"{swept}/: sweep.csv, sweep.png, report.html" in "".join(lines)


def test_draws_pruned_trials_at_their_last_metric(swept: Path, make_run) -> None:
    make_run(
        8, ["optimizer=sgd", "optimizer.lr=0.3"], {"val/loss": 3.0}, status="pruned", error="trial 8 was pruned by x"
    )
    make_run(9, ["optimizer=sgd", "optimizer.lr=10"], {"val/loss": 30.0}, status="pruned")
    lines = printed(swept).splitlines()
    assert lines[1].split()[:2] == ["sgd", "0.01"]  # as without them
    chart = figures(swept)["val/loss against optimizer.lr"]
    (pruned,) = marks(chart, "point", "triangle-down")
    # At most twice the loss before training.
    assert [(row["x"], row["y"], row["series"]) for row in pruned] == [(0.3, 3.0, "pruned"), (10.0, 4.0, "pruned")]
    assert colour(chart, "pruned") == MUTED
    assert "val/loss 3\npruned by x" in pruned[0]["hint"]
    assert "Those above 4 are drawn there." in (swept / "report.html").read_text()


@pytest.fixture
def traded(make_run) -> Path:
    """Two objectives at six LRs: the lower the loss the slower; the trial at 0.1 is dominated, one was pruned."""
    for number, (lr, loss, speed) in enumerate(
        [(1e-4, 1.5, 90.0), (1e-3, 1.2, 70.0), (1e-2, 1.0, 50.0), (1e-1, 1.3, 60.0), (1.0, 0.9, 30.0)]
    ):
        make_run(number, [f"optimizer.lr={lr}", f"seed={number}"], {"val/loss": loss, "val/speed": speed})
    folder = make_run(5, ["optimizer.lr=3", "seed=5"], {"val/loss": 0.1, "val/speed": 99.0}, status="pruned")
    (folder / "sweep.yaml").write_text("settings: {metric: [val/loss, val/speed], mode: [min, max]}\n")
    return folder


def test_draws_the_pareto_front_of_two_objectives(traded: Path) -> None:
    out = printed(traded)
    assert "! val/loss: the best LR, 1, is the highest that was not pruned: the one above it was pruned" in out
    assert f"write another trial as a recipe: python -m lrflow task=analyze task.from={traded} task.trial=2" in out
    lines = out.splitlines()
    assert lines[0].strip() == "Pareto front: 4 of 6 trials"
    assert lines[1].split() == ["trial", "lr", "seed", "val/loss", "val/speed"]
    assert [line.split()[0] for line in lines[2:6]] == ["4", "2", "1", "0"]
    chart = figures(traded)["Pareto front"]
    assert [(row["x"], row["y"]) for row in curves(chart)[0]] == [(0.9, 30.0), (1.0, 50.0), (1.2, 70.0), (1.5, 90.0)]
    assert chart["layer"][0]["mark"]["interpolate"] == "step-after"
    others, front = marks(chart, "point", "circle")
    assert [row["x"] for row in others] == [1.3]
    assert [(row["label"], row["shade"]) for row in front] == [("4", 1.0), ("2", 1e-2), ("1", 1e-3), ("0", 1e-4)]
    titles = re.findall(r"<h2>(.*?)</h2>", (traded / "report.html").read_text())
    assert titles[:3] == ["Pareto front", "val/loss against optimizer.lr", "val/speed against optimizer.lr"]
    assert (traded / "sweep.png").exists()


def test_draws_two_objectives_without_an_lr(make_run) -> None:
    for seed in range(3):
        folder = make_run(seed, [f"seed={seed}"], {"val/loss": 1.0 + seed, "val/speed": 10.0 * seed})
    sweep = read_sweep(folder, ["val/loss", "val/speed"], ["min", "max"])
    report(sweep, Console(file=StringIO()))
    assert (folder / "sweep.png").exists()


def test_writes_the_page_of_a_sweep_without_an_lr(make_run) -> None:
    for seed in range(3):
        folder = make_run(seed, [f"seed={seed}"], {"val/loss": 1.0 + seed})
    printed(folder)
    assert "<h1>Sweep</h1>" in (folder / "report.html").read_text()
    assert not (folder / "sweep.png").exists()
    assert len(curves(figures(folder)["Learning curves"])) == 3


def test_reports_a_sweep_whose_trials_all_failed(make_run) -> None:
    for number, lr in enumerate((1.0, 10.0)):
        folder = make_run(number, [f"optimizer.lr={lr}"], status="failed", error="the loss is inf", losses=[])
    assert "every LR diverged" in printed(folder)
    assert (folder / "report.html").exists()


def test_colours_follow_the_logarithm_of_the_lr() -> None:
    assert rate_colours([1e-4, 1e-2, 1.0, None]) == [COLD_TO_HOT[0], COLD_TO_HOT[2], COLD_TO_HOT[-1], MUTED]
    assert rate_colours([0.1]) == [COLD_TO_HOT[2]]


def test_wide_ranges_have_a_logarithmic_axis() -> None:
    assert scale_of([0.1, 3.0]) == "log"
    assert scale_of([0.1, 1.0]) == scale_of([-1.0, 100.0]) == scale_of([math.inf]) == "linear"


def test_interpolates_lines_as_drawn() -> None:
    line = [(0.01, 1.0), (1.0, 100.0)]
    assert interpolate_line([0.1], line, "linear") == pytest.approx([50.5])
    assert interpolate_line([0.1], line, "log") == pytest.approx([10.0])
    assert interpolate_line([], [], "log") == []


def test_a_sweep_of_one_lr_is_drawn_without_a_warning(make_run, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(0, ["optimizer.lr=0.001"], {"val/loss": 0.5})
    make_run(1, ["optimizer.lr=0.002"], status="stopped")
    assert "1 LR is too few to fit" in printed(folder)
    assert not [str(warning.message) for warning in recwarn]
    assert (folder / "sweep.png").is_file()
