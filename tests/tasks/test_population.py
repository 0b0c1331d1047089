"""Runs that train together are the runs that they would be alone: the same folders, to within rounding."""

from __future__ import annotations

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import Config, compose
from lrflow.errors import DivergedError, LrflowError, SignalReceived, StoppedError
from lrflow.outcome import Outcome
from lrflow.tasks import evaluate, population, prepare, train
from lrflow.training.machine import varies
from lrflow.vectorized.eligibility import ineligible_because, population_key
from lrflow.vectorized.population import Population, PopulationError

SMALL = ["model.widths=[8]", "model.dropout=0", "trainer=cpu", "data.batch_size=128", "trainer.max_epochs=3"]
SMALL += ["trainer.progress=false", "trainer.log_every=7", "model=mlp"]
MEMBERS = (
    ["optimizer.lr=0.05", "seed=0"],
    ["optimizer.lr=0.2", "seed=1", "optimizer.weight_decay=0"],
    ["optimizer.lr=0.1", "seed=2", "schedule.warmup=20%"],
)


CLIP = ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def jobs(output: Path, common: list[str], members: Any = MEMBERS) -> dict[int, Config]:
    """The configs of a sweep's jobs, each with its folder."""
    found = {}
    for number, own in enumerate(members):
        config = compose([*SMALL, *common, *own, f"output={output}"])
        config._run_folder = output / str(number)
        found[number] = config
    return found


def together(output: Path, common: list[str], members: Any = MEMBERS, **options: Any) -> dict[int, Outcome]:
    options = {"size": 64, "measure": False, "report": print, **options}
    return population.train_together(jobs(output, common, members), **options)


