"""The schedule-free options: the paper's three sequences, and their default schedule."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrflow.assemble import make_optimizer
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.layers import Rule, resolve
from lrflow.schedules import Duration
from lrflow.tasks import evaluate, train
from lrflow.training.checkpoint_file import read_checkpoint

pytest.importorskip("schedulefree")

OPTIONS = ("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd")
SCALES = np.array([3.0, 1.0, 0.1])


def gradient(y: np.ndarray) -> np.ndarray:
    """Of the sum of scales * y**2 / 2 - y."""
    return SCALES * y - 1.0


def averaged(rates: list[float], beta: float, move: Callable[[int, np.ndarray], np.ndarray]) -> tuple[Any, Any]:
    """Algorithm 1 of the paper: y between z and x, a step of z, and x the average weighted by the largest LR squared.

    Args:
        rates: the LR of each step.
        beta: where y is between z (0) and x (1).
        move: what the LR multiplies, from the step and y.

    Returns:
        y of the next step, and x.
    """
    z = x = np.array([1.0, -2.0, 0.5])
    total = largest = 0.0
    for step, rate in enumerate(rates):
        y = (1 - beta) * z + beta * x
        z = z - rate * move(step, y)
        largest = max(largest, rate)
        total += largest**2
        x = x + (z - x) * (largest**2 / total)
    return (1 - beta) * z + beta * x, x


def trained(option: str, rates: list[float], overrides: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """The same by the option's own optimizer."""
    config = compose([f"optimizer={option}", *overrides])
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    groups = resolve(module, [Rule("all", match="*")], config.optimizer.lr, config.optimizer.node()["weight_decay"])
    optimizer: Any = make_optimizer(config, groups, torch.device("cpu"))
    optimizer.train()
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        module.weight.grad = torch.from_numpy(gradient(module.weight.detach().numpy()))
        optimizer.step()
    y = module.weight.detach().numpy().copy()
    optimizer.eval()
    return y, module.weight.detach().numpy()


WARMED = [0.05, 0.1, *[0.15] * 10]


class TestTheAverageOfThePaper:
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_sgd(self, decay: float) -> None:
        expected = averaged(WARMED, 0.9, lambda _, y: gradient(y) + decay * y)
        found = trained("schedule_free_sgd", WARMED, (f"optimizer.weight_decay={decay}",))
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_adamw(self, decay: float) -> None:
        second = np.zeros(3)

        def move(step: int, y: np.ndarray) -> np.ndarray:
            nonlocal second
            second = 0.999 * second + 0.001 * gradient(y) ** 2
            return gradient(y) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8) + decay * y

        expected = averaged(WARMED, 0.9, move)
        found = trained("schedule_free_adamw", WARMED, (f"optimizer.weight_decay={decay}",))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


class TestTheScheduleTheyBring:
    @pytest.mark.parametrize("option", OPTIONS)
    def test_it_stays_at_the_peak(self, option: str) -> None:
        config = compose([f"optimizer={option}"])
        radam = option == "schedule_free_radam"
        assert config.choices["schedule"] == ("constant" if radam else "constant_with_warmup")
        assert config.schedule.node()["shape"]["_target_"] == "lrflow.schedules.Constant"
        assert (config.schedule.warmup.value == 0) == radam

    @pytest.mark.parametrize("order", [1, -1])
    def test_typed_choices_take_precedence(self, order: int) -> None:
        typed = ["optimizer=schedule_free_sgd", "schedule=linear", "schedule.warmup=7%"][::order]
        config = compose(typed)
        assert (config.choices["schedule"], config.schedule.warmup) == ("linear", Duration.parse("7%"))

    def test_a_recipes_choices_take_precedence(self, tmp_path: Path) -> None:
        (tmp_path / "recipe").mkdir()
        text = "# @package _global_\ndefaults:\n  - override /optimizer: schedule_free_sgd\n"
        (tmp_path / "recipe" / "free.yaml").write_text(text)
        (tmp_path / "recipe" / "own.yaml").write_text(f"{text}  - override /schedule: rex\n")
        assert compose(["recipe=free"], tmp_path).choices["schedule"] == "constant_with_warmup"
        assert compose(["recipe=own"], tmp_path).choices["schedule"] == "rex"

    def test_others_keep_theirs(self) -> None:
        assert compose(["optimizer=sgd"]).choices["schedule"] == "cosine"


RESNET = ("model=resnet", "model.width=8", "model.blocks=[1,1,1]", "trainer.accelerator=cpu", "trainer.progress=false")


@pytest.mark.parametrize("option", ["schedule_free_adamw", "schedule_free_sgd"])
def test_a_network_with_batch_norm_learns_and_is_evaluated_as_the_run_found(option: str, tmp_path: Path) -> None:
    """Through the real tasks and checkpoints: validation of each step, best checkpoint, final test."""
    every = "trainer.val_every=0.5 epochs", "trainer.checkpoint.every=10 steps", "trainer.checkpoint.keep=null"
    config = [*RESNET, *every, f"optimizer={option}", "trainer.max_epochs=3", f"output={tmp_path}"]
    metrics = train.run(compose(config))
    assert metrics["test/accuracy"] > 0.9
    folder = Path(metrics["folder"])
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    validated = {int(row["step"]) + 1: row for row in rows}
    checkpoints = [folder / f"checkpoints/step-{step:07d}.ckpt" for step in (10, 40, 60)]
    for checkpoint in [*checkpoints, folder / "checkpoints/best.ckpt"]:
        found = evaluate.run(compose([*config, "task=evaluate", "task.split=val", f"task.from={checkpoint}"]))
        row = validated[read_checkpoint(checkpoint)["global_step"]]
        assert found["val/accuracy"] == float(row["val/accuracy"])
        assert math.isclose(found["val/loss"], float(row["val/loss"]), rel_tol=0.0, abs_tol=0.0)
    again = evaluate.run(compose([*config, "task=evaluate", f"task.from={checkpoints[-1]}"]))
    assert again["test/accuracy"] == metrics["test/accuracy"]


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("optimizer.warmup_steps=50", "optimizer.warmup_steps", "schedule.warmup=50"),
        ("trainer.strategy=fsdp", "trainer.strategy", "trainer.strategy=ddp"),
    ],
)
def test_incompatible_settings_are_reported_with_the_config(override: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["optimizer=schedule_free_adamw", override])
    (problem,) = caught.value.problems
    assert problem.key == key
    assert hint in str(problem.hint)
