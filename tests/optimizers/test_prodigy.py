"""optimizer=prodigy: the paper's estimate, exact after a resume, and its messages."""

from __future__ import annotations

import csv
import math
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
from lrflow.runs import newest_checkpoint
from lrflow.tasks import plan, train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies

pytest.importorskip("prodigyopt")

SCALES, START = np.array([3.0, 1.0, 0.1]), np.array([1.0, -2.0, 0.5])


def gradient(x: np.ndarray) -> np.ndarray:
    """Of the sum of scales * x**2 / 2 - x."""
    return SCALES * x - 1.0


def estimated(rates: list[float], d_coef: float, decay: float) -> tuple[np.ndarray, list[float]]:
    """Algorithm 4 of the paper, with the LR kept out of the denominator (its safeguard for warmups).

    Returns:
        The weights, and the estimate before each step.
    """
    beta1, beta2 = 0.9, 0.999
    beta3 = math.sqrt(beta2)
    x, s, m, v = START.copy(), np.zeros(3), np.zeros(3), np.zeros(3)
    d = first = 1e-6
    r, found = 0.0, []
    for rate in rates:
        found.append(d)
        g = gradient(x)
        r = beta3 * r + (d / first) * d * rate * float(g @ (START - x))
        s = beta3 * s + (d / first) * d * g
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d**2 * g**2
        step, d = d * rate, max(d, d_coef * r / float(np.abs(s).sum()))
        x = x - step * decay * x
        x = x - step * m / (np.sqrt(v) + d * 1e-8)
    return x, found


@pytest.mark.parametrize(("d_coef", "decay"), [(1.0, 0.0), (2.0, 0.1)])
def test_the_estimate_is_the_papers(d_coef: float, decay: float) -> None:
    rates = [0.25, 0.5, 0.75, *[1.0] * 40, 0.5, 0.25]
    config = compose(["optimizer=prodigy", f"optimizer.d_coef={d_coef}", f"optimizer.weight_decay={decay}"])
    module = nn.Module()
    module.weight = nn.Parameter(torch.from_numpy(START.copy()))
    groups = resolve(module, [Rule("all", match="*")], config.optimizer.lr, decay)
    optimizer = make_optimizer(config, groups, torch.device("cpu"))
    found = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        found.append(optimizer.param_groups[0]["d"])
        module.weight.grad = torch.from_numpy(gradient(module.weight.detach().numpy()))
        optimizer.step()
    weights, estimates = estimated(rates, d_coef, decay)
    np.testing.assert_allclose(found, estimates, rtol=1e-9)
    np.testing.assert_allclose(module.weight.detach().numpy(), weights, rtol=1e-9)
    assert estimates[-1] > 1e-3  # it has left the first estimate far behind


CONFIG = ("optimizer=prodigy", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.checkpoint.keep=null")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]


def filled(folder: Path) -> list[dict[str, str]]:
    """Return the cells with a value: what was measured before a run was resumed is no column of its new folder."""
    return [{name: text for name, text in row.items() if text} for row in rows(folder)]


class TestRun:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of a run on digits."""
        output = tmp_path_factory.mktemp("whole")
        every = "trainer.max_epochs=4", "trainer.checkpoint.every=13 steps"
        metrics = train.run(compose([*CONFIG, *every, f"output={output}"]))
        assert metrics["test/accuracy"] > 0.9
        return Path(metrics["folder"])

    def test_the_estimate_and_the_lr_it_makes_are_logged(self, whole: Path) -> None:
        steps = [row for row in rows(whole) if row["train/loss"]]
        for name in ("no_decay", "decay"):
            estimate = [float(row[f"lr_estimate/{name}"]) for row in steps]
            assert estimate[0] == 1e-6
            assert sorted(estimate) == estimate
            assert 1e-4 < estimate[-1] < 1e-1
            for row, d in zip(steps, estimate, strict=True):
                assert float(row[f"lr_effective/{name}"]) == float(row[f"lr/{name}"]) * d
        state = read_checkpoint(whole / "checkpoints/step-0000026.ckpt")["optimizer_states"][0]
        assert {group["d"] for group in state["param_groups"]} == {float(steps[26]["lr_estimate/decay"])}

    @pytest.mark.parametrize("step", [13, 52])
    def test_a_resumed_run_has_the_same_estimate(self, step: int, whole: Path, tmp_path: Path) -> None:
        checkpoint = whole / f"checkpoints/step-{step:07d}.ckpt"
        every = "trainer.max_epochs=4", "trainer.checkpoint.every=13 steps"
        metrics = train.run(compose([*CONFIG, *every, f"output={tmp_path}", f"resume.from={checkpoint}"]))
        again, reference = filled(Path(metrics["folder"])), filled(whole)
        assert again == [row for row in reference if int(row["step"]) >= step]
        ends: list[Any] = []
        for folder in (Path(metrics["folder"]), whole):
            newest = newest_checkpoint(folder)
            assert newest is not None
            ends.append(read_checkpoint(newest))
        assert ends[0]["optimizer_states"][0]["param_groups"] == ends[1]["optimizer_states"][0]["param_groups"]
        assert all(torch.equal(tensor, ends[1]["state_dict"][name]) for name, tensor in ends[0]["state_dict"].items())


def test_another_lr_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.run(compose(["task=plan", "optimizer=prodigy", "optimizer.lr=0.003", f"output={tmp_path}"]))
    message = "Prodigy estimates the LR itself; optimizer.lr is a multiplier on it and is 1 in its paper, found 0.003"
    assert f"warning: {message}\n" in capsys.readouterr().out


def test_groups_with_their_own_lrs_are_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Prodigy estimates one LR for all parameters"):
        plan.run(compose(["task=plan", "optimizer=prodigy", "layers=backbone_head", f"output={tmp_path}"]))
