"""The index of runs: what it reads again, what it forgets, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow.dashboard import index as module
from lrflow.dashboard.index import Index
from lrflow.files import write_json
from lrflow.runs import RunFolder


@pytest.fixture
def indexed(run_folder: Callable[..., Path]) -> Index:
    """An index of the folder that `run_folder` fills, which looks at it each time."""
    run_folder("first")
    return Index(run_folder("second").parent, pause=0)


def names(index: Index) -> list[str]:
    return sorted(entry.name for entry in index.entries())


def read(index: Index) -> dict[str, module.Details]:
    """The details of all runs by name."""
    index.entries()
    index.read_details()
    return {entry.name: entry.details for entry in index.entries() if entry.details}


def test_only_what_changed_is_read_again(indexed: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(indexed)["first"].best.value == pytest.approx(1.225)
    version, *_ = indexed.changes(0)
    assert indexed.changes(version)[1:] == ([], [])
    reads: list[str] = []
    details = module._details
    monkeypatch.setattr(module, "_details", lambda entry: reads.append(entry.name) or details(entry))
    summary = indexed.folder / "second" / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "status": "failed", "reason": "it fell"}))
    _, changed, gone = indexed.changes(version)
    assert ([(entry.name, entry.run.status) for entry in changed], gone) == ([("second", "failed")], [])
    read(indexed)
    assert reads == ["second"]


def test_folders_of_runs_that_ended_are_looked_into_when_they_change(
    indexed: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        os.utime(indexed.folder / name, (1e9, 1e9))
    version = indexed.changes(0)[0]
    looked: list[str] = []
    current = Index._current
    monkeypatch.setattr(
        Index, "_current", lambda self, path, *rest: looked.append(path.name) or current(self, path, *rest)
    )
    assert (names(indexed), looked) == (["first", "second"], [])
    write_json(indexed.folder / "second" / "summary.json", {"status": "failed"})
    assert [(one.name, one.run.status) for one in indexed.changes(version)[1]] == [("second", "failed")]
    assert looked == ["second"]
    shutil.rmtree(indexed.folder / "first")
    assert names(indexed) == ["second"]


def test_a_run_that_grows_is_read_on(indexed: Index) -> None:
    folder = indexed.folder / "second"
    (folder / "summary.json").unlink()
    whole = (folder / "metrics.csv").read_text()
    part = whole[: len(whole) // 2]
    (folder / "metrics.csv").write_text(part)
    steps = [read(indexed)["second"].last_step]
    with (folder / "metrics.csv").open("a") as file:
        file.write(whole[len(part) :])
    steps.append(read(indexed)["second"].last_step)
    assert steps == [part.count("\n") - 1, 40]


def test_a_run_that_is_started_or_killed_changes_its_status(indexed: Index) -> None:
    (indexed.folder / "second" / "summary.json").unlink()
    version = indexed.changes(0)[0]
    with RunFolder(indexed.folder / "second").locked():
        version, changed, _ = indexed.changes(version)
        assert [entry.run.status for entry in changed] == ["running"]
    assert [entry.run.status for entry in indexed.changes(version)[1]] == ["unfinished"]


def test_what_is_deleted_is_gone_and_what_is_moved_has_another_id(indexed: Index) -> None:
    ids = {entry.name: entry.id for entry in indexed.entries()}
    version = indexed.changes(0)[0]
    shutil.rmtree(indexed.folder / "first")
    (indexed.folder / "second").rename(indexed.folder / "third")
    _, changed, gone = indexed.changes(version)
    assert ([entry.name for entry in changed], {*gone}) == (["third"], {*ids.values()})
    assert indexed.entry(ids["first"]) is None
    (indexed.folder / "third").rename(indexed.folder / "second")
    assert indexed.changes(version)[2] == [ids["first"], changed[0].id]


def test_links_that_lead_out_are_refused(indexed: Index, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(indexed.folder / "first", elsewhere)
    (indexed.folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    entry = next(entry for entry in indexed.entries() if entry.name == "second")
    (indexed.folder / "second" / "config.yaml").unlink()
    (indexed.folder / "second" / "config.yaml").symlink_to(elsewhere / "config.yaml")
    assert names(indexed) == ["first"]
    assert indexed.entry(entry.id) is None
    first = indexed.folder / "first"
    (first / "metrics.csv").rename(first / "kept.csv")
    (first / "metrics.csv").symlink_to("kept.csv")  # which stays within
    assert names(indexed) == ["first"]
    (first / "rollbacks").mkdir()
    (first / "rollbacks" / "1.csv").symlink_to(elsewhere / "metrics.csv")
    assert indexed.entry(indexed.entries()[0].id) is None


def test_a_link_in_a_circle_hides_only_its_own_run(indexed: Index) -> None:
    (indexed.folder / "first" / "metrics.csv").unlink()
    (indexed.folder / "first" / "metrics.csv").symlink_to("metrics.csv")
    assert names(indexed) == ["second"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.csv", "step,train/loss\n0,1\n1,0.5"),
        ("metrics.csv", "\x00\x01"),
        ("summary.json", '{"status": "fini'),
        ("config.yaml", "lrflow: [1,"),
        ("config.yaml", "- no mapping"),
        ("environment.json", "[]"),
        ("plan.json", "{"),
        ("findings.jsonl", '{"kind"'),
    ],
)
def test_half_written_files_leave_the_rest_readable(file: str, text: str, indexed: Index) -> None:
    (indexed.folder / "first" / file).write_text(text)
    assert {*read(indexed)} == {"first", "second"}


def test_sweeps_and_other_tasks(indexed: Index, run_folder: Callable[..., Path]) -> None:
    for number in range(3):
        run_folder(f"sweeps/s/{number}", columns={"val/loss": {9: 2.0 - number / 10}})
    (indexed.folder / "sweeps" / "s" / "sweep.yaml").write_text("settings: {}\n")
    run_folder("found", config={"task": "find"})
    run_folder(
        "sweeps/s/3", columns={"val/loss": {}}, summary={"status": "diverged", "metrics": {}}
    )  # diverged before it was validated
    version = indexed.changes(0)[0]
    read(indexed)
    assert "found" not in names(indexed)
    assert len(indexed.changes(version)[2]) == 1
    (sweep,) = indexed.sweeps(indexed.entries())
    assert (sweep.name, sweep.statuses, sweep.best.value) == ("sweeps/s", {"finished": 3, "diverged": 1}, 1.8)
    os.replace(indexed.folder / "sweeps", indexed.folder / "away")
    assert [one.name for one in indexed.sweeps(indexed.entries())] == ["away/s"]