def rows(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, without the times."""
    with (folder / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{key: float(value or "nan") for key, value in row.items() if not varies(key)} for row in found]


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "common",
    [
        ["optimizer=sgd"],
        ["optimizer=momentum", "schedule=one_cycle", "trainer.gradient_clip_val=0.5", "trainer.val_every=4 steps"],
        ["optimizer=adamw", "trainer.max_steps=25", "trainer.val_every=50%", "layers=layer_decay", *CLIP],
        ["optimizer=nesterov", "trainer.val_every=0.4 epochs"],
        ["optimizer=nesterov", "trainer.val_every=2 epochs"],
    ],
    ids=["sgd", "momentum", "adamw", "within epochs", "every other epoch"],
)
def test_each_folder_is_that_of_the_run_alone(common: list[str], tmp_path: Path) -> None:
    found = together(tmp_path / "together", common)
    alone = {number: train.run(config) for number, config in jobs(tmp_path / "alone", common).items()}
    for number, result in alone.items():
        ours, theirs = (tmp_path / name / str(number) for name in ("together", "alone"))
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
        own = dict(found[number].metrics)
        assert found[number].folder == ours
        assert own == pytest.approx({name: value for name, value in result.items() if name != "folder"}, rel=1e-3)
        assert len(rows(ours)) == len(rows(theirs))
        for one, other in zip(rows(ours), rows(theirs), strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)
        assert json.loads((ours / "plan.json").read_text()) == json.loads((theirs / "plan.json").read_text())
        names = sorted(path.name for path in (theirs / "checkpoints").iterdir())
        for name in ("best.ckpt", names[-1]):
            one, other = weights(ours / "checkpoints" / name), weights(theirs / "checkpoints" / name)
            torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=1e-3, atol=1e-5)
            assert one["lrflow"]["position"] == other["lrflow"]["position"]
            assert (one["global_step"], one["lr_schedulers"]) == (other["global_step"], other["lr_schedulers"])
            mine, its = one["optimizer_states"][0], other["optimizer_states"][0]
            assert mine["param_groups"] == its["param_groups"]
            torch.testing.assert_close(mine["state"], its["state"], rtol=1e-3, atol=1e-5)


def test_a_member_is_evaluated_and_resumed_like_any_run(tmp_path: Path) -> None:
    found = together(tmp_path, ["optimizer=adamw"])
    folder = tmp_path / "1"
    result = evaluate.run(compose([*SMALL, *MEMBERS[1], "task=evaluate", f"task.from={folder}"]))
    assert result["test/loss"] == pytest.approx(found[1].metrics["test/loss"], rel=1e-5)
    longer = ["trainer.max_epochs=5", "resume.horizon=rescale", f"resume.from={folder}"]
    resumed = train.run(
        compose([*SMALL[:4], *SMALL[5:], *MEMBERS[1], "optimizer=adamw", *longer, f"output={tmp_path}"])
    )
    assert resumed["folder"] == str(folder)
    assert rows(folder)[-1]["step"] == 50


def test_a_member_that_diverges_fails_alone(tmp_path: Path) -> None:
    members = (["optimizer.lr=0.05"], ["optimizer.lr=1000", "optimizer.weight_decay=1"], ["optimizer.lr=0.1"])
    found = together(tmp_path, ["optimizer=sgd", "schedule=constant", "model.norm=false"], members)
    assert isinstance(found[1].error, DivergedError)
    assert json.loads((tmp_path / "1/summary.json").read_text())["status"] == "diverged"
    assert [found[number].error for number in (0, 2)] == [None, None]
    (alone,) = jobs(
        tmp_path / "alone", ["optimizer=sgd", "schedule=constant", "model.norm=false"], members[2:]
    ).values()
    assert found[2].metrics["val/loss"] == pytest.approx(train.run(alone)["val/loss"], rel=1e-4)


def test_members_that_are_stopped_are_saved_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, before = Population.step, signal.getsignal(signal.SIGTERM)
    done: list[int] = []

    def stopping(self: Population, *given: Any) -> Any:
        done.append(len(done))
        if len(done) == 14:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *given)

    monkeypatch.setattr(population, "verify", lambda *_: "")
    monkeypatch.setattr(Population, "step", stopping)
    found = together(tmp_path, ["optimizer=momentum"])
    assert len(done) == 14
    assert signal.getsignal(signal.SIGTERM) is before
    for number, trained in found.items():
        assert isinstance(trained.error, StoppedError)
        assert json.loads((tmp_path / f"{number}/summary.json").read_text())["status"] == "stopped"
        assert (tmp_path / f"{number}/checkpoints/step-0000014.ckpt").exists()
        assert (tmp_path / f"{number}/checkpoints/best.ckpt").exists()
    resumed = train.run(compose([*SMALL, *MEMBERS[0], "optimizer=momentum", f"resume.from={tmp_path / '0'}"]))
    monkeypatch.undo()
    whole = together(tmp_path / "whole", ["optimizer=momentum"])
    assert resumed["val/loss"] == pytest.approx(whole[0].metrics["val/loss"], rel=1e-4)


def _fails_at(step: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = Population.step, []

    def failing(self: Population, *given: Any) -> Any:
        done.append(len(done))
        if len(done) == step:
            raise error
        return made(self, *given)

    monkeypatch.setattr(population, "verify", lambda *_: "")
    monkeypatch.setattr(Population, "step", failing)


@pytest.mark.parametrize("error", [PopulationError("they differ"), RuntimeError("out of memory")])
def test_a_population_that_fails_leaves_no_files(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_at(14, error, monkeypatch)  # after a validation, which has written metrics and a checkpoint
    (tmp_path / "0").mkdir()
    (tmp_path / "0/notes.txt").write_text("of the user")
    lines: list[str] = []
    found = together(tmp_path, ["optimizer=momentum", "logger=tensorboard"], report=lines.append)
    assert found == {}
    assert str(error) in lines[-1]
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != ".lock"}
    assert left == {"0", "0/notes.txt", "1", "2"}


def test_a_signal_that_ends_a_population_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fails_at(14, SignalReceived(signal.SIGTERM), monkeypatch)
    with pytest.raises(StoppedError):
        together(tmp_path, ["optimizer=momentum"])
    summaries = [json.loads((tmp_path / f"{number}/summary.json").read_text()) for number in range(3)]
    assert [summary["status"] for summary in summaries] == ["stopped"] * 3


@pytest.mark.parametrize("compiling", [0.0, 1e9], ids=["left out", "carried along"])
def test_an_error_at_a_members_validation_ends_only_this_member(
    compiling: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_kept: list[Any] = []
    keep, make = Population.keep, Population.__init__

    def timed(self: Population, *given: Any) -> None:
        make(self, *given)
        self.compiling = compiling

    monkeypatch.setattr(Population, "__init__", timed)
    monkeypatch.setattr(Population, "keep", lambda self, rows: (rows_kept.append(rows), keep(self, rows)))

    class Ending(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.global_step == 20 and trainer.callback_metrics["val/loss"] > 2.25:
                raise LrflowError(f"given up in epoch {trainer.current_epoch}")

    callbacks = prepare._callbacks
    monkeypatch.setattr(prepare, "_callbacks", lambda *given: [*callbacks(*given), Ending()])
    found = together(tmp_path, ["optimizer=sgd"], (["optimizer.lr=1e-4"], ["optimizer.lr=0.5"]))
    assert str(found[0].error) == "given up in epoch 1"
    assert weights(tmp_path / "0/checkpoints/best.ckpt")["global_step"] == 20
    assert found[1].error is None
    assert (rows(tmp_path / "0")[-1]["step"], rows(tmp_path / "1")[-1]["step"]) == (19, 30)
    assert rows_kept == ([] if compiling else [[1]])


ALONE = {
    "optimizer=lion": "Lion is not one of SGD, Adam and AdamW",
    "feedback=plateau": "feedback changes the LR during the run",
    "trainer.accumulate_grad_batches=2": "gradients are accumulated",
    "data.effective_batch_size=256": "gradients are accumulated",
    "trainer.precision=bf16-mixed": "trainer.precision=bf16-mixed",
    "optimizer.lr=auto": "the LR is found before the run",
    "logger=wandb": "W&B logs one run at a time per process",
    "logger.x._target_=pytorch_lightning.loggers.CSVLogger": "a logger of another package may log one run at a time",
    "task=plan": "task=plan trains nothing",
    "health=stop": "a finding may end it before the others",
    "health.plateau.action=stop": "a finding may end it before the others",
    "health.on_overfitting=cooldown": "a finding may end it before the others",
    "health.on_too_low=raise": "a finding may change its LR",
    "trainer.checkpoint.best=2": "several best checkpoints are kept",
    "trainer.checkpoint.every=20 steps": "trainer.checkpoint.every=20 steps saves checkpoints within the run",
    "trainer.checkpoint.keep=null": "trainer.checkpoint.keep keeps checkpoints from within the run",
    "trainer.checkpoint.keep=3": "trainer.checkpoint.keep keeps checkpoints from within the run",
    "health.diverging.action=recover": "it may roll back to an earlier state",
}


@pytest.mark.parametrize("word", ALONE)
def test_the_reason_why_a_run_trains_alone(word: str) -> None:
    assert ineligible_because(compose([*SMALL, word])) == ALONE[word]


@pytest.mark.parametrize("word", ["trainer.checkpoint.every=100%", "trainer.checkpoint.keep=1"])
def test_fewer_checkpoints_than_usual_do_not_part_a_population(word: str) -> None:
    assert ineligible_because(compose([*SMALL, word])) is None


def test_jobs_that_differ_in_more_than_numbers_have_different_keys(tmp_path: Path) -> None:
    words = ["optimizer=sgd", "optimizer=sgd optimizer.lr=0.3 seed=3 schedule=linear", "optimizer=momentum"]
    words += ["optimizer=adamw", "optimizer=sgd model.norm=false", "optimizer=sgd layers=uniform", "optimizer=nesterov"]
    same = [population_key(compose([*SMALL, *word.split()])) for word in words]
    assert same[0] == same[1] == same[2]  # momentum is a number
    assert len(set(same)) == 5


def test_jobs_that_cannot_or_need_not_train_together_are_reported(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(population, "time_ordinary", lambda *_: (1.0, 0.0))
    monkeypatch.setattr(population, "time_together", lambda *_: (2.5, 0.0))
    lines: list[str] = []
    members = (["optimizer=sgd"], ["optimizer=sgd", "seed=1"], ["optimizer=lion"], ["optimizer=adamw"])
    configs = jobs(tmp_path, [], members)
    assert population.train_together(configs, 64, True, lines.append) == {}
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert sorted(lines) == [
        "job 2 runs alone: Lion is not one of SGD, Adam and AdamW",
        "job 3 runs alone: no other job differs from it only in numbers",
        "jobs 0 to 1 run one after the other: training together gains too little: "
        "measured 0.80 times as fast as one after the other, and less than 1.10 may be noise",
    ]


def test_jobs_too_short_to_compile_are_reported(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(population, "time_ordinary", lambda *_: (1e-3, 1.0))
    monkeypatch.setattr(population, "time_together", lambda *_: pytest.fail("it was tried"))
    lines: list[str] = []
    configs = jobs(tmp_path, ["optimizer=sgd", "trainer.compile=true"])
    assert population.train_together(configs, 64, True, lines.append) == {}
    assert lines == [
        "jobs 0 to 2 run one after the other: too short to compile their step; "
        "without trainer.compile they may train together"
    ]


def test_many_jobs_form_several_populations(tmp_path: Path) -> None:
    members = [[f"optimizer.lr={lr}"] for lr in (0.01, 0.02, 0.05, 0.1, 0.2)]
    found = together(tmp_path, ["optimizer=sgd", "trainer.max_steps=2"], members, size=2)
    assert list(found) == [0, 1, 2, 3, 4]
    summaries = [json.loads((tmp_path / str(number) / "summary.json").read_text()) for number in found]
    assert sorted(summary["members"] for summary in summaries) == [1, 2, 2, 2, 2]
    assert [summary["findings"] for summary in summaries] == [[]] * 5


def test_the_timing_leaves_no_files(tmp_path: Path) -> None:
    configs = jobs(tmp_path, ["optimizer=sgd"])
    timing = population._measure(list(configs.values()))
    assert timing.ordinary > 0
    assert timing.together > 0
    assert timing.ratio == pytest.approx(3 * timing.ordinary / timing.together)
    assert replace(timing, compiling=timing.steps * timing.together).ratio == pytest.approx(timing.ratio / 2)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
