"""A run writes its page when it ends, in whatever way; that it cannot be written is a warning and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import code, tiles

from lrflow.cli import main
from lrflow.reports import run_page

SMALL = ["model=logistic", "trainer.max_steps=3", "trainer.progress=false", "signals.machine=false"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[Path]]]:
    def start(*words: str) -> tuple[int, list[Path]]:
        monkeypatch.chdir(tmp_path)
        exit_code = main([*words, *SMALL])
        return exit_code, sorted(tmp_path.rglob("config.yaml"))

    return start


@pytest.mark.usefixtures("paged", "undrawn")
def test_a_run_writes_its_page_at_its_end(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    ended, (config,) = run("optimizer.lr=0.02")
    assert ended == 0
    page = (config.parent / "report.html").read_text()
    assert tiles(page)["status"][0] == "finished"
    assert code(page, "Run it again") == f"python -m lrflow optimizer.lr=0.02 {' '.join(SMALL)}"
    assert "summary.json, report.html, " in capsys.readouterr().out


@pytest.mark.usefixtures("paged", "undrawn")
def test_a_failed_run_has_a_page_a_job_and_a_run_without_have_none(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the test failed")

    with monkeypatch.context() as patch:
        patch.setattr("lrflow.tasks.train.run_test", fail)
        assert run("name=lost")[0] == 1
    (lost,) = tmp_path.glob("outputs/*_lost")
    assert tiles((lost / "report.html").read_text())["status"] == ("failed", "RuntimeError: the test failed")
    assert run("report=false", "name=none")[0] == 0
    assert not [*tmp_path.glob("outputs/*_none/report.html")]
    assert run("-m", "seed=1,2")[0] == 0
    (sweep,) = tmp_path.glob("outputs/sweeps/*")
    assert [path.parent for path in sweep.rglob("report.html")] == [sweep]


@pytest.mark.usefixtures("paged", "undrawn")
def test_a_page_that_fails_changes_nothing(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise ZeroDivisionError("of a page\nand more")

    monkeypatch.setattr(run_page, "write_run_page", fail)
    ended, (config,) = run()
    assert ended == 0
    assert json.loads((config.parent / "summary.json").read_text())["status"] == "finished"
    (warning,) = [record.getMessage() for record in caplog.records if "page" in record.getMessage()]
    assert warning.endswith("report.html: the page of the run could not be written: of a page")
