"""`resume=auto`: a job goes on in its newest run folder, is not repeated once it is finished, and never runs twice."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl

from lrflow import files
from lrflow.cli import main
from lrflow.config import compose
from lrflow.config.restart import fingerprint
from lrflow.config.saved import config_text
from lrflow.tasks import train as task
from lrflow.tasks.find import _with_lr

SHORT = ["data=digits", "model=logistic", "trainer.max_steps=12", "trainer.checkpoint.every=4"]
SHORT += ["trainer.val_every=6", "trainer.log_every=1", "health.sharpness=null"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], undrawn: None
) -> Callable[..., tuple[int | None, str, list[Path]]]:
    """Runs a command; `dies` ends it in this step. Returns exit code, output and run folders."""
    monkeypatch.chdir(tmp_path)
    make = task.build_trainer

    def go(*words: str, dies: int | None = None) -> tuple[int | None, str, list[Path]]:
        class Die(pl.Callback):
            def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
                if trainer.global_step == dies:
                    raise Killed

        def build(*given: object) -> pl.Trainer:
            trainer = make(*given)
            trainer.callbacks.append(Die())  # type: ignore[attr-defined]
            return trainer

        monkeypatch.setattr(task, "build_trainer", build)
        try:
            code = main([*SHORT, *words])
        except Killed:
            code = None
        return code, "".join(capsys.readouterr()), sorted(path for path in Path("outputs").glob("*") if path.is_dir())

    return go


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "train/step_time"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("own", [[], ["name=mine"]])
def test_a_job_goes_on_until_it_is_finished_and_is_not_repeated(own: list[str], start) -> None:
    whole = start()[2][0]
    code, out, folders = start(*own, "seed=0", "resume=auto", dies=6)
    if not own:
        assert f"{whole} is finished" in out  # `seed=0` changes nothing
        assert code == 0
        return
    assert "no run of this job (name=mine) has a checkpoint yet, so it starts" in out
    code, out, folders = start(*own, "resume=auto", "trainer.progress=false", "logger=tensorboard", dies=10)
    assert "found by name=mine" in out
    code, out, again = start(*own, "resume=auto")
    assert (code, again) == (0, folders)
    (folder,) = set(folders) - {whole}
    assert rows(folder) == rows(whole)
    code, out, again = start(*own, "resume=auto")
    assert (code, again) == (0, folders)
    assert out == f"resume=auto: {folder} is finished, so this job (name=mine) is not run again\n"
    code, out, _ = start(*own, "resume=auto", "optimizer.lr=0.5")
    assert code == 2
    assert "take another name" in out


def test_a_job_is_known_by_its_config(start) -> None:
    start("resume=auto", dies=6)
    (first,) = start("optimizer.lr=0.5", "resume=auto", dies=3)[2][:1]
    code, out, folders = start("resume=auto")
    assert "found by the config" in out
    assert f"{first} goes on from step-0000006.ckpt" in out
    assert code == 0
    assert len(folders) == 2  # the other job died before its first checkpoint
    _, out, folders = start("optimizer.lr=0.5", "resume=auto")
    assert "so it starts" in out
    assert len(folders) == 3


def test_a_job_runs_once_at_a_time(start) -> None:
    start("name=mine", "resume=auto", dies=6)
    with files.lock(Path("outputs/.job-mine.lock")):
        code, out, _ = start("name=mine", "resume=auto")
    assert code == 1
    assert "is already running this job (name=mine)" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "seed=0,1"], "sweep.resume=last"),
        (["task=plan"], "only task=train can be restarted, not plan"),
        (["optimizer.lrr=1"], "did you mean optimizer.lr?"),
    ],
)
def test_it_is_refused_elsewhere(words: list[str], said: str, start) -> None:
    code, out, folders = start(*words, "resume=auto")
    assert (code, folders) == (2, [])
    assert said in out


def test_the_lr_that_a_run_has_found_does_not_change_its_job() -> None:
    config = compose(["optimizer.lr=auto"])
    config.attach(config.source, config.choices, ["optimizer.lr=auto"], None, True)
    found = _with_lr(config, {"lr": 0.02, "low": 0.01, "high": 0.04, "steps": 500})
    assert config_text(found) != config_text(config)
    assert fingerprint(config_text(found)) == fingerprint(config_text(config))


def test_the_config_is_printed_without_a_lock(start) -> None:
    code, out, folders = start("resume=auto", "--cfg", "job")
    assert (code, folders, list(Path().glob("outputs/.*"))) == (0, [], [])
    assert "requeue: true" in out
