"""What goes wrong with torch's schedulers, each shown on torch first, and lrflow not doing it.

A test that fails in its torch half says that a new torch has mended it: then the half goes, and the promise stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from lrflow.schedules import Continued, Cosine, Cyclical, Horizon, Linear, OneCycle, Schedule, Shape, WarmRestarts

MakeOptimizer = Callable[..., Optimizer]
Run = Callable[[Optimizer, LRScheduler, int], np.ndarray]

# torch warns of schedulers inside schedulers, and of optimizers stepped without gradients.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_cosine_annealing_climbs_after_its_end(optimizer: MakeOptimizer, run: Run) -> None:
    theirs = optimizer(1.0)
    rates = run(theirs, CosineAnnealingLR(theirs, T_max=10), 21)[:, 0]
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(rates[10:]) > 0)
    assert rates[20] == pytest.approx(1)

    ours = Schedule(Cosine())(np.arange(21), Horizon(10))
    assert ours[10:].tolist() == [0.0] * 11


def test_cosine_annealing_takes_its_length_from_the_checkpoint_over_the_config(
    optimizer: MakeOptimizer, run: Run
) -> None:
    first = optimizer(1.0)
    scheduler = CosineAnnealingLR(first, T_max=10)
    run(first, scheduler, 5)
    resumed = CosineAnnealingLR(optimizer(1.0), T_max=20)  # the config now says 20
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.T_max == 10

    # lrflow has no state to load: the horizon is what the config says, and how to go on is chosen by name.
    schedule = Schedule(Cosine())
    assert schedule(15, Horizon(20)) > 0
    assert Continued(schedule, 5, Horizon(10), "rescale")(15, Horizon(20)) == schedule(15, Horizon(20))
    assert Continued(schedule, 5, Horizon(10), "keep")(15, Horizon(20)) == schedule(15, Horizon(10)) == 0


def test_cosine_annealing_raises_a_group_below_its_minimum(optimizer: MakeOptimizer, run: Run) -> None:
    lrs = [1.0, 1e-4]  # a head, and a backbone that should move slowly
    theirs = optimizer(*lrs)
    rates = run(theirs, CosineAnnealingLR(theirs, T_max=10, eta_min=1e-3), 11)
    assert rates[10, 1] == pytest.approx(1e-3)  # ten times the LR it was given

    ours = np.outer(Schedule(Cosine(), floor=1e-3)(np.arange(11), Horizon(10)), lrs)
    assert np.all(np.diff(ours, axis=0) < 0)
    assert np.allclose(ours[:, 0] / ours[:, 1], 1e4)  # and the groups keep their ratio


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda target: OneCycleLR(target, max_lr=1.0, total_steps=20), OneCycle()),
        (lambda target: CyclicLR(target, 0.1, 1.0, 5, cycle_momentum=False), Cyclical(10)),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
def test_cycles_flatten_the_groups_to_one_lr(
    make: Callable[[Optimizer], LRScheduler], shape: Shape, optimizer: MakeOptimizer, run: Run
) -> None:
    lrs = [1.0, 1e-4]
    theirs = optimizer(*lrs)
    rates = run(theirs, make(theirs), 20)
    assert rates[:, 0].tolist() == rates[:, 1].tolist()

    ours = np.outer(Schedule(shape)(np.arange(20), Horizon(20)), lrs)
    assert np.allclose(ours[:, 0] / ours[:, 1], 1e4)


def test_restarts_end_a_run_on_a_high_lr(optimizer: MakeOptimizer, run: Run) -> None:
    theirs = optimizer(1.0)
    rates = run(theirs, CosineAnnealingWarmRestarts(theirs, 40), 100)[:, 0]
    assert rates[-1] > 0.5  # half-way through the third cosine

    ours = Schedule(WarmRestarts(40))(np.arange(100), Horizon(100))
    assert ours[:40].tolist() == pytest.approx(rates[:40].tolist())
    assert ours[-1] < 0.01


def test_sequential_resumes_wrongly_at_a_last_epoch(optimizer: MakeOptimizer, run: Run) -> None:
    def warmup_then_cosine(target: Optimizer, last_epoch: int = -1) -> SequentialLR:
        parts = [LinearLR(target, 0.2, total_iters=4), CosineAnnealingLR(target, 16)]
        return SequentialLR(target, parts, milestones=[4], last_epoch=last_epoch)

    whole = optimizer(1.0)
    uninterrupted = run(whole, warmup_then_cosine(whole), 20)[:, 0]
    again = optimizer(1.0)
    again.param_groups[0]["initial_lr"] = 1.0  # as torch asks for before it resumes
    resumed = run(again, warmup_then_cosine(again, last_epoch=9), 10)[:, 0]
    assert not np.allclose(resumed, uninterrupted[10:], rtol=0.1)  # pytorch#162591
    assert resumed[0] == pytest.approx(0.2)  # it is back at the start of the warmup

    schedule = Schedule(Cosine(), warmup=4, warmup_start=0.2)
    np.testing.assert_allclose(schedule(np.arange(20), Horizon(20)), uninterrupted, rtol=1e-9, atol=1e-12)
    assert schedule(np.arange(10, 20), Horizon(20)).tolist() == schedule(np.arange(20), Horizon(20))[10:].tolist()


def test_chained_loses_the_warmup_before_restarts(optimizer: MakeOptimizer, run: Run) -> None:
    theirs = optimizer(1.0)
    parts = [LinearLR(theirs, 0.1, total_iters=5), CosineAnnealingWarmRestarts(theirs, 10)]
    rates = run(theirs, ChainedScheduler(parts, optimizer=theirs), 10)[:, 0]
    without = optimizer(1.0)
    assert rates.tolist() == run(without, CosineAnnealingWarmRestarts(without, 10), 10)[:, 0].tolist()

    ours = Schedule(Cosine(), warmup=5, warmup_start=0.1)(np.arange(10), Horizon(10))
    np.testing.assert_allclose(ours[:6], [0.1, 0.28, 0.46, 0.64, 0.82, 1.0])


def test_chained_the_other_way_round_exceeds_the_peak(optimizer: MakeOptimizer, run: Run) -> None:
    theirs = optimizer(1.0)
    parts = [CosineAnnealingWarmRestarts(theirs, 10), LinearLR(theirs, 0.1, total_iters=5)]
    rates = run(theirs, ChainedScheduler(parts, optimizer=theirs), 10)[:, 0]
    assert rates.max() > 2.5

    assert Schedule(Cosine(), warmup=5)(np.arange(10), Horizon(10)).max() == 1.0


def test_constructing_a_scheduler_writes_the_optimizers_lr(optimizer: MakeOptimizer) -> None:
    theirs = optimizer(1.0)
    LinearLR(theirs, start_factor=0.1)
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.1)  # pytorch#72874
    LambdaLR(theirs, lambda step: 0.5)  # a second one, never stepped
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.5)

    # A schedule knows no optimizer: to make it, to check it and to evaluate it change nothing.
    ours = optimizer(1.0)
    schedule = Schedule(Linear(), warmup=5)
    schedule.check(Horizon(10))
    schedule(np.arange(10), Horizon(10))
    assert ours.param_groups[0]["lr"] == 1.0
    assert "initial_lr" not in ours.param_groups[0]
