"""nanoGPT's configs against the rule of its train.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.plan import Plan
from lrflow.translate import Facts, translate
from tests.translate.conftest import of_plan

CONFIG = """# a small GPT
out_dir = 'out'
n_layer = 6
batch_size = 4
gradient_accumulation_steps = 5 * 8
learning_rate = 1e-3 * 2
max_iters = {max_iters}
lr_decay_iters = {decay}
warmup_iters = 30
min_lr = {least}
block_size = 256
"""


@pytest.mark.parametrize(
    ("max_iters", "decay", "least"), [(200, 200, "2e-4"), (200, 150, "2e-4"), (200, 900, "2e-4"), (200, 150, "0.0")]
)
def test_the_lr_is_nanogpts_at_every_update(
    planned: Callable[..., Plan], max_iters: int, decay: int, least: str
) -> None:
    low, peak, warmup = float(least), 2e-3, 30

    def rule(it: int) -> float:
        if it < warmup:
            return peak * (it + 1) / (warmup + 1)
        if it > decay:
            return low
        return low + 0.5 * (1.0 + math.cos(math.pi * (it - warmup) / (decay - warmup))) * (peak - low)

    steps = max_iters + 1 if low else decay
    text = CONFIG.format(max_iters=max_iters, decay=decay, least=least)
    plan = planned(text, steps, name="train_small.py")
    np.testing.assert_allclose(of_plan(plan), [rule(it) for it in range(steps)], rtol=1e-12)


def test_what_the_file_leaves_out_has_nanogpts_defaults(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("n_layer = 4\nlearning_rate = 1e-3\nmax_iters = 100\ncompile = False\ndevice = pick()\n")
    found = translate(path, Facts())
    assert found.values["optimizer"] == {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
    assert found.values["schedule"] == {"warmup": 2000, "floor": "6e-05 lr", "shape_length": 598_000}
    assert (found.values["trainer"]["max_steps"], found.values["clip"]) == (101, {"max_norm": 1.0})
    assert found.values["data"] == {"batch_size": 12, "effective_batch_size": 480}
    assert {*found.left} == {"n_layer", "device"}
    assert "line 5" in found.left["device"]


def test_a_decay_inside_the_warmup_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("warmup_iters = 100\nlr_decay_iters = 50\nmax_iters = 100\n")
    with pytest.raises(ConfigError, match="expected more than warmup_iters, which is 100"):
        translate(path, Facts())
