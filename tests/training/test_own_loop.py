"""Plans of modules for loops of one's own: the LRs that the loop uses, wrong arguments, and an interrupted Trainer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.layers import Rule
from lrflow.plan import Plan
from lrflow.schedules import Cosine, Schedule, Step
from lrflow.tasks.plan import compile_plan
from lrflow.training.own_loop import Planned, plan_module


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


class Lit(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.rates: list[float] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e9)  # is replaced


def loader() -> DataLoader[Any]:
    """12 equal batches: Lightning does not go on within an epoch."""
    return DataLoader(TensorDataset(torch.linspace(-1, 1, 4).repeat(48, 1)), 4)


def trainer(folder: Path, steps: int, plan: Plan, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[Planned(plan)], logger=False, default_root_dir=folder,  # type: ignore[arg-type]
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def test_the_plan_of_a_module_is_that_of_the_same_config() -> None:
    config = compose(["horizon.steps=40", "task=plan", "model=mlp", "optimizer.lr=0.02", "schedule.warmup=10%"])
    whole = compile_plan(config)
    from lrflow import assemble
    from lrflow.training import planned_module

    own = plan_module(planned_module(assemble.build_module(config)), steps=40, lr=0.02, warmup="10%")
    assert own.fingerprint == whole.fingerprint
    optimizer, scheduler = own.build()
    assert optimizer.param_groups[1]["weight_decay"] == 0.05  # of the option
    for step in range(40):
        assert [group["lr"] for group in optimizer.param_groups] == own.lr(step)[: len(optimizer.param_groups)].tolist()
        optimizer.step()
        scheduler.step()


def test_classes_schedules_and_rules_are_taken_as_objects() -> None:
    rules = [Rule("head", match="2.*", lr="10x"), Rule("rest", match="*")]
    schedule = Schedule(Cosine(), floor=0.1)
    plan = plan_module(
        network(),
        steps=10,
        optimizer=torch.optim.SGD,
        lr=0.1,
        momentum=0.9,
        schedule=schedule,
        cooldown=2,
        layers=rules,
    )
    expected = Schedule(Cosine(), floor=0.1, cooldown=2)
    assert plan.groups[0].schedule == expected
    np.testing.assert_array_equal(plan.lr(3), [1.0 * expected(3, plan.horizon), 0.1 * expected(3, plan.horizon)])
    optimizer, _ = plan.build()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    optimizer, _ = plan_module(network().to("meta"), steps=10).build()
    assert not optimizer.defaults["fused"]  # which a CPU would have
    epochs = plan_module(network(), steps=10, steps_per_epoch=2, schedule=Step(every="2 epochs", gamma=0.5), lr=1.0)
    assert epochs.lr(4)[0] == 0.5


def test_wrong_arguments_are_all_named() -> None:
    sgd = torch.optim.SGD
    wrong: dict[str, dict[str, Any]] = {
        "did you mean adamw.*did you mean cosine.*did you mean no_decay.*steps = -3": {
            "optimizer": "adamww",
            "schedule": "cosin",
            "layers": "no_decy",
            "steps": -3,
        },
        "expected the peak LR": {"optimizer": sgd, "steps": 3},
        "expected an option's name or an optimizer's class": {"optimizer": 3, "steps": 3},
        "did you mean momentum": {"optimizer": sgd, "lr": 0.1, "momentun": 0.9, "steps": 3},
        "made of others": {"optimizer": "muon", "steps": 3},
        "only lrflow's own training": {"layers": "gradual_unfreezing", "steps": 50},
        "warmup.*every duration|epoch": {"warmup": "2 epochs", "steps": 50},
        "rules of lrflow": {"layers": [3], "steps": 5},
    }
    for message, arguments in wrong.items():
        with pytest.raises(ConfigError) as raised:
            plan_module(network(), **arguments)
        assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)


def test_a_trainer_follows_the_plan_and_resumes_it(tmp_path: Path, same: Any) -> None:
    def fit(folder: Path, *, stop: int | None = None, resume: Path | None = None) -> tuple[Lit, pl.Trainer]:
        module = Lit()
        plan = plan_module(module, steps=12, optimizer="sgd", lr=0.1, schedule="linear")

        class Stop(pl.Callback):
            def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
                if trainer.global_step == stop:
                    trainer.save_checkpoint(folder / "at.ckpt")
                    raise KeyError

        run = trainer(folder, 12, plan, enable_checkpointing=False)
        run.callbacks.append(Stop())  # type: ignore[attr-defined]
        try:
            run.fit(module, loader(), ckpt_path=resume)
        except KeyError:
            assert stop is not None
        return module, run

    whole, run = fit(tmp_path)
    assert whole.rates == run.callbacks[0].plan.lr(range(12))[:, 0].tolist()  # type: ignore[attr-defined]
    fit(tmp_path, stop=7)
    resumed, again = fit(tmp_path, resume=tmp_path / "at.ckpt")
    assert resumed.rates == whole.rates[7:]
    assert same(dict(resumed.state_dict()), dict(whole.state_dict()))
    assert again.global_step == 12


def test_a_trainer_of_another_length_or_plan_is_refused(tmp_path: Path) -> None:
    module = Lit()
    with pytest.raises(ConfigError, match=r"steps = 12: the plan has 12 steps, and the Trainer would make 20"):
        trainer(tmp_path, 20, plan_module(module, steps=12)).fit(module, loader())
    with pytest.raises(ConfigError, match="expected the plan of a module, got Plan"):
        trainer(tmp_path, 12, compile_plan(compose(["horizon.steps=3", "task=plan"])))
    with pytest.raises(ConfigError, match=r"would not train|no group"):  # the plan is of another module
        trainer(tmp_path, 12, plan_module(network(), steps=12)).fit(Lit(), loader())
    free = pytest.importorskip("schedulefree").SGDScheduleFree
    with pytest.raises(ConfigError, match=r"use lrflow\.train"):
        trainer(tmp_path, 12, plan_module(module, steps=12, optimizer=free, lr=0.1, schedule="constant"))
