"""The critical batch: its estimate where the noise is known, what follows from it, and the command."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lrflow.cli import main
from lrflow.training.noise_scale import estimate_noise
from lrflow.tuning import critical_batch
from lrflow.tuning.critical_batch import GradientNoiseRun
from lrflow.tuning.critical_batch_record import CriticalBatch

SIZE, START, SPREAD, BATCH = 8, 1.0, 2.0, 16


def run_of(trace: float = 30.0, squared: float = 1.0, batch: float = 64, n: int = 100) -> GradientNoiseRun:
    return GradientNoiseRun(np.arange(n), np.full(n, trace), np.full(n, squared), batch)


@given(st.floats(0.5, 1e5), st.floats(1, 1e5), st.floats(1, 1e5))
def test_steps_and_examples_follow_the_published_trade_off(noise: float, own: float, other: float) -> None:
    run = run_of(noise, batch=own)
    fewest = 1 / run.steps_factor(math.inf)  # steps of this run by the fewest possible
    steps = run.steps_factor(other) * fewest
    examples = steps * other / noise  # by the fewest, which are the critical batch times the fewest steps
    assert (steps - 1) * (examples - 1) == pytest.approx(1, rel=1e-6)
    assert 1 - run.steps_factor(2 * other) / run.steps_factor(other) == pytest.approx(run.saved_by_doubling(other))
    for exponent in (0.5, 1.0):
        best = (1 + noise / own) ** exponent / (1 + noise / other) ** exponent
        assert run.lr_factors(other, [exponent]) == pytest.approx((best, best))


def test_at_the_critical_batch_a_doubling_saves_a_quarter() -> None:
    run = run_of(96.0)
    assert (run.critical, run.interval) == (96.0, (96.0, 96.0))
    assert run.saved_by_doubling(96) == 0.25
    assert CriticalBatch(run, 0.1, True).rates(96) == pytest.approx((0.125, 0.125))
    assert CriticalBatch(run, 0.1, False).rates(96) == pytest.approx((0.1 * 1.25**0.5, 0.125))


def test_the_interval_holds_the_true_value_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critical_batch, "DRAWS", 200)
    held, n = 0, 200
    norms = np.exp(-np.arange(n) / 75)  # |G|^2 falls, as in a run
    true = SIZE / norms.mean()
    for seed in range(50):
        draw = np.random.default_rng(seed)
        halves = np.sqrt(norms / SIZE)[:, None, None] + draw.normal(size=(n, 2, SIZE)) / math.sqrt(BATCH / 2)
        small, large = np.square(halves).sum(2).mean(1), np.square(halves.mean(1)).sum(1)
        run = GradientNoiseRun(np.arange(n), *estimate_noise(small, large, 2, BATCH / 2), BATCH, seed)
        held += run.interval[0] <= true <= run.interval[1]
    assert 40 <= held <= 49


def test_doubts() -> None:
    assert run_of().doubts == []
    assert "at only 30 steps" in run_of(n=30).doubts[0]
    wide = GradientNoiseRun(np.arange(100), np.full(100, 9.0), np.tile([9.0, -8.8], 50).repeat(1), 8)
    assert "no upper limit" in wide.doubts[0]
    assert not math.isfinite(run_of(squared=-1.0).critical)
    assert run_of(trace=-1.0).critical == 0


class Normal(pl.LightningDataModule):
    """Examples from a normal distribution around 0; each is seen once."""

    def train_dataloader(self) -> Any:
        draw = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(SPREAD * torch.randn(BATCH * 400, SIZE, generator=draw)), BATCH)


class Quadratic(pl.LightningModule):
    """The loss of the weights w on an example x is |w - x|^2 / 2, so its gradient is w - x."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.weight = torch.nn.Parameter(torch.full((SIZE,), START))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.weight - batch[0]).square().sum(1).mean() / 2
        if not self.automatic_optimization:
            self.optimizers().step(lambda: loss)  # type: ignore[union-attr]
        return loss


HERE = __name__
OWN = ["task=find", "find=critical_batch", "trainer=cpu", "trainer.progress=false", "trainer.max_epochs=1"]
OWN += ["optimizer=sgd", "schedule=constant", "data=custom", f"data._target_={HERE}.Normal", f"trust={HERE}"]
OWN += ["model=custom", f"model._target_={HERE}.Quadratic", "layers=uniform"]


def test_a_run_on_a_quadratic_gives_what_its_closed_form_gives(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    lr, steps = 0.02, 400
    assert main([*OWN, f"optimizer.lr={lr}"]) == 0
    (folder,) = (tmp_path / "outputs").iterdir()
    found = json.loads((folder / "find.json").read_text())
    trace = SIZE * SPREAD**2
    kept = (1 - lr) ** (2 * np.arange(steps))
    settled = lr**2 * trace / BATCH / (1 - (1 - lr) ** 2)  # E|w|^2 after many steps, of the noise of the batches
    squared = kept * SIZE * START**2 + (1 - kept) * settled
    true = trace / squared.mean()
    low, high = found["interval"]
    assert low < true < high
    assert found["critical_batch"] == pytest.approx(true, rel=0.2)
    assert found["batch"] == BATCH
    best = [lr * (1 + edge / BATCH) / (1 + edge / found["critical_batch"]) for edge in (low, high)]
    assert found["critical_lr"] == pytest.approx(best)
    with (folder / "find.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["step"]) for row in rows] == [*range(steps)]
    assert np.mean([float(row["trace"]) for row in rows]) == pytest.approx(trace, rel=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=50"], "the loss is not finite"),
        (["model.manual=true"], "uses manual optimization"),
    ],
)
def test_a_run_whose_noise_cannot_be_measured(
    words: list[str], message: str, lrflow_here: Callable[..., CompletedProcess[str]]
) -> None:
    done = lrflow_here(*OWN, *words)
    assert done.returncode not in (0, None)
    assert message in " ".join((done.stdout + done.stderr).split())
    assert not [*Path("outputs").iterdir()]


def test_what_the_command_prints_and_writes_on_digits(lrflow_here: Callable[..., CompletedProcess[str]]) -> None:
    short = ["trainer=cpu", "model=logistic", "find.steps=60", "trainer.accumulate_grad_batches=2"]
    done = lrflow_here("task=find", "find=critical_batch", "optimizer=adamw", *short)
    assert done.returncode == 0, done.stderr
    (folder,) = Path("outputs").iterdir()
    assert {path.name for path in folder.glob("find.*")} == {"find.csv", "find.json", "find.png"}
    found = json.loads((folder / "find.json").read_text())
    assert found["batch"] == 128  # of two accumulated batches, whose gradients are those compared
    assert f"critical batch {found['critical_batch']:,} examples" in done.stdout
    assert "as for Adam, if 0.003 is best here" in done.stdout
    assert "this run" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.batch_size=1"], "it needs two examples"),
        (["trainer.precision=16-mixed"], "this precision scales them"),
        (["trainer.strategy=fsdp"], "this strategy shares them"),
        (["find.steps=0"], "above 0"),
        (["find.stesp=10"], "did you mean find.steps?"),
        (["find.kind=critical_bach"], "did you mean critical_batch?"),
        (["optimizer=prodigy"], "estimates the LR itself"),
        (["resume=outputs/none"], "outputs/none"),
    ],
)
def test_bad_input(words: list[str], message: str, lrflow_here: Callable[..., CompletedProcess[str]]) -> None:
    done = lrflow_here("task=find", "find=critical_batch", "trainer.accelerator=cpu", *words)
    assert done.returncode == 2
    assert message in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stdout + done.stderr
