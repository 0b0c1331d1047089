"""Feedback in a run: when and what it reads, the resulting LR, its messages, and exact resumption."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn import functional

from lrflow.config import compose
from lrflow.errors import ConfigError, LrflowError
from lrflow.feedback import (
    SASA,
    Feedback,
    Greedy,
    Hypergradient,
    KLAdaptive,
    MetricFeedback,
    Plateau,
)
from lrflow.layers import Rule
from lrflow.schedules import Constant, Horizon, Schedule
from lrflow.tasks import train as train_task
from lrflow.training.feedback_loop import FeedbackLoop, make_feedback_loop

UNIFORM = [Rule("all", match="*")]
RUN = Horizon(21, 7)  # the runs of this file: 3 epochs of 7 batches and steps


class Readings(MetricFeedback):
    """Stores its readings, and halves the factor at each."""

    def __init__(self, monitor: str, every: Any = None, least: float = 1e-6) -> None:
        super().__init__(monitor, least, 1.0, every)
        self.values: list[float] = []

    def describe(self) -> str:
        return "reads"

    def update(self, value: float) -> None:
        self.values.append(value)
        self.multiply(0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])
        self.set(state["factor"])


class Logs(pl.LightningModule):
    """Logs a divergence that equals its step, per step and as an epoch's mean."""

    def __init__(self, network: nn.Module, name: str = "train/kl", **how: Any) -> None:
        super().__init__()
        self.model, self.name_of_metric, self.how = network, name, how

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log(self.name_of_metric, float(self.global_step + 1), **self.how)
        return functional.cross_entropy(self.model(batch[0]), batch[1])


@pytest.fixture
def loop() -> Callable[..., FeedbackLoop]:
    """Makes a loop around a feedback, whose messages are in its `told`."""

    def make(feedback: Feedback, horizon: Horizon = RUN) -> FeedbackLoop:
        told: list[str] = []
        made = make_feedback_loop(feedback, horizon, told.append)
        made.told = told  # type: ignore[attr-defined]
        return made

    return make


def factors(run: Any) -> list[float]:
    """Return the used LR divided by the planned LR at each step of this run."""
    name = run.plan.names[-1]
    first = run.resumed.step if run.resumed else 0
    return (np.array(run.column(f"lr/{name}")) / np.array(run.column(f"lr_planned/{name}")))[first:].tolist()


