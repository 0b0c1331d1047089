"""A run that is killed at a named point goes on as if nothing had happened: its end, best checkpoint and record."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import compose
from lrflow.runs import RunFolder, newest_checkpoint
from lrflow.tasks import prepare, train
from lrflow.training.best import Best
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=12", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["trainer.checkpoint.every=3 steps", "trainer.val_every=2 steps", "trainer.log_every=2"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config_of(output: Path, *more: str, folder: Path | None = None) -> Any:
    options = {word.partition("=")[0]: word for word in (*SHORT, f"output={output}", *more)}
    config = compose(list(options.values()))
    config._run_folder = folder
    return config


def kill(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    def killing(*arguments: Any, **options: Any) -> Any:
        function(*arguments, **options)
        kill()

    return killing


class DiesAfter(pl.Callback):
    """Kills the process after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.steps:
            kill()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a config in a copy of this process, which is killed where `patches` say."""

    def run(config: Any, **patches: Any) -> None:
        def work() -> None:
            for name, function in patches.items():
                monkeypatch.setattr(POINTS[name][0], POINTS[name][1], function)
            train.outcome(config)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    return run


POINTS = {
    "test": (train, "run_test"),
    "summary": (RunFolder, "write_summary"),
    "best": (Best, "_copy"),
    "fit": (pl.Trainer, "fit"),
    "evaluate": (pl.Trainer, "test"),
}


def dies_after(steps: int) -> dict[str, Any]:
    fit = pl.Trainer.fit

    def fitting(trainer: Any, *arguments: Any, **options: Any) -> None:
        trainer.callbacks.insert(0, DiesAfter(steps))
        fit(trainer, *arguments, **options)

    return {"fit": fitting}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]


def summary(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads((folder / "summary.json").read_text()).items() if key != "seconds"}


def end(folder: Path, name: str = "") -> dict[str, Any]:
    path = folder / "checkpoints" / name if name else newest_checkpoint(folder)
    content = read_checkpoint(path)
    return {key: content[key] for key in ("state_dict", "optimizer_states", "callbacks", "lrflow")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that was not killed."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrflow.plan.serialization.plot", lambda plan, path: path.touch() or path)
        return train.outcome(config_of(tmp_path_factory.mktemp("whole"))).folder


def only(output: Path) -> Path:
    (folder,) = output.iterdir()
    return folder


@pytest.mark.parametrize(
    "point",
    [
        {"test": kill},  # before the test, after the last checkpoint
        {"evaluate": kill},
        {"evaluate": after(pl.Trainer.test)},  # its row is written
        {"summary": kill},
        {"best": kill},  # the best checkpoint is written, but not yet best.ckpt
    ],
    ids=["before the test", "in the test", "after the test", "before the summary", "before best.ckpt"],
)
def test_it_ends_as_the_run_that_was_not_killed(
    point: dict[str, Any], whole: Path, killed: Callable[..., None], tmp_path: Path, same: Any
) -> None:
    killed(config_of(tmp_path), **point)
    folder = only(tmp_path)
    assert not (folder / "summary.json").exists()
    ended = train.outcome(config_of(tmp_path, f"resume.from={folder}"))
    assert ended.folder == folder
    assert ended.status == "finished"
    assert summary(folder) == summary(whole)
    assert rows(folder) == rows(whole)
    for name in ("", "best.ckpt"):
        assert same({**end(folder, name), "lrflow": 0}, {**end(whole, name), "lrflow": 0}), name
    assert same(end(folder)["lrflow"]["random"], end(whole)["lrflow"]["random"])
    assert (folder / "checkpoints" / "best.ckpt").stat().st_nlink == 1


def dies_in_copy(number: int, copied: bool) -> dict[str, Any]:
    """Kill the process before or after it writes the file of one of the best for this many times."""
    copy, calls = Best._copy, count(1)

    def copying(*given: Any) -> bool:
        is_last = next(calls) == number
        done = copied and copy(*given) if is_last else copy(*given)
        return kill() if is_last else done

    return {"best": copying}


def test_the_best_ones_are_those_of_the_run_that_was_not_killed(
    killed: Callable[..., None], tmp_path: Path, undrawn: None, same: Any
) -> None:
    """Averaged weights are validated at a high LR; most validations displace one of the best."""
    options = ("average=ema", "average.decay=0.5", "optimizer.lr=0.3", "schedule=constant", "trainer.checkpoint.best=2")
    options += ('trainer.checkpoint.name="{step:03d}={val/loss:.4f}"',)

    def kept(folder: Path) -> dict[str, Any]:
        return {path.name: end(folder, path.name) for path in (folder / "checkpoints").iterdir()}

    whole = train.outcome(config_of(tmp_path / "whole", *options))
    wanted = kept(whole.folder)
    values = {int(row["step"]) + 1: float(row["val/loss"]) for row in rows(whole.folder) if row["val/loss"]}
    best = sorted(values, key=values.__getitem__)[:2]
    names = {f"{step:03d}={values[step]:.4f}.ckpt" for step in best}
    assert {name for name in wanted if "=" in name} == names
    for number, copied in ((3, False), (4, True), (5, True)):
        killed(config_of(tmp_path / str(number), *options), **dies_in_copy(number, copied))
        folder = only(tmp_path / str(number))
        train.outcome(config_of(tmp_path / str(number), *options, f"resume.from={folder}"))
        found = kept(folder)
        assert found.keys() == wanted.keys()
        for name, content in wanted.items():
            assert same({**found[name], "lrflow": 0}, {**content, "lrflow": 0}), name


WORKERS = "data.loader={num_workers: 2, prefetch_factor: 1, persistent_workers: true}"


def test_a_run_with_workers_ends_as_the_one_without_also_when_killed_within_an_epoch(
    whole: Path, killed: Callable[..., None], tmp_path: Path, same: Any
) -> None:
    killed(config_of(tmp_path, WORKERS), **dies_after(7))
    folder = only(tmp_path)
    assert (newest_checkpoint(folder) or folder).name == "step-0000006.ckpt"
    assert train.outcome(config_of(tmp_path, WORKERS, f"resume.from={folder}")).status == "finished"
    assert rows(folder) == rows(whole)
    for name in ("", "best.ckpt"):
        assert same({**end(folder, name), "lrflow": 0}, {**end(whole, name), "lrflow": 0}), name


def test_a_finished_run_is_not_tested_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    assert train.outcome(config_of(whole.parent, f"resume.from={whole}")).metrics == summary(whole)["metrics"]
    assert "is finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 40, b'{"status": "fini', b"[1]", b"null", b"\xff\xfe", b"[" * 100_000]
)
def test_a_torn_summary_counts_as_missing(
    content: bytes, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.summary.write_bytes(content)
    for _ in range(2):
        assert folder.read_summary() == {}
    (told,) = [record.message for record in caplog.records]
    assert told == f"{folder.summary} is incomplete, as after a loss of power; it counts as missing"


def test_a_run_that_something_ended_early_only_ends(
    killed: Callable[..., None], tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                trainer.should_stop = True

    callbacks = prepare._callbacks
    monkeypatch.setattr(prepare, "_callbacks", lambda *given: [Ends(), *callbacks(*given)])
    first = train.outcome(config_of(tmp_path / "whole"))
    killed(config_of(tmp_path / "killed"), test=kill)
    folder = only(tmp_path / "killed")
    ended = train.outcome(config_of(tmp_path / "killed", f"resume.from={folder}"))
    assert (ended.status, ended.reason) == (first.status, first.reason) == ("ended_early", ended.reason)
    assert "the callback Ends" in ended.reason
    assert summary(folder) == summary(first.folder)
    assert rows(folder) == rows(first.folder)
    monkeypatch.setattr(prepare, "_callbacks", callbacks)
    assert train.outcome(config_of(tmp_path / "killed", f"resume.from={folder}")).steps == 12, "now it goes on"


def record(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_kill_before_the_first_step_leaves_the_folder_as_it_was(
    whole: Path, killed: Callable[..., None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest_checkpoint(folder).unlink()
    before = record(folder)
    killed(config_of(tmp_path, "optimizer.lr=0.5", f"resume.from={folder}"), **dies_after(10))
    left = record(folder)
    assert {name: left[name] for name in before} == before
    assert {Path(name).parent.name for name in left.keys() - before.keys()} == {".next"}
    assert train.outcome(config_of(tmp_path, "optimizer.lr=0.5", f"resume.from={folder}")).folder == folder
    assert "lr: 0.5" in (folder / "config.yaml").read_text()
    assert not (folder / ".next").exists()


def test_a_folder_has_one_history(
    killed: Callable[..., None], whole: Path, tmp_path: Path, undrawn: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial that is killed before its first checkpoint is run again in its folder."""
    folder = tmp_path / "0"
    options = ("trainer.checkpoint.every=1 epoch", "trainer.val_every=1 epoch", "trainer.log_every=1")
    killed(config_of(tmp_path, *options, folder=folder), **dies_after(5))
    assert len(rows(folder)) == 5
    first_id = (folder / "run_id").read_text()
    train.outcome(config_of(tmp_path, folder=folder))
    assert rows(folder) == rows(whole)
    assert len(rows(folder / "earlier" / "1")) == 5
    assert (folder / "earlier" / "1" / "run_id").read_text() == first_id != (folder / "run_id").read_text()
    assert f"{folder}: an earlier run was started here; its record is now in {folder}/earlier/1" in caplog.text
    train.outcome(config_of(tmp_path, folder=folder))
    assert rows(folder) == rows(folder / "earlier" / "2") == rows(whole)


