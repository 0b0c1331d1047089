"""task=merge, typed: the weights of a decay without decaying, their checkpoint, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.cli import main
from lrflow.training.checkpoint_file import read_checkpoint

FIXED = '''
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        draw = torch.Generator().manual_seed(3)
        return DataLoader(TensorDataset(torch.randn(40, 6, generator=draw, dtype=torch.float64)), 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 6, dtype=torch.float64)), 4)


class Linear(pl.LightningModule):
    """Its gradient is the mean of the batch, whatever the weights are."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(6))

    def training_step(self, batch, index):
        return (self.w * batch[0].mean(0)).sum()

    def validation_step(self, batch, index):
        self.log("val/loss", self.training_step(batch, index))
'''
DIGITS = ["model=cnn", "model.widths=[4,8]", "trainer=cpu", "trainer.progress=false", "data.batch_size=128"]
DIGITS += ["trainer.max_steps=12", "trainer.checkpoint.keep=null", "trainer.checkpoint.every=1 steps"]
CONSTANT = [*DIGITS, "schedule=constant", "trainer.limit_val_batches=1"]


@pytest.fixture
def typed(capsys: Any, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a command with a folder of its own for the runs; gives the exit code and what it printed."""
    torch.set_num_threads(1)

    def go(*words: str, output: Path = tmp_path) -> tuple[int, str]:
        code = main([*words, f"output={output}"])
        told = capsys.readouterr()
        return code, " ".join((told.out + told.err).split())

    return go


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run under a constant LR with all its checkpoints."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("constant")
    assert main([*CONSTANT, f"output={output}"]) == 0
    (folder,) = output.iterdir()
    return folder


def test_on_fixed_gradients_it_equals_the_decayed_run(typed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "fixed_gradients.py").write_text(FIXED)
    monkeypatch.syspath_prepend(tmp_path)
    run = ["trust=fixed_gradients", "model=custom", "model._target_=fixed_gradients.Linear", "data=custom"]
    run += [
        "data._target_=fixed_gradients.Data",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "layers=uniform",
        "optimizer.weight_decay=0",
    ]
    run += ["trainer=cpu", "trainer.progress=false", "trainer.max_epochs=2", "trainer.precision=64-true"]
    kept = ["schedule=constant", "trainer.checkpoint.keep=null", "trainer.checkpoint.every=1 steps"]
    decayed = ["schedule=constant", "schedule.cooldown=60%", "schedule.cooldown_shape=1-sqrt"]
    code, told = typed(*run, *kept, output=tmp_path / "constant")
    assert code == 0, told
    assert typed(*run, *decayed, output=tmp_path / "decayed")[0] == 0
    code, told = typed("trust=fixed_gradients", "task=merge", "task.over=60%", output=tmp_path / "constant")
    assert code == 0, told
    (merged,) = tmp_path.glob("constant/*/checkpoints/merged-*.ckpt")
    (wanted,) = tmp_path.glob("decayed/*/checkpoints/step-0000020.ckpt")
    found, wished = (read_checkpoint(path)["state_dict"]["w"] for path in (merged, wanted))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wished, rtol=0, atol=1e-12)


def test_its_checkpoint_is_evaluated_and_started_from(typed: Any, constant: Path) -> None:
    code, told = typed("task=merge", f"task.from={constant}", "task.as=linear", "task.over=50%")
    assert code == 0, told
    assert "merged 7 checkpoints, of step 6 to 12" in told
    path = constant / "checkpoints" / "merged-linear-over-6-to-step-0000012.ckpt"
    content = read_checkpoint(path)
    assert content["lrflow"]["merged"]["steps"] == list(range(6, 13))
    assert sum(content["lrflow"]["merged"]["shares"]) == pytest.approx(1)
    saved = [read_checkpoint(constant / "checkpoints" / f"step-{n:07d}.ckpt")["state_dict"] for n in range(7, 13)]
    for name, value in content["state_dict"].items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(value, sum(one[name] for one in saved) / 6)  # type: ignore[arg-type]
    assert not torch.equal(content["state_dict"][_mean(content)], saved[-1][_mean(content)])
    (recorded,) = json.loads((constant / "evaluations.json").read_text())
    code, told = typed("task=evaluate", f"task.from={constant}", f"task.weights={path}", "task.split=val")
    assert (code, f"val/loss {recorded['metrics']['val/loss']:.6g}" in told) == (0, True)
    code, told = typed(*CONSTANT, f"model.init_from={path}", "fast=true")
    assert (code, f"weights of {path}: loaded" in told) == (0, True)
    code, told = typed(f"resume={path}")
    assert (code, "holds merged weights" in told, "starts a new run" in told) == (2, True, True)
    code, told = typed("task=merge", f"task.from={constant}", "task.over=50%", "model.widths=[4]")
    assert (code, "another model than the one" in told) == (1, True), told


def test_a_killed_merge_leaves_no_half_file_and_is_made_again(
    typed: Any, killed: Callable[..., None], constant: Path, same: Any
) -> None:
    words = ["task=merge", f"task.from={constant}", "task.over=8"]
    path = constant / "checkpoints" / "merged-1-sqrt-over-8-to-step-0000012.ckpt"
    killed(*words, f"output={constant.parent}", name=path.name)
    assert not path.exists()
    assert len(list(path.parent.glob(".*.part"))) == 1
    code, told = typed(*words)
    assert code == 0, told
    wanted = read_checkpoint(path)
    path.unlink()
    killed(*words, f"output={constant.parent}", name=path.name, before=False)  # not validated yet
    assert typed(*words) == (code, told)
    assert same(read_checkpoint(path), wanted)
    assert not list(path.parent.glob(".*.part"))
    recorded = json.loads((constant / "evaluations.json").read_text())
    assert [one["checkpoint"] for one in recorded].count(f"checkpoints/{path.name}") == 1


def _mean(content: dict[str, Any]) -> str:
    return next(name for name in content["state_dict"] if name.endswith("running_mean"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task.as=1-sqr"], "did you mean 1-sqrt?"),
        (["task.as=constant"], "does not begin at the peak and fall from there"),
        (["task.as=exponential"], "an exponential decay cannot end at 0"),
        (["task.over=13"], "is 13 steps, but the checkpoint is of step 12"),
        (["task.over=12"], "the decay would begin after step 0, but the first checkpoint in"),
        (["task.over=2"], "needs at least 4 checkpoints from step 10 to 12"),
        (["task.as=average"], "keeps no such average a run with average=ema, swa, tail or power"),
        (["task.width=0.1"], "keeps no such average a run with average=power"),
        (["task.width=1"], "expected a number above 0 and at most 0.28"),
        (["task.ovr=2"], "did you mean task.over?"),
        (["task.from=elsewhere"], "expected `last`, an existing run folder"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], told: str, typed: Any, constant: Path) -> None:
    given = words if "from" in words[0] else [f"task.from={constant}", *words]
    code, printed = typed("task=merge", *given)
    assert (code, told in printed) == (2, True), printed


def test_an_average_of_another_width_is_made_afterwards(typed: Any, tmp_path: Path) -> None:
    long = [*DIGITS[:-2], "model=mlp", "model.widths=[8]", "trainer.max_steps=60", "trainer.limit_val_batches=1"]
    long = [word for word in long if word not in ("model=cnn", "model.widths=[4,8]", "trainer.max_steps=12")]
    long += ["task.test=false", "data.batch_size=64"]
    kept = [*long, "average=power", "trainer.checkpoint.keep=null", "trainer.checkpoint.every=10 steps"]
    assert typed(*kept, output=tmp_path / "kept")[0] == 0
    (trained,) = tmp_path.glob("kept/*/checkpoints/step-0000060.ckpt")
    raw = read_checkpoint(trained)["lrflow"]["training"]
    for width in (0.05, 0.07, 0.15):
        folder = tmp_path / str(width)
        assert typed(*long, "average=power", f"average.width={width}", output=folder)[0] == 0
        code, told = typed("task=merge", f"task.width={width}", output=tmp_path / "kept")
        assert code == 0, told
        (merged,) = tmp_path.glob("kept/*/checkpoints/merged-average-width-*.ckpt")
        (own,) = folder.glob("*/checkpoints/step-0000060.ckpt")
        found, wanted = (read_checkpoint(path)["state_dict"] for path in (merged, own))
        merged.unlink()
        apart = sum(float((raw[name] - wanted[name]).norm()) for name in raw if "weight" in name)
        missed = sum(float((found[name] - wanted[name]).norm()) for name in raw if "weight" in name)
        assert missed < (1e-5 if width == 0.05 else 0.2) * apart, width


def test_the_average_that_was_only_kept_is_written(typed: Any, tmp_path: Path) -> None:
    words = [*CONSTANT, "average=tail", "average.evaluate=false", "task.test=false"]
    assert typed(*words)[0] == 0
    code, told = typed("task=merge", "task.as=average")
    assert code == 0, told
    (merged,), (last,) = (tmp_path.glob(f"*/checkpoints/{name}") for name in ("merged-*", "step-0000012.ckpt"))
    (average,) = read_checkpoint(last)["lrflow"]["average"]["averages"]
    found = read_checkpoint(merged)["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in average.items())


def test_a_run_whose_lr_moves_is_refused(typed: Any) -> None:
    assert typed(*DIGITS, "schedule=constant", "schedule.cooldown=50%", "task.test=false")[0] == 0
    code, told = typed("task=merge", "task.over=75%")
    assert (code, "between step 3 and 12 that of the run moves from 0.003 to 0.0005" in told) == (2, True), told
    code, told = typed("task=merge", "task.over=75%", "task.as=linear")
    assert "the LR is constant up to task.from=" in told
    code, told = typed("task=merge", f"task.from={told.partition('task.from=')[2].partition('.ckpt')[0]}.ckpt")
    assert code == 2  # 20% of the run are two steps
