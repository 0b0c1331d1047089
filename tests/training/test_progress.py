"""Progress output: a bar on a terminal, one line per validation elsewhere."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from lrflow.layers import Rule
from lrflow.training.progress import PlanColumn, ProgressBar, SpeedColumn
from lrflow.wording import sparkline

HEAD = [Rule("head", match="head.*", lr="10x"), Rule("rest", match="*")]


class Shown:
    """Makes a progress bar that writes to a string."""

    def __init__(self, steps: int, bar: bool) -> None:
        self.text = io.StringIO()
        console = Console(file=self.text, force_terminal=bar, width=120, color_system=None)
        self.bar = ProgressBar(steps, console, bar)

    def options(self) -> dict[str, Any]:
        return {"callbacks": [self.bar]}


def test_off_a_terminal_it_writes_a_line_per_validation(train: Any, tmp_path: Path) -> None:
    shown = Shown(21, bar=False)
    run = train(tmp_path, rules=[Rule("all", match="*")], **shown.options())
    lines = shown.text.getvalue().splitlines()
    validations = [row for row in run.rows() if row["val/loss"]]
    losses, rates = run.column("train/loss"), run.column("lr/all")
    assert lines == [
        f"epoch {epoch}/3  step {7 * epoch}  loss {losses[7 * epoch - 1]:.4g}  lr {rates[7 * epoch - 1]:.3g}  "
        f"val/loss {float(row['val/loss']):.4g}  val/accuracy {float(row['val/accuracy']):.4g}"
        for epoch, row in enumerate(validations, 1)
    ]


def test_it_shows_the_range_of_lrs_and_the_epochs_of_the_plan(train: Any, tmp_path: Path) -> None:
    shown = Shown(14, bar=False)
    run = train(tmp_path, rules=HEAD, max_epochs=-1, max_steps=14, **shown.options())
    last = run.plan.lr(13)
    assert shown.text.getvalue().splitlines()[-1].startswith("epoch 2/2  step 14  loss ")
    assert f"  lr {min(last):.3g}..{max(last):.3g}  val/loss" in shown.text.getvalue()


def test_before_the_first_step_it_shows_no_loss_and_no_lr(prepare: Any, tmp_path: Path) -> None:
    shown = Shown(21, bar=False)
    run = prepare(tmp_path, **shown.options())
    run.trainer.validate(run.module, datamodule=run.data, verbose=False)
    (line,) = shown.text.getvalue().splitlines()
    assert "step 0  val/loss " in line


def test_the_bar_moves_to_the_end(train: Any, tmp_path: Path) -> None:
    shown = Shown(21, bar=True)
    train(tmp_path, **shown.options())
    last = next(line for line in reversed(shown.text.getvalue().splitlines()) if "training" in line)
    assert "21/21" in last
    assert all(word in last for word in ("epoch 3/3", "loss ", "lr ", "it/s"))


def test_a_narrow_terminal_keeps_steps_plan_and_time(train: Any, tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=70, color_system=None)
    train(tmp_path, callbacks=[ProgressBar(21, console, True)])
    last = next(line for line in reversed(text.getvalue().splitlines()) if "21/21" in line)
    assert all(word in last for word in ("epoch 3/3", "loss ", "it/s"))


def test_the_bar_shows_the_plan_and_where_the_run_is(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, rules=HEAD)
    column = PlanColumn()
    column.follow(run.plan)
    highest = run.plan.lr([at * 21 // 16 for at in range(16)]).max(axis=1)
    assert column.sparks == sparkline(highest)
    assert column.sparks[0] != column.sparks[-1]
    for done, here in ((0, 0), (10, 7), (21, 15)):
        text = column.render(SimpleNamespace(completed=done, total=21))  # type: ignore[arg-type]
        marked = [span for span in text.spans if "reverse" in str(span.style)]
        assert [(span.start, span.end) for span in marked] == [(here, here + 1)], done
    assert SpeedColumn().render(SimpleNamespace(finished_speed=None, speed=12.34)).plain == "12.3 it/s"  # type: ignore[arg-type]


def test_the_bar_of_a_resumed_run_starts_at_its_step(train: Any, tmp_path: Path) -> None:
    broken = train(tmp_path, interrupt=10, save_every="5 steps")
    shown = Shown(21, bar=True)
    starts: list[float] = []
    start = shown.bar._bar.start
    shown.bar._bar.start = lambda: (starts.append(shown.bar._bar.tasks[0].completed), start())
    train(tmp_path, resume=broken.newest, **shown.options())
    assert starts == [10.0]


def test_the_bar_stops_when_a_run_fails(train: Any, tmp_path: Path) -> None:
    shown = Shown(21, bar=True)
    train(tmp_path, interrupt=5, **shown.options())
    assert not shown.bar._bar.live.is_started


@pytest.mark.parametrize("bar", [True, False])
def test_a_run_without_validation_shows_its_loss(bar: bool, train: Any, tmp_path: Path) -> None:
    shown = Shown(21, bar)
    train(tmp_path, val_size=0, **shown.options())
    assert ("loss" in shown.text.getvalue()) == bar


class Foreign(pl.LightningModule):
    """Names its metrics like projects written without lrflow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("grip", 0.25, prog_bar=True)
        self.log("hidden", 9.0)
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val_acc", 0.5)
        self.log("quality", 0.75)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("bar", [True, False])
def test_validation_and_prog_bar_metrics_of_any_name_are_shown(bar: bool, tmp_path: Path) -> None:
    shown = Shown(2, bar)
    loader = torch.utils.data.DataLoader(torch.ones(2, 1))
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[shown.bar], default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Foreign(), loader, loader)
    text = shown.text.getvalue()
    assert all(told in text for told in ("val_acc 0.5", "quality 0.75", "grip 0.25"))
    assert "hidden" not in text


def test_a_sparkline_is_relative_to_the_largest_value() -> None:
    assert sparkline([0, 0.125, 0.5, 0.999, 1.0, math.nan]) == "▁▂▅██▁"
    assert (sparkline([0.0, 0.0]), sparkline([])) == ("▁▁", "")
