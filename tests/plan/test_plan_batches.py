"""Plans whose batch changes: LRs, files and fingerprint; and that the batch does what a decay of the LR would do."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lrflow.layers import Rule, resolve
from lrflow.plan import Plan
from lrflow.schedules import Constant, Cosine, Duration, Horizon, Schedule, Step
from lrflow.schedules.batch_schedule import compile_batches

LR = 0.05


def plan_of(schedule: Schedule, horizon: Horizon, follows: tuple[str, int] | None = None) -> Plan:
    groups = resolve(torch.nn.Linear(2, 1), [Rule("all", match="*")], lr=LR)
    return Plan.compile([replace(group, batch=follows) for group in groups], schedule, horizon)


def batches(*sizes: tuple[str, int], samples: int) -> Horizon:
    return compile_batches([(Duration.parse(at), size) for at, size in sizes], max_samples=samples)


def walked(plan: Plan, size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The LR and the batch of each step of a plan."""
    steps = np.arange(plan.horizon.steps)
    batch = plan.horizon.batch
    return plan.lr(steps)[:, 0], batch.sizes_at(steps) if batch else np.full(len(steps), float(size))


def expected(rates: np.ndarray, sizes: np.ndarray, curvature: float = 1.0, noise: float = 1.0) -> dict[int, float]:
    """The expected loss of SGD on a noisy quadratic from x = 3, in closed form, by the samples that were seen."""
    square, seen, losses = 9.0, 0, {}
    for rate, size in zip(rates, sizes, strict=True):
        square = (1 - rate * curvature) ** 2 * square + rate**2 * noise / size
        seen += int(size)
        losses[seen] = curvature * square / 2
    return losses


def relative(one: dict[int, float], other: dict[int, float], after: int) -> float:
    """The largest relative difference of two losses where both were computed, after so many samples."""
    both = [seen for seen in one.keys() & other.keys() if seen > after]
    assert len(both) > 20
    return max(abs(one[seen] / other[seen] - 1) for seen in both)


HALVED = Schedule(Step(every="50%", gamma=0.5))


def test_twice_the_batch_is_half_the_lr() -> None:
    """Smith et al., 2017 (arXiv 1711.00489), as exact as a step of SGD is small."""
    decayed = expected(*walked(plan_of(HALVED, Horizon(400, None, 8.0)), 8))
    grown = expected(*walked(plan_of(Schedule(Constant()), batches(("0", 8), ("1600 samples", 16), samples=3200))))
    assert relative(grown, decayed, 1600) < LR / 2
    neither = expected(*walked(plan_of(Schedule(Constant()), Horizon(400, None, 8.0)), 8))
    both = expected(*walked(plan_of(HALVED, batches(("0", 8), ("1600 samples", 16), samples=3200))))
    assert relative(neither, decayed, 1600) > 0.4
    assert relative(both, decayed, 1600) > 0.4


def test_many_runs_of_the_noisy_quadratic_agree() -> None:
    """The same by simulation: 4,000 runs each, whose mean loss is known to 2.3%."""
    generator = np.random.default_rng(0)
    means = []
    for rates, sizes in (
        walked(plan_of(HALVED, Horizon(400, None, 8.0)), 8),
        walked(plan_of(Schedule(Constant()), batches(("0", 8), ("1600 samples", 16), samples=3200))),
    ):
        at = np.full(4000, 3.0)
        for rate, size in zip(rates, sizes, strict=True):
            at -= rate * (at + generator.standard_normal(4000) / np.sqrt(size))
        means.append(float((at**2).mean() / 2))
    assert means[1] == pytest.approx(means[0], rel=0.1)
    assert means[0] == pytest.approx(LR / 2 / 2 / 8 / 2, rel=0.1)  # eta sigma^2 / (4 B), of the last LR


def test_without_noise_the_way_is_the_same_exactly() -> None:
    """A constant gradient: half the LR at twice as many steps."""
    rates, _ = walked(plan_of(HALVED, Horizon(400, None, 8.0)), 8)
    grown, sizes = walked(plan_of(Schedule(Constant()), batches(("0", 8), ("1600 samples", 16), samples=3200)))
    assert rates.sum() == pytest.approx(grown.sum(), rel=1e-12)
    # with linear scaling, twice the batch at twice the LR: the same way per sample as one batch at one LR
    horizon = batches(("0", 8), ("1600 samples", 16), samples=3200)
    scaled, sizes = walked(plan_of(Schedule(Constant()), horizon, ("linear", 16)))
    assert scaled == pytest.approx(LR * sizes / 16, rel=1e-15)
    assert scaled.sum() == pytest.approx(LR / 2 * 400, rel=1e-12)


@pytest.mark.parametrize(("rule", "power"), [("linear", 1.0), ("sqrt", 0.5)])
def test_the_lr_follows_the_batch(rule: str, power: float, tmp_path: Path) -> None:
    horizon = batches(("0", 8), ("10%", 12), ("1600 samples", 32), ("80%", 16), samples=3200)
    schedule = Schedule(Cosine(), warmup="5%", floor=0.1)
    plan = plan_of(schedule, horizon, (rule, 32))
    rates, sizes = walked(plan)
    assert rates == pytest.approx(LR * (sizes / 32) ** power * schedule(np.arange(len(rates)), horizon), rel=1e-14)
    assert all(check.ok for check in plan.check()), [check for check in plan.check() if not check.ok]
    plan.write(tmp_path)
    again = Plan.from_dict(json.loads((tmp_path / "plan.json").read_text()))
    assert again == plan
    assert again.fingerprint == plan.fingerprint != plan_of(schedule, horizon).fingerprint
    written = list(csv.DictReader((tmp_path / "plan.csv").open()))
    assert [float(row["batch_size"]) for row in written] == sizes.tolist()
    assert [float(row["all"]) for row in written] == rates.tolist()
