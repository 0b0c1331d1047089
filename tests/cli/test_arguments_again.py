"""resume= and task=evaluate: what is taken over from the earlier run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.cli.command import main
from lrflow.config import compose, save_config


def earlier(name: str, *overrides: str) -> Path:
    """The folder of a run with these overrides, which has a checkpoint."""
    folder = Path("outputs") / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step-0000010.ckpt").touch()
    save_config(compose(overrides), folder / "config.yaml")
    return folder


@pytest.mark.parametrize(
    ("before", "typed", "lost"),
    [
        (["feedback=plateau", "feedback.patience=1"], "feedback=none", "feedback"),
        (["layers=gradual_unfreezing", "layers.every=5"], "layers=layer_decay", "layers"),
        (["optimizer=adamw", "optimizer.betas=[0.8,0.9]"], "optimizer=momentum", "optimizer"),
        (["schedule=one_cycle", "schedule.shape.rise=40%"], "schedule=cosine", "schedule"),
    ],
)
def test_another_option_of_a_group_drops_the_earlier_values(
    before: list[str], typed: str, lost: str, task, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = task()
    folder = earlier("first", *before, "seed=3")
    assert main([f"resume={folder}", typed]) == 0, capsys.readouterr().err
    assert ran[0].seed == 3
    assert ran[0].choices[lost] == typed.partition("=")[2]
    assert not [text for text in ran[0].overrides if text.startswith(f"{lost}.")]


@pytest.mark.parametrize("typed", [[], ["optimizer=adamw"], ["schedule=cosine"], ["optimizer.eps=1e-6"]])
def test_the_same_option_keeps_the_earlier_values(typed: list[str], task) -> None:
    ran = task()
    folder = earlier("first", "optimizer=adamw", "optimizer.betas=[0.8,0.9]")
    assert main([f"resume={folder}", *typed]) == 0
    assert ran[0].optimizer.betas == (0.8, 0.9)


def test_evaluate_uses_only_the_named_run(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task(name="evaluate")
    named = earlier("first", "seed=1")
    earlier("second", "seed=2")
    assert main(["task=evaluate", f"resume={named}"]) == 2
    assert f"task.from={named}" in capsys.readouterr().err
    assert not ran
    assert main(["task=evaluate", f"task.from={named}"]) == 0
    assert ran[0].seed == 1


def test_a_plan_uses_the_config_of_the_run_without_resuming_it(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task(name="plan")
    folder = earlier("first", "seed=3")
    assert main(["task=plan", f"resume={folder}"]) == 0
    assert ran[0].seed == 3
    assert main(["task=plan", f"resume={folder}", "resume.horizon=keep"]) == 2
    assert "resume.horizon = keep\n      only task=train uses it" in capsys.readouterr().err
