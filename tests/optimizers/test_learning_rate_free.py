"""Optimizers that estimate their LR, and share the estimate among all groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lrflow.layers import Group, Rule, resolve
from lrflow.optimizers import check_groups
from lrflow.schedules import Constant, Schedule

prodigyopt = pytest.importorskip("prodigyopt")
HEAD = Rule("head", match="1.*", lr="10x")
REST = Rule("rest", match="*")


def groups(*rules: Rule) -> list[Group]:
    return resolve(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), rules, 1.0)


@pytest.mark.parametrize(
    "rule",
    [HEAD, Rule("head", match="1.*", schedule=Schedule(Constant(), warmup=3)), Rule("head", match="1.*", lr=0.5)],
    ids=["scaled", "scheduled", "absolute"],
)
def test_groups_with_their_own_lrs_are_an_error(rule: Rule) -> None:
    (problem,) = check_groups(groups(rule, REST), prodigyopt.Prodigy)
    assert problem.key == "layers"
    assert "head, rest" in problem.message
    assert check_groups(groups(rule, REST), torch.optim.AdamW) == []


@pytest.mark.parametrize(
    "rules",
    [
        (REST,),
        (Rule("no_decay", select="bias", weight_decay=0.0), REST),
        (Rule("frozen", match="0.*", freeze=True), REST),
    ],
    ids=["one", "another weight decay", "frozen"],
)
def test_groups_of_one_rate_are_taken(rules: Any) -> None:
    assert check_groups(groups(*rules), prodigyopt.Prodigy) == []


def test_prodigy_itself_raises_at_its_first_step() -> None:
    """Otherwise the check would reject working configurations."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = prodigyopt.Prodigy([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 10.0}])
    sum(weight.sum() for weight in weights).backward()  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="different lr values"):
        optimizer.step()
