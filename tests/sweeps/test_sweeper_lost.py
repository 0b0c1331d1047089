"""Sweeps that have lost the record of their trials: what ended is read from the run folders, and not repeated."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from lrflow.config.composition.overrides import Override
from lrflow.config.schemas.sweep import Sweep
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.sweeps.folders import ended_run
from lrflow.sweeps.space import read_space
from lrflow.sweeps.study import JOURNAL, open_storage, patiently
from lrflow.sweeps.sweeper import SweepRun

SWEPT = {
    "random": (["optimizer=sgd,adamw", "optimizer.lr=interval(1e-4,1)"], {"sampler": "random", "n_trials": 6}),
    "tpe": (["optimizer.lr=interval(1e-4,1)", "data.batch_size=int(interval(16,64))"], {"n_trials": 6}),
    "grid": (["optimizer=sgd,adamw", "optimizer.lr=0.1,0.01,0.001"], {"sampler": "grid"}),
}


class Jobs:
    """A launcher whose jobs write the folder of a run, and stop at one."""

    def __init__(self, folder: Path, stop: int | None = None) -> None:
        self.folder, self.stop = folder, stop
        self.ran: dict[int, list[str]] = {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            given = [text.removeprefix("++") for text in overrides if "trial." not in text]
            self.ran[number] = given
            folder = self.folder / str(number)
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").write_text(yaml.safe_dump({"lrflow": {"overrides": given}}))
            if number == self.stop:
                outcome = Outcome.from_error(StoppedError("stopped", 143))
            else:
                outcome = Outcome.finished({"val/loss": number / 8})
                (folder / "summary.json").write_text(json.dumps(outcome.summary()))
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome)]


def sweep_of(swept: str, folder: Path, launcher: Jobs, **more: Any) -> SweepRun:
    texts, settings = SWEPT[swept]
    chosen = Sweep.model_validate({**settings, **more, "metric": "val/loss", "mode": "min"})
    space = read_space(None, None, map(Override.read, texts))
    basic = DictConfig({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"})
    return SweepRun(chosen, space, folder, str(folder / JOURNAL), launcher, basic, texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("swept", SWEPT)
@pytest.mark.parametrize("kept", [None, 0.0, 0.1, 0.3, 0.8, "broken"])
def test_finished_trials_are_read_from_their_folders(kept: Any, swept: str, tmp_path: Path) -> None:
    before = Jobs(tmp_path, stop=4)
    with pytest.raises(StoppedError):
        sweep_of(swept, tmp_path, before).run()
    known = optuna.load_study(study_name=None, storage=open_storage(str(tmp_path / JOURNAL))).get_trials()
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    if kept is None:
        journal.unlink()
    elif kept == "broken":
        lines[len(lines) // 2] = b'{"op_code":5,"wor\n'
        journal.write_bytes(b"".join(lines))
    else:
        journal.write_bytes(b"".join(lines[: int(kept * len(lines))]))

    after = Jobs(tmp_path)
    sweep = sweep_of(swept, tmp_path, after, resume=str(tmp_path))
    outcomes = sweep.run()
    assert list(after.ran) == [4, 5]
    assert after.ran[4] == before.ran[4]
    assert [outcome.metrics["val/loss"] for outcome in outcomes] == [number / 8 for number in range(6)]
    trials = sweep.trials.all()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    for trial, same in zip(trials, known, strict=False):
        assert trial.params == {
            name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for name, value in same.params.items()
        }


def test_many_sweeps_create_one_database_at_once(tmp_path: Path) -> None:
    url, count = f"sqlite:///{tmp_path}/trials.db", 8
    together, errors, names = threading.Barrier(count), [], []

    def create() -> None:
        try:
            together.wait(30)
            storage = open_storage(url)
            study = patiently(lambda: optuna.create_study(storage=storage, study_name="x", load_if_exists=True))
            names.append(study.study_name)
            trial = study.ask()
            trial.set_user_attr("from", "here")
        except Exception as error:
            errors.append(error)

    # As threads, since processes would import all of it for seconds each; their connections are separate all the same.
    threads = [threading.Thread(target=create) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names == ["x"] * count
    study = optuna.load_study(study_name="x", storage=open_storage(url))
    assert sorted(trial.number for trial in study.get_trials()) == list(range(count))


def test_other_failures_are_not_repeated() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("no such host")

    with pytest.raises(ValueError, match="no such host"):
        patiently(fail)
    assert len(calls) == 1


def test_a_run_of_other_values_is_not_read(make_run) -> None:
    sweep = make_run(0, ["optimizer.lr=0.1", "name='a b'"], {"val/loss": 1.0})
    ended = ended_run(sweep / "0", ["++optimizer.lr=0.1", "++name='a b'", "++seed=1"])
    assert ended
    assert ended.metrics == {"val/loss": 1.0}
    with pytest.raises(LrflowError, match=r"holds a run with optimizer\.lr=0\.1, and this job has optimizer\.lr=0\.2"):
        ended_run(sweep / "0", ["++optimizer.lr=0.2"])
    (sweep / "0/summary.json").write_text(json.dumps({"status": "stopped"}))
    assert ended_run(sweep / "0", ["++optimizer.lr=0.1"]) is None
