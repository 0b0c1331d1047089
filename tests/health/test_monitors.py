"""What detectors know of a run, from its config and its plan."""

from __future__ import annotations

import math

import pytest
from torch import nn

from lrflow.assemble import build_schedule
from lrflow.config import compose
from lrflow.health.monitors import facts_of
from lrflow.health.remedies import lower_lr
from lrflow.layers import Rule, resolve
from lrflow.plan import Plan
from lrflow.schedules import Horizon


@pytest.mark.parametrize(
    ("words", "lr", "momentum", "warmup", "decays"),
    [
        ("optimizer=adamw optimizer.lr=0.01 schedule.warmup=10%", 0.01, 0.9, 40, True),
        ("optimizer=momentum optimizer.lr=0.1 optimizer.momentum=0.8 schedule=constant", 0.1, 0.8, 0, False),
        ("optimizer=sgd optimizer.lr=1 schedule=step", 1.0, 0.0, 0, True),
        ("optimizer=rmsprop optimizer.lr=1e-3", 1e-3, 0.0, 20, True),
        ("optimizer=adagrad optimizer.lr=0.01", 0.01, None, 20, True),
    ],
)
def test_facts(words: str, lr: float, momentum: float | None, warmup: int, decays: bool) -> None:
    config = compose(words.split())
    groups = resolve(nn.Linear(4, 4), [Rule("all", match="*")], lr=config.optimizer.lr)
    facts = facts_of(config, Plan.compile(groups, build_schedule(config), Horizon(400, 20)))
    assert facts.given_lr == lr
    assert (facts.lr, facts.momentum) == (lr, pytest.approx(math.nan if momentum is None else momentum, nan_ok=True))
    assert abs(facts.warmup - warmup) <= 2
    assert (facts.steps, facts.groups, facts.decays) == (400, ("all",), decays)
    assert facts.metric is not None
    assert facts.metric.name == "val/loss"


def test_remedies_are_in_words_of_the_config_where_a_rule_or_a_large_batch_multiplies_the_lr() -> None:
    config = compose(["optimizer.lr=0.01"])
    groups = resolve(nn.Linear(4, 4), [Rule("head", match="weight", lr="10x"), Rule("rest", match="*")], lr=4 * 0.01)
    facts = facts_of(config, Plan.compile(groups, build_schedule(config), Horizon(400, 20)))
    assert facts.lr == pytest.approx(0.4)
    assert lower_lr(facts) == "optimizer.lr=0.00333"
