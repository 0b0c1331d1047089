"""L-BFGS and second-order optimizers in Lightning's automatic optimization."""

from __future__ import annotations

import csv
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.optimizers import adapt_to_lightning
from lrflow.tasks import train

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")


class Counted(pl.LightningModule):
    """A small network that counts its evaluations and records its dropout masks."""

    def __init__(self, make: Any, skip: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.make, self.skip = make, skip
        self.kept: list[list[torch.Tensor]] = []
        self.graphs: list[bool] = []
        self.net[2].register_forward_hook(lambda *found: self.kept[-1].append(found[2] != 0))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.kept.append([])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        loss = self.net(batch[0]).square().mean()
        return None if self.skip else loss

    def on_after_backward(self) -> None:
        self.graphs.append(self.net[0].weight.grad.requires_grad)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make(self.parameters())
        adapt_to_lightning(optimizer, self)
        return optimizer


def fit(make: Any, steps: int = 4, skip: bool = False, **options: Any) -> Counted:
    module = Counted(make, skip)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        enable_model_summary=False,
        **quiet,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(module, loader)
    assert trainer.global_step == steps or skip
    return module


def lbfgs(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe")


@pytest.mark.filterwarnings("ignore")
class TestLBFGS:
    def test_each_evaluation_of_a_step_sees_the_same_dropout_and_each_step_another(self) -> None:
        kept = fit(lbfgs).kept
        assert all(len(step) > 1 for step in kept)
        assert all(torch.equal(step[0], mask) for step in kept for mask in step)
        assert not torch.equal(kept[0][0], kept[1][0])

    def test_a_batch_that_the_module_skips_changes_nothing(self) -> None:
        module = fit(lbfgs, skip=True)
        for parameter, start in zip(module.parameters(), Counted(lbfgs).parameters(), strict=True):
            assert torch.equal(parameter, start)

    def test_a_step_is_one_row_with_its_lr_and_ends_at_a_lower_loss(self, tmp_path: Path) -> None:
        asked = ["optimizer=lbfgs", f"output={tmp_path}", "trainer.max_epochs=1", "trainer.progress=false"]
        done = train.run(compose([*asked, "task.test=false", "model=logistic", "data.batch_size=1257"]))
        with (Path(done["folder"]) / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        assert [row["step"] for row in rows] == ["0"]
        assert float(rows[0]["lr/decay"]) == float(rows[0]["lr_planned/decay"]) == 1.0
        assert float(rows[0]["train/loss"]) < 1.0  # it starts at log 10 = 2.3, and a step has several iterations
        assert done["val/accuracy"] > 0.85


REFUSED = {
    "lbfgs": {
        "trainer.accumulate_grad_batches=2": "data.batch_size=128",
        "trainer.gradient_clip_val=1": "clipping distorts",
        "trainer.precision=16-mixed": "bf16-mixed",
        "trainer.devices=2": "one process",
        "trainer.num_nodes=2": "one process",
        "trainer.strategy=ddp": "one process",
    },
    "adahessian": {
        "trainer.compile=true": "differentiates twice",
        "trainer.precision=16-mixed": "bf16-mixed",
        "trainer.devices=[0,1]": "one process",
        "trainer.strategy=fsdp": "one process",
    },
    "sophia": {"trainer.compile=true": "differentiates twice"},
}


@pytest.mark.parametrize("option", REFUSED)
def test_incompatible_settings_are_reported_before_the_run(option: str) -> None:
    for override, words in REFUSED[option].items():
        with pytest.raises(ConfigError) as caught:
            compose([f"optimizer={option}", override])
        (problem,) = caught.value.problems
        assert problem.key == override.partition("=")[0]
        assert words in str(problem)


def test_a_class_whose_checkpoints_cannot_be_loaded_is_an_error() -> None:
    asked = ["optimizer=shampoo", "optimizer._target_=pytorch_optimizer.ScalableShampoo"]
    with pytest.raises(ConfigError, match=r"use lrflow\.optimizers\.shampoo\.Shampoo, which saves all of its state"):
        compose(asked)


def test_on_all_devices_it_is_reported_once_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["optimizer=lbfgs", "trainer.devices=auto"])
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    with pytest.raises(ConfigError, match="one process"):
        train.run(config)


def test_groups_that_differ_in_lr_are_an_error_unlike_weight_decay(tmp_path: Path) -> None:
    asked = ["optimizer=lbfgs", f"output={tmp_path}", "layers=backbone_head", "trainer.max_steps=1"]
    with pytest.raises(ConfigError, match="layers=uniform"):
        train.run(compose(asked))
    train.run(compose([*asked[:2], "layers=no_decay", "trainer.max_steps=1"]))  # L-BFGS has no weight decay


def adahessian(parameters: Any) -> torch.optim.Optimizer:
    return pytorch_optimizer.AdaHessian(parameters, lr=0.01)


def sophia(parameters: Any) -> torch.optim.Optimizer:
    return pytorch_optimizer.SophiaH(parameters, lr=0.01, update_period=3)


@pytest.mark.filterwarnings("ignore")
class TestSecondOrder:
    def test_gradients_keep_their_graph_at_the_steps_that_estimate_the_hessian(self) -> None:
        assert fit(adahessian).graphs == [True] * 4
        assert fit(sophia, 7).graphs == [True, False, False, True, False, False, True]

    def test_all_batches_of_a_window_keep_it(self) -> None:
        assert fit(sophia, 2, accumulate_grad_batches=3).graphs == [True] * 3 + [False] * 3

    @pytest.mark.parametrize("make", [adahessian, sophia])
    def test_nothing_of_a_step_stays_in_memory(self, make: Any) -> None:
        """Gradients with a graph and their parameters keep each other alive until the gradients are dropped."""
        module = Counted(make)
        outputs: list[weakref.ref[torch.Tensor]] = []
        module.net[1].register_forward_hook(lambda *found: outputs.append(weakref.ref(found[2])))
        gc.disable()
        try:
            inputs = torch.randn(32, 4)
            loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=8)
            trainer = pl.Trainer(accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False)
            trainer.fit(module, loader)
        finally:
            gc.enable()
        assert all(parameter.grad is None for parameter in module.parameters())
        assert [output() for output in outputs[:-1]] == [None] * 3
