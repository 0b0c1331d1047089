"""`lrflow translate` as it is typed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]

ARGS = "per_device_train_batch_size: 4\nmax_steps: 50\nwarmup_steps: 10\noutput_dir: out\nlerning_rate: 1e-4\n"


def test_what_it_prints_is_a_recipe_and_what_is_left_is_on_stderr(lrflow_here: Run) -> None:
    Path("args.yaml").write_text(ARGS)
    printed = lrflow_here("translate", "args.yaml")
    written = lrflow_here("translate", "args.yaml", "--out", "options/recipe/mine.yaml")
    assert (printed.returncode, written.returncode) == (0, 0)
    assert Path("options/recipe/mine.yaml").read_text() == printed.stdout
    assert printed.stderr == written.stderr
    assert "did you mean learning_rate?" in printed.stderr
    assert "#   lerning_rate" in printed.stdout
    assert written.stdout.endswith("python -m lrflow --config-dir options recipe=mine task=plan\n")
    plan = lrflow_here("--config-dir", "options", "recipe=mine", "task=plan")
    assert plan.returncode == 0, plan.stderr
    assert "50 steps" in plan.stdout


def test_wrong_words_are_one_problem_each(lrflow_here: Run) -> None:
    Path("args.yaml").write_text(ARGS)
    for words, message in (
        ([], "huggingface: Hugging Face's training arguments"),
        (["nowhere.yaml"], "there is no such file"),
        (["."], "is a folder"),
        (["args.yaml", "--from", "tim"], "did you mean timm?"),
        (["args.yaml", "--devices", "0"], "expected a number of at least 1"),
        (["args.yaml", "--out", "recipe.txt"], "expected a .yaml file"),
    ):
        found = lrflow_here("translate", *words)
        assert (found.returncode, found.stdout) == (2, ""), words
        assert message in found.stderr, words
        assert "1 problem" in found.stderr
