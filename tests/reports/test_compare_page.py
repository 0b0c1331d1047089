from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pages import cells, charts, curves, headings

from lrflow.reports.compare_page import write_comparison
from lrflow.reports.run_page import write_run_page
from lrflow.reports.runs import Run

FINDING = {"kind": "too_low", "step": 30, "since": 3, "message": "slow", "remedy": "optimizer.lr=0.1"}


def drawn(page: str, heading: str) -> dict[str, dict[float, float]]:
    rows = curves(charts(page)[heading]).values()
    return {line[0]["series"]: {row["x"]: row["y"] for row in line} for line in rows}


def test_runs_of_different_sweeps_are_over_each_other(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    def one(name: str, lr: float, loss: float, option: str, **more: object) -> Run:
        choices = {"choices": {"optimizer": option}, "overrides": [f"optimizer.lr={lr}"]}
        config = {"optimizer": {"lr": lr, "eps": lr}, "lrflow": choices}
        columns = {"val/loss": {9: 2 * loss, 19: loss, 29: 1.5 * loss}}
        return Run(
            run_folder(name, 40, {"all": lr}, columns, {"metrics": {"val/loss": 1.5 * loss}}, config=config, **more)
        )

    runs = [one("first/0", 0.1, 0.5, "sgd"), one("second/3 #1", 0.01, 0.25, "adamw", findings=[FINDING])]
    write_run_page(runs[0].folder)
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    rows = cells(page, "Runs")
    assert [row[:7] for row in rows] == [
        ["", "run", "optimizer", "lr", "status", "best val/loss", "at step"],
        ["1", "first/0", "sgd", "0.1", "finished", "0.5", "19"],
        ["2", "second/3 #1", "adamw", "0.01", "finished", "0.25", "19"],
    ]
    assert 'href="runs/first/0/report.html"' in page
    assert 'href="runs/second/3%20%231/"' in page
    assert '<tr class="strong"><td class="number" data-key="2">' in page
    assert not cells(page, "Differences of the config")
    assert max(drawn(page, "Learning rate")["1  first/0"].values()) == pytest.approx(0.1)
    assert drawn(page, "val/loss")["2  second/3 #1"] == {9: 0.5, 19: 0.25, 29: 0.375}
    assert cells(page, "Findings")[1] == ["2", "too low", "3", "30", "slow", "optimizer.lr=0.1"]
    assert headings(page)[:3] == ["Runs", "Learning rate", "val/loss"]


def test_folders_whose_names_are_not_unicode_are_linked(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    runs = [Run(run_folder(name)) for name in ("a\udcff", "b")]
    assert 'href="runs/a%FF/"' in write_comparison(runs, tmp_path / "page.html").read_text()


def test_fifty_runs_are_legible(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    runs = [
        Run(run_folder(f"{n}", 20, {"all": 0.001 * (n + 1)}, {"val/loss": {9: 1 + n, 19: n}}, config={"seed": n}))
        for n in range(50)
    ]
    (runs[3].folder / "plan.json").unlink()
    (runs[4].folder / "metrics.csv").unlink()
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    chart = charts(page)["val/loss"]
    ranks = {line[0]["series"]: line[0].get("shade") for line in curves(chart).values()}
    assert [ranks[f"{n + 1}  {n}"] for n in (0, 1, 49)] == [1, 2, 50]
    assert chart["usermeta"]["legend"] == []
    assert len(page) < 1_000_000


@pytest.mark.parametrize("count", [2, 9])
def test_many_differences_have_a_table(count: int, run_folder: Callable[..., Path], tmp_path: Path) -> None:
    runs = [
        Run(run_folder(f"{n}", 4, config={"model": {f"width{place}": n * place for place in range(1, 6)}}))
        for n in range(count)
    ]
    rows = cells(write_comparison(runs, tmp_path / "page.html").read_text(), "Differences of the config")
    if count == 2:
        assert rows[:2] == [["key", "1", "2"], ["model.width1", "0", "1"]]
    else:
        assert [rows[0][:3], rows[2][:3]] == [["", "width1", "width2"], ["2", "1", "2"]]
