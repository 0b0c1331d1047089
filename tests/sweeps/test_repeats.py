"""What several runs of a trial say together: their mean, the race against the best trial, the noise of a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from scipy.stats import ttest_rel

from lrflow.errors import DivergedError, LrflowError, PrunedError
from lrflow.outcome import Outcome
from lrflow.sweeps.bootstrap import interval_over_seeds
from lrflow.sweeps.gaussian_process import squared_errors
from lrflow.sweeps.repeats import Spread, combined, is_worse
from lrflow.sweeps.samplers import make_sampler


def good(loss: float) -> Outcome:
    return Outcome.finished({"val/loss": loss}, steps=3, seconds=1.0)


DIVERGED = Outcome.from_error(DivergedError("step 3: the loss is nan"))
FAILED = Outcome.from_error(LrflowError("oh"))
PRUNED = Outcome.from_error(PrunedError("pruned by median", {"val/loss": 9.0}))
EARLY = Outcome.ended_early("a time limit", 1, 3, {"val/loss": 5.0})


@pytest.mark.parametrize(
    ("runs", "count", "expected"),
    [
        ([good(1), good(2), good(6)], 3, ("finished", 3.0, "")),
        ([good(1), good(2)], 3, None),
        ([good(1), DIVERGED, good(3)], 3, ("finished", 2.0, "1 of 3 runs diverged")),
        ([good(1), DIVERGED, FAILED], 3, ("diverged", None, "1 of 3 runs diverged, 1 of 3 runs failed: step 3")),
        ([DIVERGED, DIVERGED], 3, ("diverged", None, "2 of 2 runs diverged: step 3")),
        ([DIVERGED], 3, None),
        ([DIVERGED], 2, ("diverged", None, "1 of 1 run diverged")),
        ([FAILED, FAILED, good(1)], 5, None),
        ([FAILED, FAILED, good(1), FAILED], 5, ("failed", None, "3 of 4 runs failed: oh")),
        ([PRUNED], 5, ("pruned", 9.0, "pruned by median")),
        ([PRUNED, good(1)], 2, ("pruned", 9.0, "pruned by median")),
        ([good(1), EARLY, good(3)], 3, ("finished", 2.0, "1 of 3 runs ended early")),
    ],
)
def test_the_outcome_of_a_trial_from_its_runs(
    runs: Sequence[Outcome], count: int, expected: tuple[str, float | None, str] | None
) -> None:
    found = combined(dict(enumerate(runs)), count)
    if expected is None:
        assert found is None
        return
    status, loss, reason = expected
    assert found is not None
    assert (found.status, found.metrics.get("val/loss"), list(found.runs)) == (status, loss, list(runs))
    assert found.reason.startswith(reason)


def test_runs_that_ended_early_count_if_the_sweep_ranks_them() -> None:
    found = combined(dict(enumerate([good(1), EARLY])), 2, rank_ended_early=True)
    assert found is not None
    assert (found.status, found.metrics["val/loss"]) == ("ended_early", 3.0)


def test_the_race_is_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    answers = []
    for _ in range(200):
        count, more = random.integers(2, 6), random.integers(0, 3)
        own = random.normal(random.uniform(-0.5, 2), random.uniform(0.1, 1), count)
        best = random.normal(0, random.uniform(0.1, 1), count + more)
        p = float(ttest_rel(own, best[:count], alternative="greater").pvalue)
        answers.append(is_worse(dict(enumerate(own.tolist())), dict(enumerate(best.tolist())), 0.1))
        assert answers[-1] == (p < 0.1)
    assert 20 < sum(answers) < 180


@pytest.mark.parametrize(
    ("own", "best", "worse"),
    [
        ({0: 2.0}, {0: 1.0, 1: 1.0}, False),
        ({0: 2.0, 1: 3.0}, {0: 1.0, 2: 1.0}, False),
        ({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}, True),
        ({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, False),
        ({0: 9.0, 1: 0.1}, {0: 8.0, 1: 0.2}, False),
    ],
)
def test_the_race_compares_the_same_seeds(own: dict[int, float], best: dict[int, float], worse: bool) -> None:
    assert is_worse(own, best, 0.1) == worse


def test_mean_and_spread_match_numpy() -> None:
    values = [0.3, 0.7, 0.4]
    found = Spread.of(values)
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert str(Spread.of([0.25, 0.75])) == "0.5 ± 0.35"
    assert [str(Spread.of(few)) for few in ([], [0.5], [0.5, math.nan])] == ["", "0.5", "nan"]


def search(seed: int, repeats: int, trials: int = 10) -> float:
    """Return the distance in decades from the optimum of the best LR found under noise."""
    random = np.random.default_rng(seed)
    sampler = make_sampler("gp", seed, trials, {}, "loss" if repeats > 1 else None)
    study = optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        position = math.log10(trial.suggest_float("lr", 1e-4, 1, log=True))
        found = Spread.of(0.3 * (position + 2) ** 2 + 0.2 * random.standard_normal(repeats))
        if repeats > 1:
            trial.set_user_attr("std", {"loss": found.std})
            trial.set_user_attr("counted", repeats)
        study.tell(trial, found.mean)
    return abs(math.log10(study.best_params["lr"]) + 2)


def test_a_gaussian_process_with_repeats_is_nearer_to_the_optimum_under_noise() -> None:
    alone, repeated = (float(np.mean([search(seed, repeats) for seed in range(6)])) for repeats in (1, 4))
    assert repeated < 0.6 * alone


def test_few_runs_borrow_their_variance_from_all_trials() -> None:
    def trial(std: float | None, runs: int) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(
            value=0.0, user_attrs={"std": {} if std is None else {"m": std}, "counted": runs}
        )

    assert squared_errors([trial(None, 1)], "m") is None
    found = squared_errors([trial(2.0, 3), trial(2.0, 2), trial(8.0, 100), trial(None, 1)], "m")
    assert found is not None
    assert found[:2] == pytest.approx([4 / 3, 4 / 2])
    assert found[2] == pytest.approx((2 * 4 + 99 * 64) / 101 / 100)
    assert found[3] == pytest.approx(4.0)  # a single run is as uncertain as one run of the others


def test_the_interval_over_seeds_covers_the_best_lr_and_shrinks_with_runs() -> None:
    random = np.random.default_rng(1)
    positions = np.arange(-4, 1, 0.5)
    best = lambda means: min(means, key=lambda at: means[at])  # noqa: E731
    widths, covered = {2: 0.0, 8: 0.0}, 0
    for _ in range(20):
        for runs in widths:
            costs = {float(at): (0.3 * (at + 2) ** 2 + 0.1 * random.standard_normal(runs)).tolist() for at in positions}
            interval = interval_over_seeds(costs, best)
            assert interval is not None
            widths[runs] += interval[1] - interval[0]
            covered += interval[0] <= -2 <= interval[1]
    assert covered >= 0.8 * 40
    assert widths[8] < widths[2]
    assert interval_over_seeds({0.0: [1.0], 1.0: [2.0]}, best) is None
    assert interval_over_seeds({0.0: [1.0, 2.0], 1.0: [math.inf, math.inf]}, best) is None