@pytest.mark.parametrize(
    ("harm", "has_best"), [("cut", False), ("zeroed", False), ("empty", False), ("no member", False), ("cut", True)]
)
def test_the_newest_whole_checkpoint_takes_the_place_of_a_broken_one(
    harm: str, has_best: bool, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, same: Any
) -> None:
    import zipfile

    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = newest_checkpoint(folder)
    (folder / "summary.json").unlink()
    data = newest.read_bytes()
    if harm == "no member":
        with zipfile.ZipFile(newest) as source, zipfile.ZipFile(tmp_path / "new", "w") as target:
            for name in source.namelist():
                if not name.endswith("data/3"):
                    target.writestr(name, source.read(name))
        (tmp_path / "new").replace(newest)
    else:
        half = len(data) // 2
        newest.write_bytes({"cut": data[:half], "zeroed": data[:half] + bytes(len(data) - half), "empty": b""}[harm])
    if not has_best:
        (folder / "checkpoints" / "best.ckpt").unlink()
    ended = train.outcome(config_of(tmp_path, f"resume.from={folder}"))
    assert ended.folder == folder
    (told,) = [message for message in caplog.messages if "the run resumes from" in message]
    assert told.endswith(f"; the run resumes from {'best.ckpt' if has_best else 'step-0000010.ckpt'}")
    assert newest.name in told
    assert rows(folder) == rows(whole)
    assert same(end(folder)["state_dict"], end(whole)["state_dict"])
    if not has_best:
        assert end(folder).keys(), "the broken one is written again"
        resumed = json.loads((folder / "environment.json").read_text())["resumed"]
        assert resumed["step"] == 10
        assert [*resumed["broken"]] == [newest.name]
