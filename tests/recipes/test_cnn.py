"""What the README of the recipe `cnn` says of its plan, which needs no data."""

from __future__ import annotations

import pytest

from lrflow.config import compose
from lrflow.tasks.plan import compile_plan


def test_its_plan() -> None:
    plan = compile_plan(compose(["recipe=cnn"]))
    assert plan.horizon.steps == 1287
    steps = range(plan.horizon.steps)
    for group in range(len(plan.names)):
        rates = plan.lr(steps)[:, group]
        assert rates.argmax() == 386
        assert rates.max() == pytest.approx(0.2)
        assert rates[0] == pytest.approx(0.2 / 25)
        assert rates[-1] < 0.2 / 1e4
    ((momentum, _),) = plan.scheduled_settings
    assert (momentum.name, momentum.low, momentum.high, momentum.inverse) == ("momentum", 0.85, 0.95, True)
    assert sum(group.parameters for group in plan.groups) == 25_978
