"""A branch goes on from the last checkpoint that it has in common with the run of another length, and is that run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks import train

TRUNK = ["model.widths=[8]", "model.dropout=0.2", "trainer=cpu", "trainer.progress=false", "data.batch_size=128"]
TRUNK += ["trainer.checkpoint.every=3 steps", "trainer.checkpoint.keep=null", "task.test=false", "model=mlp"]
TRUNK += ["schedule=wsd", "schedule.warmup=2", "schedule.cooldown=25%", "trainer.max_steps=24"]  # an epoch has 10 steps


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train_with(output: Path, *more: str) -> Path:
    """Trains under the options of the trunk and these, the last of a key; gives the run folder."""
    options = {word.partition("=")[0]: word for word in (*TRUNK, f"output={output}", *more)}
    return Path(train.run(compose(list(options.values())))["folder"])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    return partial(train_with, tmp_path)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_with(tmp_path_factory.mktemp("trunk"))


def end(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return torch.load(sorted((folder / "checkpoints").glob("step-*.ckpt"))[-1], weights_only=True)


def began(folder: Path) -> int:
    """The first step that a run made itself."""
    rows = (folder / "metrics.csv").read_text().splitlines()
    return int(rows[1].partition(",")[0])


@pytest.mark.parametrize(
    ("steps", "start", "options"),
    [
        (12, 10, []),  # its cooldown begins at step 9, still at the peak; a checkpoint is saved at an epoch's end, too
        (32, 18, []),  # longer than the trunk, whose own cooldown begins at step 18: that is as far as they agree
        (16, 15, ["schedule.cooldown=1"]),  # another cooldown than the trunk's own
        (24, 12, ["schedule.cooldown=50%"]),  # also at the trunk's own length
    ],
)
def test_a_branch_is_the_run_of_its_length(
    run: Callable[..., Path], trunk: Path, steps: int, start: int, options: list[str]
) -> None:
    of_it = [f"resume.from={trunk}", "resume.horizon=branch"]
    branch = run(f"trainer.max_steps={steps}", *options, *of_it)
    whole = run(f"trainer.max_steps={steps}", *options)
    assert len({trunk, branch, whole}) == 3
    assert began(branch) == start
    mine, theirs = end(branch), end(whole)
    assert mine["global_step"] == theirs["global_step"] == steps
    assert mine["lrflow"]["plan"] == theirs["lrflow"]["plan"]
    assert all(torch.equal(mine["state_dict"][name], weight) for name, weight in theirs["state_dict"].items())
    rows = [(folder / "plan.csv").read_text() for folder in (branch, whole)]
    assert rows[0] == rows[1]


def test_a_branch_of_a_constant_trunk(run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    trunk = run("schedule=constant_with_warmup", "schedule.cooldown=0", "trainer.max_steps=15")
    branch = run("trainer.max_steps=20", f"resume.from={trunk}", "resume.horizon=branch")
    assert began(branch) == 15  # its newest checkpoint; and yet the trunk stays as it is
    assert end(trunk)["global_step"] == 15
    assert "best.ckpt" not in caplog.text  # that of the trunk was copied into the folder of the branch
    whole = run("trainer.max_steps=20")
    weights = end(whole)["state_dict"]
    assert all(torch.equal(weight, weights[name]) for name, weight in end(branch)["state_dict"].items())


def test_a_branch_of_the_trunk_s_own_length_is_the_trunk(
    run: Callable[..., Path], trunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"resume.from={trunk}", "resume.horizon=branch")
    assert f"{trunk} is finished: all 24 steps are done" in capsys.readouterr().out


def test_runs_without_a_common_checkpoint_are_reported(run: Callable[..., Path], trunk: Path) -> None:
    of_it = [f"resume.from={trunk}", "resume.horizon=branch"]
    with pytest.raises(
        ConfigError, match=r"no checkpoint at or before step 0, .* 16 steps(.|\n)*the first is of step 3"
    ):
        run("schedule.warmup=3", "trainer.max_steps=16", *of_it)
    with pytest.raises(ConfigError, match="up to step 12 the run had another LR than a run of 16 steps has: "):
        run("optimizer.lr=0.5", "trainer.max_steps=16", *of_it)


def test_a_group_with_its_own_schedule_is_compared(run: Callable[..., Path]) -> None:
    linear = "schedule: {_target_: lrflow.schedules.Schedule, shape: {_target_: lrflow.schedules.Linear}}"
    own = ["layers=uniform", f'layers.rules=[{{name: head, match: "head.*", {linear}}}, {{name: rest, match: "*"}}]']
    trunk = run(*own)
    with pytest.raises(ConfigError, match="another LR than a run of 16 steps has: head"):
        run(*own, "trainer.max_steps=16", f"resume.from={trunk}", "resume.horizon=branch")
