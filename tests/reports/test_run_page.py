"""The page of a run shows what the run folder holds, and nothing else; it is written however a run ended."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, shown
from pages import cells, charts, code, curves, headings, marks, tiles

from lrflow.errors import LrflowError
from lrflow.plan.scalars import PlanScalar
from lrflow.reports.run_page import wants_page, write_run_page
from lrflow.runs import PAGE
from lrflow.schedules import Horizon, Linear, Schedule
from lrflow.wording import duration

OLDER = Path(__file__).parent.parent / "older_runs"
FINDING = {
    "kind": "too_high", "step": 30, "since": 12, "message": "the loss rose", "evidence": {"best_loss": 0.25},
    "confidence": 0.9, "remedy": "optimizer.lr=0.003",
}  # fmt: skip


def page_of(folder: Path) -> str:
    return write_run_page(folder).read_text()


def values(page: str, heading: str, series: str, dash: str = "") -> dict[float, float]:
    """The points of a line of a chart."""
    found = {}
    for rows in curves(charts(page)[heading]).values():
        if rows[0]["series"] == series and (rows[0].get("dash") or "") == dash:
            found |= {row["x"]: row["y"] for row in rows}
    return found


def test_the_numbers_are_those_of_the_folder(run_folder: Callable[..., Path]) -> None:
    norms = {
        f"{kind}/{group}": {0: 0.5, 1: 0.25} for kind in ("update_ratio", "grad_norm") for group in ("body", "head")
    }
    machine = {"train/step_time": [0.2] * 40, "train/data_time": [0.05] * 40, "memory/peak_gib": {9: 1.0, 19: 1.5}}
    folder = run_folder(
        columns={**norms, **machine, "val/accuracy": {9: 0.5, 19: 0.75, 29: 0.625}, "epoch": {9: 0, 19: 1}},
        summary={"metrics": {"val/loss": 1.225, "test/loss": 1.375}},
        findings=[FINDING],
    )
    page = page_of(folder)
    found = tiles(page)
    assert found["status"] == ("finished", "")
    assert found["best val/loss"] == ("1.225", "the lowest, at step 39, epoch 3.9")
    assert found["last val/loss"] == ("1.225", "test/loss 1.375")
    assert found["findings"][0] == FINDING["kind"].replace("_", " ")
    assert found["steps"] == ("40", "4 epochs")
    watched = {"health": {"diverging": {"action": None}}}
    short = tiles(page_of(run_folder("short", steps=10, config=watched)))
    assert short["steps"] == ("10", "1 epoch")
    assert short["findings"][0] == "none"
    assert found["time"] == ("1 min 15 s", "started 2026-12-01 06:00")
    assert found["device"][0] == "cpu"
    plan = json.loads((folder / "plan.json").read_text())
    for group in plan["groups"]:
        assert max(values(page, "Learning rate: planned and used", group["name"]).values()) == pytest.approx(
            group["lr"]
        )
    assert values(page, "Loss", "train/loss") == pytest.approx({step: 2 / (1 + step) for step in range(40)}, rel=1e-5)
    assert values(page, "Loss", "val/loss") == pytest.approx({9: 1.9, 19: 1.45, 29: 1.3, 39: 1.225})
    assert values(page, "Update ratio per group", "head") == {0: 0.5, 1: 0.25}
    assert cells(page, "Metrics") == [
        ["metric", "last", "best", "at step", "better is"],
        ["train/loss", "0.05", "0.05", "39", "lower"],
        ["val/loss", "1.225", "1.225", "39", "lower"],
        ["val/accuracy", "0.625", "0.75", "19", "higher"],
        ["test/loss", "1.375", "", "", ""],
    ]
    assert cells(page, "Findings")[1] == [
        "too high", "12", "30", "the loss rose", "optimizer.lr=0.003", "best loss 0.25", "90%",
    ]  # fmt: skip
    (rule,) = [rows for rows in marks(charts(page)["Loss"], "rule") if rows[0]["series"] == "too high"][:1]
    assert [row["x"] for row in rule] == [30]
    assert cells(page, "Speed and memory")[1:] == [
        ["median time of a step, in seconds", "0.2"], ["share of it spent waiting for data", "25.0%"],
        ["most memory, in GiB", "1.5"],
    ]  # fmt: skip
    order = [
        "Run it again", "Learning rate: planned and used", "Loss", "val/accuracy", "Metrics", "Findings",
        "Update ratio per group", "Gradient norm per group", "Speed and memory", "Environment", "Config",
    ]  # fmt: skip
    assert [heading for heading in headings(page) if heading in order] == order
    assert code(page, "Config") == (folder / "config.yaml").read_text().strip()


def test_a_rollback_is_an_event_and_what_it_replaced_is_drawn(run_folder: Callable[..., Path]) -> None:
    rollback = {"step": 20, "to": 8, "factor": 0.3, "reason": "the loss rose", "skipped": [9]}
    resumed = {"checkpoint": "checkpoints/step-0000030.ckpt", "step": 30}
    lr = {"lr/body": [0.003] * 40, "lr_planned/body": [0.01] * 40}
    feedback = [{"step": 25, "value": 1.4, "factor": 0.5}]
    folder = run_folder(columns=lr, summary={"recoveries": [rollback], "feedback": feedback})
    (folder / "rollbacks").mkdir()
    (folder / "rollbacks" / "1.csv").write_text("step,train/loss\n8,3.0\n9,7.0\n")
    (folder / "environment.json").write_text(json.dumps({"resumed": resumed}))
    page = page_of(folder)
    assert cells(page, "Events")[1:] == [
        ["20", "rollback", "the loss rose; returned to step 8; LR x 0.3, batches of 1 step left out"],
        ["25", "feedback", "factor 0.5 at a reading of 1.4"],
        ["30", "resumed", "from checkpoints/step-0000030.ckpt"],
    ]
    assert tiles(page)["time since the resume"][0] == "1 min 15 s"
    assert values(page, "Loss", "replaced by rollbacks") == {8: 3, 9: 7}
    heading = "Learning rate: planned and used"
    assert {*values(page, heading, "body").values()} == {0.003}
    assert max(values(page, heading, "body", "planned").values()) == pytest.approx(0.01)
    assert {rows[0]["series"] for rows in marks(charts(page)[heading], "rule")} == {"rollback", "feedback", "resumed"}


def test_scalars_are_charts_of_the_plan_and_no_metrics(run_folder: Callable[..., Path]) -> None:
    scalar = PlanScalar("clip_range", Schedule(Linear()), 0.0, 0.2)
    planned = dict(enumerate(scalar(np.arange(40), Horizon(40, 10)).tolist()))
    recorded = {step: planned[step] for step in range(17)}
    page = page_of(run_folder(scalars=[scalar], columns={scalar.column: recorded, "scalar/own": {3: 1.0}}, made=17))
    heading = "clip range: planned and used"
    assert values(page, heading, "clip range", "planned") == pytest.approx(planned)
    assert values(page, heading, "clip range") == pytest.approx(recorded)
    assert [row[0] for row in cells(page, "Metrics")[1:] if row[0].startswith("scalar")] == ["scalar/own"]


def test_a_star_is_where_it_is_known_what_is_better(run_folder: Callable[..., Path]) -> None:
    columns = {"batch_size": [64.0] * 20 + [128.0] * 20, "train/accuracy": [step / 40 for step in range(40)]}
    found = charts(page_of(run_folder(columns=columns)))
    stars = {name: marks(found[name], "point", "M0,-1L") for name in columns}
    assert (len(stars["batch_size"]), stars["train/accuracy"][0][0]["x"]) == (0, 39)


@pytest.mark.parametrize(
    ("summary", "made", "status", "told"),
    [
        ({}, 17, "unfinished", "has not ended: its process is gone. The page shows what its folder held at step 17"),
        ({"status": "diverged", "reason": "loss is nan", "error": "loss is nan", "steps": 17}, 17, "diverged", None),
        ({"status": "failed", "error": "ValueError: " + "x" * 200, "reason": "r"}, 5, "failed", "x" * 200),
        ({"status": "ended_early", "reason": "patience", "error": "patience"}, 1, "ended early", None),
        ({"status": "stopped", "reason": "SIGTERM", "error": "SIGTERM"}, 0, "stopped", None),
    ],
)
def test_however_a_run_ended_it_has_a_page(
    summary: dict[str, object], made: int, status: str, told: str | None, run_folder: Callable[..., Path]
) -> None:
    folder = run_folder(made=made, summary=summary)
    page = page_of(folder)
    assert tiles(page)["status"][0] == status
    assert tiles(page)["steps"][0] == f"{made} of 40"
    assert told is None or told in page
    assert "Learning rate: planned and used" in charts(page)
    assert ("Loss" in charts(page)) == (made > 0)


def test_what_is_not_finite_is_reported_and_leaves_a_gap(run_folder: Callable[..., Path]) -> None:
    losses = [2.0, math.nan, math.inf, *([1.0] * 37)]
    page = page_of(run_folder(columns={"train/loss": losses}, summary={"metrics": {"val/loss": math.nan}}))
    assert "train/loss is nan at step 1, epoch 0.1." in page
    assert [values(page, "Loss", "train/loss")[step] for step in (0, 1, 2, 3)] == [2, None, None, 1]
    assert cells(page, "Metrics")[2][:3] == ["val/loss", "nan", "1.225"]
    assert tiles(page)["last val/loss"][0] == "nan"


def test_names_and_texts_cannot_leave_their_place(run_folder: Callable[..., Path]) -> None:
    hostile = "</script><script>alert('x\")</script>\u2028é"
    finding = FINDING | {"kind": hostile, "message": hostile}
    folder = run_folder(
        peaks={hostile: 0.1}, columns={f"val/{hostile.replace('/', '')}": {3: 1, 9: 2}}, findings=[finding],
        overrides=[f"data.note={hostile}", "output=my runs"],
    )  # fmt: skip
    page = page_of(folder)
    assert "<script>alert" not in page
    assert cells(page, "Findings")[1][3] == hostile
    assert values(page, "Learning rate: planned and used", hostile)
    assert code(page, "Run it again").endswith("'output=my runs'")


def test_secrets_are_masked(run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-1234567890abcdef")
    config = {"logger": {"wandb": {"api_key": "sk-1234567890abcdef"}}, "data": {"url": "ftp://me:hunter2go@host/x"}}
    summary = {"status": "failed", "error": "no access with sk-1234567890abcdef", "reason": "no access"}
    folder = run_folder(config=config, summary=summary, overrides=["logger.wandb.api_key=sk-1234567890abcdef"])
    (folder / "findings.jsonl").write_text(json.dumps(FINDING | {"message": "token sk-1234567890abcdef"}) + "\n")
    page = page_of(folder)
    assert "sk-1234567890abcdef" not in page
    assert "hunter2go" not in page
    assert "A secret that is masked here has to be given again." in page


def test_a_run_with_four_hundred_groups_shows_some_of_them(run_folder: Callable[..., Path]) -> None:
    peaks = {f"layer{number}/weight": 0.1 * 0.99**number for number in range(400)}
    ratios = {f"update_ratio/{name}": {0: 0.1, 1: 0.2} for name in peaks}
    page = page_of(run_folder(peaks=peaks, columns=ratios, steps=30))
    chart = charts(page)["Learning rate: planned and used"]
    assert {row["series"] for row in chart["data"]["values"]} >= {"layer0/weight", "layer399/weight"}
    assert "12 of the curves of 400 groups." in page
    assert len(page) < 1_000_000


def test_a_long_run_makes_no_long_page(run_folder: Callable[..., Path]) -> None:
    folder = run_folder(steps=100)
    loss = np.linspace(2, 1, 60_000)
    loss[31_007] = 99.0
    rows = "".join(f"{step},{value}\r\n" for step, value in enumerate(loss.tolist()))
    (folder / "metrics.csv").write_text(f"step,train/loss\r\n{rows}59999,")
    page = page_of(folder)
    assert len(page) < 700_000
    assert max(values(page, "Loss", "train/loss").values()) == 99


@pytest.mark.parametrize("name", ["whole", "interrupted", "sweep/1"])
def test_a_folder_of_an_older_version_has_a_page(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLDER / name, tmp_path / "run"))
    page = page_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert tiles(page)["status"][0] == summary["status"].replace("_", " ")
    for metric, value in summary["metrics"].items():
        assert [metric, f"{value:.4g}"] in [row[:2] for row in cells(page, "Metrics")]


@pytest.mark.parametrize("damaged", ["config.yaml", "plan.json", "metrics.csv", "summary.json", "environment.json"])
@pytest.mark.parametrize("content", [None, b"\xff[1", b'{"events": 3, "metrics": [], "git": 1}'])
def test_a_damaged_folder_has_a_page(damaged: str, content: bytes | None, run_folder: Callable[..., Path]) -> None:
    folder = run_folder(findings=[FINDING])
    (folder / damaged).unlink() if content is None else (folder / damaged).write_bytes(content)
    is_told = f"Its {damaged} cannot be read." in page_of(folder)
    broken = (b"\xff[1",) if damaged != "plan.json" else (b"\xff[1", b'{"events": 3, "metrics": [], "git": 1}')
    assert is_told == (content in broken and damaged != "metrics.csv"), "what can be read in part is shown in part"


@pytest.mark.parametrize("name", ["config.yaml", "plan.json", "metrics.csv", "summary.json", "findings.jsonl"])
def test_a_folder_in_place_of_a_file_is_reported(name: str, run_folder: Callable[..., Path]) -> None:
    folder = run_folder()
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"Its {name} cannot be read." in page_of(folder)


def test_what_killed_processes_left_of_a_page_is_removed(run_folder: Callable[..., Path]) -> None:
    folder = run_folder()
    parts = [folder / f".{PAGE}.{process}.part" for process in (1, 2)]
    for part in parts:
        part.write_text("<h1>")
    os.utime(parts[0], (0, 0))
    write_run_page(folder)
    assert [part.exists() for part in parts] == [False, True], "another process may still write the second one"


@pytest.mark.parametrize("number", ["1e999", "NaN", "1" + "0" * 400])
def test_numbers_of_a_summary_that_cannot_be_are_left_out(number: str, run_folder: Callable[..., Path]) -> None:
    folder = run_folder(findings=[FINDING])
    changes = ", ".join(f'{{"step": 3, "factor": 0.5, "to": 1, "{key}": {number}}}' for key in ("step", "factor", "to"))
    counts = f'"status": "finished", "steps": {number}, "planned": {number}, "seconds": {number}'
    (folder / "summary.json").write_text(f'{{{counts}, "recoveries": [{changes}]}}')
    (folder / "find.json").write_text("[" * 100_000)
    assert tiles(page_of(folder))["status"][0] == "finished"


def test_the_page_of_a_folder_whose_name_is_not_unicode(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = run_folder().rename(tmp_path / "a\udcff")
    assert "a?" in page_of(folder)


@needs_browser
def test_a_browser_draws_the_page_and_reports_nothing(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    norms = {
        f"{kind}/{group}": {0: 0.5, 1: 0.25} for kind in ("update_ratio", "grad_norm") for group in ("body", "head")
    }
    sharp = {"sharpness/top": {0: 3.0, 20: 4.0}, "sharpness/share": {0: 0.5, 20: 1.1}}
    folder = run_folder(columns={**norms, **sharp, "val/accuracy": {9: 0.5, 19: 0.75}}, findings=[FINDING])
    found = shown(write_run_page(folder), tmp_path)
    assert found.console == []
    assert found.dom.count('role="img"') == found.dom.count("<svg") == len(charts((folder / PAGE).read_text())) == 6
    assert '<p class="notes">This chart' not in found.dom
    below = found.picture[600:, :, :3]
    assert below.std() > 0.02
    assert np.ptp(below, axis=2).max() > 0.3  # colours, as lines have


def test_only_a_run_of_its_own_that_wants_one_writes_a_page(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"choices": {}, "overrides": [], "run_folder": "sweeps/1"}
    assert wants_page(run_folder("alone"))
    assert not wants_page(run_folder("without", config={"report": False}))
    assert not wants_page(run_folder("job", config={"lrflow": record}))
    monkeypatch.setattr("lrflow.reports.run_page.LARGEST", 9)
    with pytest.raises(LrflowError, match="lrflow report"):
        wants_page(run_folder("large"))


def test_durations() -> None:
    seconds = (0.123, 59.9, 61, 120, 3600 * 3 + 1200, 86400 * 2 + 3 * 3600)
    assert [duration(one) for one in seconds] == ["0.123 s", "59.9 s", "1 min 1 s", "2 min", "3 h 20 min", "2 d 3 h"]
