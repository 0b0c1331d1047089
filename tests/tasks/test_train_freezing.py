"""Layers that are unfrozen one by one, through the whole of `task=train`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks import plan, train

SHORT = ("trainer.max_epochs=3", "data.batch_size=128", "trainer.log_every=10", "trainer.progress=false")


def run(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the run says at its end, and its training rows."""
    metrics = train.run(compose([f"output={folder}", *SHORT, *overrides]))
    with (Path(metrics["folder"]) / "metrics.csv").open(newline="") as file:
        return metrics, [row for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free_adamw"])
def test_gradual_unfreezing_trains(optimizer: str, tmp_path: Path) -> None:
    metrics, rows = run(tmp_path, f"optimizer={optimizer}", "layers=gradual_unfreezing", "layers.every=5")
    for name, start in {"stage1.linear": 10, "stage2.linear": 5, "head": 0}.items():
        rates = [float(row[f"lr/{name}"]) for row in rows]
        assert rates == [float(row[f"lr_planned/{name}"]) for row in rows]
        assert [rate > 0 for rate in rates] == [step >= start for step in range(len(rows))]
    assert metrics["test/accuracy"] > 0.8
    written = json.loads((Path(metrics["folder"]) / "plan.json").read_text())
    assert [mark["why"] for mark in written["landmarks"] if "unfreezes" in mark["why"]] == [
        "unfreezes: stage2.linear",
        "unfreezes: stage1.linear",
    ]


RULES = (
    "layers.rules=[{name: head, match: 'head.*', settings: {betas: [0.8, 0.9], eps: 1e-10}}, "
    "{name: early, match: 'stage1.*', unfreeze: 3, freeze_after: 50%}, "
    "{name: rest, match: '*'}, {name: none, match: 'lost.*', optional: true}]"
)


def test_a_group_with_settings_that_is_frozen_again_resumes_exactly(same: Any, tmp_path: Path) -> None:
    saving = ("trainer.checkpoint.every=10 steps", "trainer.checkpoint.keep=null", "task.test=false")
    metrics, rows = run(tmp_path / "whole", RULES, *saving)
    folder = Path(metrics["folder"]) / "checkpoints"
    assert [float(row["lr/early"]) > 0 for row in rows] == [3 <= step < 15 for step in range(30)]
    end = torch.load(folder / "step-0000030.ckpt", weights_only=True)
    assert end["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)
    for step in (10, 20):  # before the freezing, and after it
        resumed, _ = run(tmp_path / str(step), RULES, *saving, f"resume={folder / f'step-00000{step}.ckpt'}")
        again = torch.load(Path(resumed["folder"]) / "checkpoints/step-0000030.ckpt", weights_only=True)
        assert same(end["state_dict"], again["state_dict"])
        assert same(end["optimizer_states"], again["optimizer_states"])
    middle = torch.load(folder / "step-0000020.ckpt", weights_only=True)["state_dict"]
    stays = {name for name in middle if torch.equal(middle[name], end["state_dict"][name])}
    assert stays == {name for name in middle if "stage1." in name}
    plain = RULES.replace(", settings: {betas: [0.8, 0.9], eps: 1e-10}", "")
    resumed, _ = run(tmp_path / "plain", plain, *saving, f"resume={folder / 'step-0000020.ckpt'}")
    again = torch.load(Path(resumed["folder"]) / "checkpoints/step-0000030.ckpt", weights_only=True)
    assert {(tuple(g["betas"]), g["eps"]) for g in again["optimizer_states"][0]["param_groups"]} == {
        ((0.9, 0.999), 1e-8)
    }


def test_a_frozen_backbone_keeps_its_batch_norms(tmp_path: Path) -> None:
    rules = "layers.rules=[{name: head, match: 'head.*'}, {name: backbone, match: '*', freeze: true}]"
    metrics, _ = run(tmp_path, "model=cnn", rules, "trainer.max_steps=5")
    (saved,) = Path(metrics["folder"]).glob("checkpoints/step-*.ckpt")
    state = torch.load(saved, weights_only=True)["state_dict"]
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)


@pytest.mark.parametrize(
    ("every", "message"), [("20 steps", "the run has 30 steps"), ("2 epochs", "stage1.linear (step 40)")]
)
def test_a_run_too_short_for_the_last_layer_raises_an_error(every: str, message: str, tmp_path: Path) -> None:
    config = compose([f"output={tmp_path}", *SHORT, "task=plan", "layers=gradual_unfreezing", f"layers.every={every}"])
    with pytest.raises(ConfigError) as caught:
        plan.run(config)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("layers.every", every)
    assert message in problem.message