class TestWhenItLooks:
    def test_after_each_validation(self, train: Any, loop: Any, tmp_path: Path) -> None:
        feedback = Readings("val/loss")
        run = train(tmp_path, callbacks=[loop(feedback)], val_every="3 steps")
        assert feedback.values == run.column("val/loss")
        assert len(feedback.values) == 7
        assert factors(run) == pytest.approx([0.5 ** (step // 3) for step in range(21)], rel=1e-12)

    @pytest.mark.parametrize(("every", "steps"), [("2 steps", 2), (None, 7), ("1 epoch", 7), ("50%", 11)])
    def test_at_the_mean_training_loss_since_the_last_reading(
        self, every: Any, steps: int, train: Any, loop: Any, tmp_path: Path
    ) -> None:
        feedback = Readings("train/loss", every)
        run = train(tmp_path, callbacks=[loop(feedback)])
        losses = run.record.losses
        means = [np.mean(losses[end - steps : end]) for end in range(steps, 22, steps)]
        assert feedback.values == pytest.approx(means, rel=1e-6)
        assert factors(run) == pytest.approx([0.5 ** (step // steps) for step in range(21)], rel=1e-12)

    def test_at_complete_accumulation_windows(self, train: Any, loop: Any, tmp_path: Path) -> None:
        """Epochs of 3 steps: 3, 3 and 1 batches."""
        feedback = Readings("train/loss", "2 steps")
        run = train(tmp_path, callbacks=[loop(feedback, Horizon(9, 3))], accumulate=3, val_every="0.5 epochs")
        ends = [0, 6, 10, 14, 20]  # batches before steps 2, 4, 6 and 8
        losses = run.record.losses
        means = [np.mean(losses[first:last]) for first, last in pairwise(ends)]
        assert feedback.values == pytest.approx(means, rel=1e-6)
        assert factors(run) == pytest.approx([0.5 ** (step // 2) for step in range(9)], rel=1e-12)

    def test_at_metrics_that_the_module_logs(
        self, train: Any, loop: Any, network_of_points: Any, tmp_path: Path
    ) -> None:
        feedback = Readings("train/kl", "4 steps")
        train(tmp_path, callbacks=[loop(feedback)], module=Logs(network_of_points()), val_size=0, rules=UNIFORM)
        assert feedback.values == [4.0, 8.0, 12.0, 16.0, 20.0]

    def test_at_an_epochs_mean_once_it_is_known(
        self, train: Any, loop: Any, network_of_points: Any, tmp_path: Path
    ) -> None:
        feedback = Readings("train/kl")
        module = Logs(network_of_points(), on_step=False, on_epoch=True, batch_size=1)
        train(tmp_path, callbacks=[loop(feedback)], module=module, val_size=0, rules=UNIFORM)
        assert feedback.values == [4.0, 11.0, 18.0]

    def test_skipped_steps_give_no_reading(
        self, train: Any, loop: Any, points: Any, network_of_points: Any, tmp_path: Path
    ) -> None:
        class Skips(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = network_of_points()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return functional.cross_entropy(self.model(batch[0]), batch[1]) if batch_idx < 3 else None

        feedback = Readings("train/loss", "2 steps")
        run = train(tmp_path, callbacks=[loop(feedback)], module=Skips(), val_size=0, max_epochs=1, rules=UNIFORM)
        assert feedback.values[0] == pytest.approx(np.mean(run.record.losses[:2]), rel=1e-6)
        assert all(math.isfinite(value) for value in feedback.values)

    def test_just_before_a_step_that_uses_the_new_lr(self, train: Any, loop: Any, tmp_path: Path) -> None:
        """Measured by the weights: plain SGD changes them by the LR times the gradient."""
        rates: list[float] = []

        class Measure(pl.Callback):
            def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
                self.before = module.model.head.weight.detach().clone()

            def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
                weight = module.model.head.weight
                rates.append(((self.before - weight.detach()).norm() / self.gradient).item())

            def on_after_backward(self, trainer: Any, module: Any) -> None:
                self.gradient = module.model.head.weight.grad.norm()

        feedback = Hypergradient(beta=0.1, every=1)
        options = {"optimizer": torch.optim.SGD, "settings": {}, "rules": UNIFORM}
        run = train(tmp_path, callbacks=[loop(feedback), Measure()], **options)
        assert run.column("lr/all") == pytest.approx(rates, rel=1e-3)
        found = (np.array(run.column("lr/all")) / np.array(run.column("lr_planned/all"))).tolist()
        assert found[0] == 1.0
        assert all(now != before for before, now in pairwise(found))
        assert feedback.factor == pytest.approx(found[-1], rel=1e-12)

    def test_an_uncountable_interval_raises(self) -> None:
        with pytest.raises(ConfigError, match=r"feedback\.every = '1 epoch'.*\n.*give a number of steps") as caught:
            make_feedback_loop(Greedy(), Horizon(100))
        assert caught.value.problems[0].key == "feedback.every"
        make_feedback_loop(Greedy(every="1%"), Horizon(100))
        make_feedback_loop(Plateau(), Horizon(100))
        make_feedback_loop(SASA(), Horizon(100))


class TestWhatFollows:
    @pytest.mark.parametrize("tensor_lr", [False, True])
    def test_the_lr_is_planned_times_factor_and_both_are_logged(
        self, tensor_lr: bool, train: Any, loop: Any, tmp_path: Path
    ) -> None:
        run = train(tmp_path, callbacks=[loop(Readings("train/loss", "5 steps"))], tensor_lr=tensor_lr)
        expected = np.array([0.5 ** (step // 5) for step in range(21)])
        for index, name in enumerate(run.plan.names):
            planned = run.plan.lr(np.arange(21))[:, index]
            assert run.column(f"lr_planned/{name}") == planned.tolist()
            assert run.column(f"lr/{name}") == (planned * expected).tolist()

    def test_each_change_is_reported_and_kept(self, train: Any, loop: Any, tmp_path: Path) -> None:
        watching = loop(Plateau("train/loss", patience=0, threshold=10.0, threshold_mode="abs", every="7 steps"))
        options = {"schedule": Schedule(Constant()), "rules": UNIFORM}
        run = train(tmp_path, callbacks=[watching], **options)
        values = [np.mean(run.record.losses[first : first + 7]) for first in (7, 14)]
        assert watching.told == [
            f"feedback: step 14, train/loss {values[0]:.4g}: factor 1 -> 0.1, LR 0.001",
            f"feedback: step 21, train/loss {values[1]:.4g}: factor 0.1 -> 0.01, LR 0.0001",
        ]
        assert [(change["step"], change["factor"]) for change in watching.history] == [(14, 0.1), (21, 0.1 * 0.1)]
        assert [change["value"] for change in watching.history] == pytest.approx(values, rel=1e-6)

    def test_small_changes_are_reported_once_they_double(self, train: Any, loop: Any, tmp_path: Path) -> None:
        watching = loop(Hypergradient(beta=0.3, every=1))
        train(tmp_path, callbacks=[watching], lr=1e-6, max_epochs=6)
        told = [1.0, *(change["factor"] for change in watching.history)]
        assert 1 <= len(watching.history) < 10
        assert all(max(now / then, then / now) >= 2 for then, now in pairwise(told))

    def test_a_nan_reading_is_reported_once(
        self, train: Any, loop: Any, network_of_points: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(Logs):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                self.log("train/kl", math.nan)
                return functional.cross_entropy(self.model(batch[0]), batch[1])

        feedback = KLAdaptive(every="2 steps")
        with caplog.at_level(logging.WARNING, "lrflow"):
            train(tmp_path, callbacks=[loop(feedback)], module=Broken(network_of_points()), val_size=0, rules=UNIFORM)
        assert feedback.factor == 1.0
        (message,) = [record.getMessage() for record in caplog.records if "feedback" in record.getMessage()]
        assert message.startswith("feedback: step 2, train/kl is nan: the factor stays")

    @pytest.mark.parametrize(("monitor", "hint"), [("val/los", "val/loss"), ("train/los", "train/loss")])
    def test_a_missing_metric_raises(self, monitor: str, hint: str, prepare: Any, loop: Any, tmp_path: Path) -> None:
        run = prepare(tmp_path, callbacks=[loop(Readings(monitor))])
        with pytest.raises(LrflowError) as caught:
            run.fit()
        assert str(caught.value) == (
            f"feedback.monitor = '{monitor}': no such metric at step 7; the metrics are train/loss, val/accuracy, "
            f"val/loss\n    did you mean {hint}?"
        )

    def test_a_metric_of_the_epochs_end_is_missing_within_the_epoch(
        self, prepare: Any, loop: Any, network_of_points: Any, tmp_path: Path
    ) -> None:
        module = Logs(network_of_points(), "train/kl", on_step=False, on_epoch=True)
        with pytest.raises(LrflowError, match=r"needs feedback\.every='1 epoch'"):
            prepare(tmp_path, callbacks=[loop(Readings("train/kl", 2))], module=module, val_size=0, rules=UNIFORM).fit()

    def test_a_run_without_a_reading_warns_at_its_end(
        self, train: Any, loop: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "lrflow"):
            train(tmp_path, callbacks=[loop(Plateau())], val_size=0, max_epochs=1)
        assert "feedback: it never acted" in caplog.text

    def test_sharded_weights_are_rejected(
        self, prepare: Any, loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lrflow.training.feedback_loop.SingleDeviceStrategy", DDPStrategy)
        run = prepare(tmp_path, callbacks=[loop(Hypergradient())])
        with pytest.raises(LrflowError, match="feedback=hypergradient needs whole weights"):
            run.fit()


KINDS: dict[str, Callable[[], Feedback]] = {
    "plateau on validation": lambda: Plateau(patience=0, factor=0.5, threshold=0.2),
    "plateau on the training loss": lambda: Plateau("train/loss", patience=0, factor=0.5, threshold=0.9, every=2),
    "greedy": lambda: Greedy(factor=0.8, patience=0, window=3, warmup=1, every=2),
    "hypergradient": lambda: Hypergradient(beta=0.2, every=1),
    "hypergradient, every 4": lambda: Hypergradient(beta=0.2, every=4),
    "stationarity": lambda: SASA(factor=0.5, significance=1e-9, keep=0.9, min_samples=4, every=3),
}
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "plain": {"save_every": "2 steps"},
    "accumulated, validated within windows": {"accumulate": 3, "val_every": "0.5 epochs", "save_every": "2 steps"},
    "momentum, tensor LR": {
        "optimizer": torch.optim.SGD,
        "settings": {"momentum": 0.9},
        "tensor_lr": True,
        "val_every": "2 steps",
        "save_every": "3 steps",
    },
}


def horizon(options: dict[str, Any]) -> Horizon:
    return Horizon(9, 3) if "accumulate" in options else RUN


class TestInterruptedEqualsUninterrupted:
    @pytest.fixture(scope="class")
    def whole(self) -> dict[tuple[str, str], Any]:
        """The uninterrupted runs."""
        return {}

    @pytest.mark.parametrize(
        ("kind", "arrangement", "cut"),
        [
            (kind, *cell)
            for number, kind in enumerate(KINDS)
            for cell in (
                ("plain", (8, 13)[number % 2]),
                # The other interruption; 8 is within a window.
                (("momentum, tensor LR", 13), ("accumulated, validated within windows", 8))[number % 2],
            )
        ],
    )
    def test_every_feedback_at_every_interruption(
        self, kind: str, arrangement: str, cut: int, train: Any, loop: Any, whole: Any, tmp_path: Path
    ) -> None:
        options = ARRANGEMENTS[arrangement]

        def go(folder: Path, **more: Any) -> tuple[Any, FeedbackLoop]:
            watching = loop(KINDS[kind](), horizon(options))
            return train(folder, callbacks=[watching], **options, **more), watching

        if (kind, arrangement) not in whole:
            whole[kind, arrangement] = go(tmp_path / "whole")
        reference, kept = whole[kind, arrangement]
        assert len({round(factor, 9) for factor in factors(reference)}) > 1  # the feedback changed the factor
        broken, _ = go(tmp_path / "broken", interrupt=cut)
        resumed, watching = go(tmp_path / "broken", resume=broken.newest)
        first = resumed.resumed.step
        assert first > 0
        assert resumed.record.rates == reference.record.rates[first:]
        assert resumed.record.losses == reference.record.losses[resumed.resumed.position.seen :]
        assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in reference.weights.items())
        assert resumed.rows() == reference.rows()
        assert watching.history == kept.history
        assert watching.feedback.factor == kept.feedback.factor

    def test_the_factor_applies_from_the_first_step(self, train: Any, loop: Any, tmp_path: Path) -> None:
        broken = train(tmp_path, interrupt=10, callbacks=[loop(Readings("train/loss", "4 steps"))], save_every="1 step")
        resumed = train(tmp_path, resume=broken.newest, callbacks=[loop(Readings("train/loss", "4 steps"))])
        assert (resumed.resumed.step, factors(resumed)[0]) == (10, pytest.approx(0.25))


class TestResumedUnderAnotherConfiguration:
    @pytest.fixture
    def again(self, train: Any, loop: Any, tmp_path: Path) -> Callable[..., Any]:
        """Resumes from step 10 of a run whose factor was 0.25, with another loop."""
        first = train(
            tmp_path / "first", interrupt=10, callbacks=[loop(Readings("train/loss", "4 steps"))], save_every="5 steps"
        )

        def go(*feedback: Feedback) -> tuple[Any, Any]:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            shutil.copytree(first.folder, folder)
            watching = [loop(one) for one in feedback]
            return train(folder, resume=folder / "checkpoints" / first.newest.name, callbacks=watching), watching

        return go

    def test_without_feedback_the_plan_applies(self, again: Any) -> None:
        run, _ = again()
        assert factors(run) == [1.0] * 11

    def test_another_feedback_starts_at_the_plan(self, again: Any) -> None:
        run, (watching,) = again(Plateau())
        assert factors(run) == [1.0] * 11
        assert watching.told[0] == (
            "feedback: the run had Readings at factor 0.25; its state is dropped, and the LR continues from the "
            "planned one"
        )

    def test_another_metric_keeps_only_the_factor(self, again: Any) -> None:
        feedback = Readings("val/loss")
        run, (watching,) = again(feedback)
        assert factors(run)[0] == pytest.approx(0.25)
        assert feedback.values == run.column("val/loss")[1:]
        assert watching.told[0] == (
            "feedback: it read train/loss and reads val/loss now: its state is dropped, its factor of 0.25 is kept"
        )

    def test_other_bounds_and_intervals_apply(self, again: Any) -> None:
        run, (watching,) = again(Readings("train/loss", "5 steps", least=0.4))
        assert factors(run) == pytest.approx([0.4] * 11)
        assert watching.told[0] == "feedback: its factor was 0.25 and is 0.4, within the current bounds"

    def test_the_weights_of_another_model_are_rejected(
        self, train: Any, prepare: Any, loop: Any, tmp_path: Path
    ) -> None:
        """This happens after a rule that freezes a part of the model."""
        broken = train(tmp_path, interrupt=10, callbacks=[loop(Hypergradient())], save_every="5 steps")
        rules = [Rule("body", match="body.*", freeze=True), Rule("head", match="head.*")]
        run = prepare(tmp_path, resume=broken.newest, callbacks=[loop(Hypergradient())], rules=rules)
        with pytest.raises(LrflowError, match="the state of the feedback cannot be resumed"):
            run.fit()


@pytest.mark.usefixtures("undrawn")
class TestFromTheCommandLine:
    """Feedback through `task=train`."""

    @pytest.fixture(scope="class")
    def output(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("outputs")

    @pytest.fixture
    def run(self, output: Path) -> Callable[..., dict[str, Any]]:
        def go(*overrides: str) -> dict[str, Any]:
            small = ["trainer.max_epochs=4", "model=logistic", "trainer.progress=false", f"output={output}"]
            result = train_task.run(compose([*small, *overrides]))
            folder = Path(result["folder"])
            with (folder / "metrics.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            used = [float(row["lr/no_decay"]) / float(row["lr_planned/no_decay"]) for row in rows if row["train/loss"]]
            return {"folder": folder, "used": used, "summary": json.loads((folder / "summary.json").read_text())}

        return go

    def test_the_changes_are_in_the_summary(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """No epoch of 20 steps improves by 10; resumed from a checkpoint in the middle, the run is the same."""
        plateau = ["feedback=plateau", "feedback.patience=0", "feedback.threshold=10", "feedback.threshold_mode=abs"]
        first = run(*plateau, "trainer.checkpoint.keep=null")
        told = capsys.readouterr().out
        assert "feedback: plateau on val/loss (min): x0.1 after 1 readings without improvement; the LR used may" in told
        assert "feedback: step 40, val/loss" in told
        assert "factor 1 -> 0.1, LR" in told
        changes = first["summary"]["feedback"]
        assert [(change["step"], round(change["factor"], 9)) for change in changes] == [
            (40, 0.1),
            (60, 0.01),
            (80, 1e-3),
        ]
        assert first["used"] == pytest.approx([1.0] * 40 + [0.1] * 20 + [0.01] * 20)

        checkpoint = first["folder"] / "checkpoints" / "step-0000060.ckpt"
        again = run(*plateau, f"resume.from={checkpoint}")
        assert again["summary"]["feedback"] == changes
        assert again["used"] == pytest.approx([0.01] * 20)
        capsys.readouterr()
        without = run(f"resume.from={checkpoint}")
        assert without["used"] == [1.0] * 20
        assert "feedback" not in without["summary"]
        assert "feedback: the run had Plateau at factor 0.01; its state is dropped" in capsys.readouterr().out

    def test_a_run_that_fails_keeps_its_changes(self, run: Any, output: Path) -> None:
        with pytest.raises(LrflowError, match="no such metric"):
            run("feedback=plateau", "feedback.monitor=train/f1", "name=fails")
        (folder,) = output.glob("*_fails")
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["feedback"]) == ("failed", [])

    @pytest.mark.parametrize(
        ("overrides", "keys"),
        [
            (["feedback.patience=3"], {"feedback.patience"}),
            (["feedback=plateau", "feedback.patienc=3", "feedback.mode=mn"], {"feedback.patienc", "feedback.mode"}),
            (["feedback=plateau", "feedback.every=3 epochs"], {"feedback.every"}),
            (["feedback=plateau", "trainer.limit_val_batches=0"], {"feedback.monitor"}),
            (
                ["feedback=greedy", "feedback.every=often", "feedback.max_factor=0.5"],
                {"feedback.every", "feedback.max_factor"},
            ),
            (["feedback=sasa", "feedback.significance=2"], {"feedback.significance"}),
            (["feedback=greedy", "feedback.every=0"], {"feedback.every"}),
            (["feedback=greedy", "feedback.every=0%"], {"feedback.every"}),
        ],
    )
    def test_mistakes_are_reported_before_anything_is_built(self, overrides: list[str], keys: set[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            compose(overrides)
        assert {problem.key for problem in caught.value.problems} == keys

    def test_a_target_that_is_not_a_feedback_is_rejected(self, run: Any) -> None:
        with pytest.raises(ConfigError, match="expected a feedback, such as"):
            run("feedback._target_=lrflow.models.Logistic", "feedback.shape=[64]", "feedback.outputs=10")


DDP = """
import sys
import torch
from lrflow.config import compose
from lrflow.tasks import prepare, train
from lrflow.launch import rank

close, loops = prepare.make_feedback_loop, []
def close_and_keep(*settings):
    loops.append(close(*settings))
    return loops[-1]
prepare.make_feedback_loop = close_and_keep

if __name__ == "__main__":
    torch.set_num_threads(1)
    train.run(compose(sys.argv[2:]))
    torch.save({"history": loops[0].history, "factor": loops[0].feedback.factor}, f"{sys.argv[1]}-{rank()}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_one_factor_and_resume_it(python: Any, tmp_path: Path) -> None:
    """The mean training loss covers both processes, and each restores its own sums."""
    (tmp_path / "job.py").write_text(DDP)
    options = [
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=3", "data.batch_size=32", "model=logistic",
        "feedback=greedy", "feedback.every=3", "feedback.factor=0.7", "feedback.patience=0",
        "trainer.checkpoint.every=5 steps", "trainer.checkpoint.keep=null", f"output={tmp_path}/runs",
    ]  # fmt: skip

    def run(name: str, *more: str) -> list[dict[str, Any]]:
        job = python("job.py", name, *options, *more, cwd=tmp_path)
        _, told = job.communicate(timeout=200)
        assert job.returncode == 0, told
        return [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)]

    first, second = run("whole")
    assert first == second
    assert len(first["history"]) > 5
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["feedback"] == first["history"]
    checkpoint = folder / "checkpoints" / "step-0000025.ckpt"  # between two readings
    assert len(torch.load(checkpoint, weights_only=True)["feedback"]["sums"]) == 2
    again = run("again", f"resume.from={checkpoint}")
    assert again == [first, second]
