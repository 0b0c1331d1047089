from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.metric import Metric
from lrflow.sweeps.analysis import Analysis, analyse
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.results import SweepResults, TrialResult

BEST = 0.02
GRID = tuple(10.0 ** (position / 4) for position in range(-16, 1))  # a quarter of a decade apart, 1e-4 to 1


def bowl(lr: float, best: float = BEST) -> float:
    return 0.5 + 0.3 * math.log10(lr / best) ** 2


@pytest.fixture
def analysed(make_run) -> Callable[..., Analysis]:
    """Analyse trials given by their LR, other overrides and final metric."""

    def put(
        trials: Sequence[tuple[float, Mapping[str, object], float]], metric: str = "val/loss", **options: str
    ) -> Analysis:
        for number, (lr, others, value) in enumerate(trials):
            typed = [f"optimizer.lr={lr!r}", *(f"{key}={other}" for key, other in others.items())]
            if math.isfinite(value):
                folder = make_run(number, typed, {metric: value}, choices={"optimizer": "sgd"})
            else:
                folder = make_run(number, typed, status="failed", error=f"step 1: the loss is {value}")
        found = analyse(read_sweep(folder, metric), **options)
        assert found is not None
        return found

    return put


def test_finds_the_minimum_of_a_parabola(analysed) -> None:
    (curve,) = analysed([(lr, {}, bowl(lr)) for lr in GRID]).curves
    assert curve.lr == pytest.approx(BEST, rel=1e-6)
    assert curve.interval[0] < BEST < curve.interval[1]
    assert curve.doubts == ()


@pytest.mark.parametrize("key", ["seed", "data.split_seed", "data.fold"])
def test_seeds_and_folds_are_averaged_and_their_noise_widens_the_interval(analysed, key: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (len(GRID), 4))
    trials = [
        (lr, {key: seed}, bowl(lr) + float(noise[place, seed])) for place, lr in enumerate(GRID) for seed in range(4)
    ]
    (curve,) = analysed(trials).curves
    assert [len(point.trials) for point in curve.points] == [4] * len(GRID)
    assert curve.points[3].cost == pytest.approx(bowl(GRID[3]) + noise[3].mean())
    assert curve.points[3].error == pytest.approx(noise[3].std(ddof=1) / 2)
    assert curve.interval[0] < BEST < curve.interval[1]
    assert curve.lr == pytest.approx(BEST, rel=0.15)


def test_each_choice_has_a_curve_sorted_by_metric(analysed) -> None:
    trials = [
        (lr, {"optimizer": optimizer, "schedule.warmup": warmup}, bowl(lr, best) + worse)
        for optimizer, best, worse in (("sgd", 0.1, 0.2), ("adamw", 0.003, 0.0))
        for warmup in ("0", "5%")
        for lr in GRID
    ]
    found = analysed(trials)
    assert [curve.name for curve in found.curves] == [
        "adamw, warmup 0", "adamw, warmup 5%", "sgd, warmup 0", "sgd, warmup 5%",
    ]  # fmt: skip
    assert [curve.lr for curve in found.curves] == pytest.approx([0.003, 0.003, 0.1, 0.1], rel=1e-6)


def test_the_fit_ignores_lrs_that_diverge_or_do_not_learn(analysed) -> None:
    def loss(lr: float) -> float:
        return bowl(lr) if lr < 0.05 else 1.9 if lr < 0.2 else math.nan

    (curve,) = analysed([(lr, {}, loss(lr)) for lr in GRID]).curves
    assert curve.lr == pytest.approx(BEST, rel=0.05)
    assert [point.diverged for point in curve.points][-3:] == [1, 1, 1]


def test_no_best_lr_if_every_lr_diverged(analysed) -> None:
    ends = {"sgd": lambda lr: math.inf, "adamw": bowl}
    found = analysed([(lr, {"optimizer": name}, end(lr)) for name, end in ends.items() for lr in GRID])
    assert [curve.doubts for curve in found.curves] == [(), ("every LR diverged",)]
    assert math.isnan(found.curves[1].lr)


def test_doubts_a_best_lr_at_the_edge(analysed) -> None:
    (curve,) = analysed([(lr, {}, bowl(lr, 2.0)) for lr in GRID]).curves
    assert curve.doubts == ("the best LR, 1, is the highest tried: one above it may be better",)
    assert curve.basin.closed == (True, False)


def test_three_lrs_are_too_few_to_fit(analysed) -> None:
    (curve,) = analysed([(lr, {}, bowl(lr)) for lr in (0.001, 0.01, 0.1)]).curves
    assert curve.lr == 0.01
    assert curve.interval == pytest.approx((0.001, 0.1))
    assert curve.doubts == ("3 LRs are too few to fit: the best of those tried is shown",)
    assert curve.interval_text == "somewhere from 0.001 to 0.1"


def test_merged_lrs_are_reported_by_one_that_was_tried(analysed) -> None:
    tried = {0.001: 0.9, 0.01: 0.5, 0.0105: 0.6, 0.011: 0.7, 0.1: 0.9}
    (curve,) = analysed([(lr, {}, loss) for lr, loss in tried.items()]).curves
    assert curve.lr == 0.01
    assert curve.doubts == ("5 LRs, of which 3 lie apart, are too few to fit: the best of those tried is shown",)


@pytest.mark.parametrize(
    "losses", [(0.5, 0.6, 0.7, 0.8), (0.6, 0.5, 0.7, 0.8), (0.9, 0.8, 0.6, 0.5), (0.9, 0.8, 0.5, 0.6)]
)
def test_the_interval_holds_the_best_lr_among_merged_ones_at_an_edge(losses: tuple[float, ...], analysed) -> None:
    rates = (0.001, 0.0011, 0.01, 0.0105)
    (curve,) = analysed([(lr, {}, loss) for lr, loss in zip(rates, losses, strict=True)]).curves
    assert curve.lr in rates
    low, high = curve.interval
    assert low <= curve.lr <= high
    assert (low, high) == pytest.approx((0.001, 0.01025) if losses[0] < 0.9 else (0.00105, 0.0105), rel=1e-2)


def test_an_lr_diverges_if_half_of_its_seeds_do(analysed) -> None:
    lost = {(0.01, 0), (0.01, 1), (0.001, 0)}
    trials = [
        (lr, {"seed": seed}, math.nan if (lr, seed) in lost else bowl(lr))
        for lr in (0.0001, 0.001, 0.01, 0.1)
        for seed in range(3)
    ]
    (curve,) = analysed(trials).curves
    assert [math.isinf(point.cost) for point in curve.points] == [False, False, True, False]
    assert curve.points[1].cost == pytest.approx(bowl(0.001))


def test_sensitivity_matches_wortsman_et_al(analysed) -> None:
    found = analysed([(lr, {}, bowl(lr) if lr < 0.5 else math.nan) for lr in GRID])
    assert found.start == 2.0  # the first training loss of every trial
    expected = np.mean([min(bowl(lr) if lr < 0.5 else math.inf, 2.0) for lr in GRID]) - min(map(bowl, GRID))
    assert found.curves[0].sensitivity == pytest.approx(expected)


def test_sensitivity_weights_lrs_by_their_spacing(analysed) -> None:
    crowded = sorted({*GRID, *(10.0 ** (position / 8) for position in range(-16, -11))})
    line = np.interp(np.log10(crowded), np.log10(GRID), [bowl(lr) for lr in GRID])
    (curve,) = analysed([(lr, {}, float(loss)) for lr, loss in zip(crowded, line, strict=True)]).curves
    even = np.mean([bowl(lr) for lr in GRID]) - min(map(bowl, GRID))
    assert curve.sensitivity == pytest.approx(even, rel=0.03)


@pytest.mark.parametrize(("margin", "allowed"), [("0.03", 0.03), ("10%", 0.1 * (2.0 - 0.5))])
def test_the_basin_ends_at_the_margin(analysed, margin: str, allowed: float) -> None:
    grid = [BEST * 10.0 ** (position / 20) for position in range(-40, 41, 3)]
    trials = [(lr, {}, bowl(lr)) for lr in sorted({*grid, BEST})]
    (curve,) = analysed(trials, margin=margin).curves
    half = math.sqrt(allowed / 0.3)
    assert math.log10(curve.basin.high / BEST) == pytest.approx(half, abs=0.01)
    assert math.log10(BEST / curve.basin.low) == pytest.approx(half, abs=0.01)
    assert curve.basin.decades == pytest.approx(2 * half, abs=0.02)
    assert curve.inside_basin()[0] == curve.basin.low
    assert curve.inside_basin()[-1] == curve.basin.high


def test_the_basin_ends_before_a_divergence(analysed) -> None:
    (curve,) = analysed([(lr, {}, 0.5 if lr < 0.5 else math.nan) for lr in GRID], margin="0.1").curves
    assert curve.basin.high == pytest.approx(GRID[-3] if GRID[-2] > 0.5 else GRID[-2])
    assert curve.basin.closed == (False, True)


def test_analyses_a_metric_to_maximize(analysed) -> None:
    found = analysed([(lr, {}, 1.5 - bowl(lr)) for lr in GRID], "val/accuracy", margin="0.05")
    (curve,) = found.curves
    assert curve.lr == pytest.approx(BEST, rel=1e-6)
    assert found.metric(curve.cost) == pytest.approx(max(1.5 - bowl(lr) for lr in GRID))
    assert curve.sensitivity is None


def test_merges_close_lrs(analysed) -> None:
    random = np.random.default_rng(1)
    rates = 10.0 ** random.uniform(-4, 0, 150)
    trials = [
        (float(lr), {"optimizer.weight_decay": float(random.uniform(0, 1))}, bowl(lr) + float(random.normal(0, 0.05)))
        for lr in rates
    ]
    found = analysed(trials)
    assert found.averaged == ("optimizer.weight_decay",)
    (curve,) = found.curves
    assert len(curve.points) <= 32  # an eighth of a decade apart
    assert curve.interval[0] < BEST < curve.interval[1]
    assert curve.lr == pytest.approx(BEST, rel=0.6)


def test_no_analysis_without_a_swept_lr(make_run) -> None:
    for seed in range(3):
        folder = make_run(seed, [f"seed={seed}"], {"val/loss": 0.5})
    assert analyse(read_sweep(folder)) is None


@pytest.mark.parametrize(("decades", "seeds", "noise"), [(0.25, 1, 0.1), (0.25, 3, 0.1), (0.5, 1, 0.02), (0.5, 3, 0.1)])
def test_the_fit_is_at_least_as_accurate_as_the_best_lr_tried(decades: float, seeds: int, noise: float) -> None:
    """In simulated sweeps, the loss rises more steeply above the best LR than below it, and diverges further up."""
    random = np.random.default_rng(0)
    fitted, tried, held = [], [], []
    for _ in range(60):
        truth = random.uniform(-2.2, -1.2)
        trials = []
        for position in np.arange(-4, 0.1, decades):
            off = position - truth
            loss = 0.1 + 0.15 * off**2 + 1.5 * max(0.0, off - 0.3) ** 2 if off < 1.2 else math.nan
            for seed in range(seeds):
                value = loss * math.exp(random.normal(0, noise))
                given = {"optimizer.lr": 10.0**position, "seed": seed}
                trials.append(TrialResult(len(trials), Path("none"), "finished", given, {"val/loss": value}))
        found = analyse(
            SweepResults(Path("none"), tuple(trials), ("optimizer.lr", "seed"), (Metric("val/loss", "min"),))
        )
        (curve,) = found.curves
        best = min(curve.points, key=lambda point: point.cost)
        low, high = np.log10(curve.interval)
        fitted.append(abs(math.log10(curve.lr) - truth))
        tried.append(abs(math.log10(best.lr) - truth))
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.8
    assert np.median(fitted) <= np.median(tried) + 0.01
    assert np.median(fitted) < 0.15


LOSSES = st.lists(st.floats(0.2, 1.9), min_size=5, max_size=9)


def swept(
    rates: Sequence[float], losses: Sequence[float], others: Sequence[TrialResult] = (), mode: str = "min"
) -> SweepResults:
    """Return a sweep with these final losses and an unknown initial loss."""
    trials = [
        TrialResult(number, Path("none"), "finished", {"optimizer.lr": lr}, {"val/score": loss})
        for number, (lr, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    return SweepResults(Path("none"), (*trials, *others), ("optimizer.lr",), (Metric("val/score", mode),))


def answer(sweep: SweepResults) -> list[float]:
    """Return the best LR, its interval and its basin, in decades, and the best cost."""
    found = analyse(sweep)
    assert found is not None
    (curve,) = found.curves
    assert curve.basin is not None
    return [*np.log10([curve.lr, *curve.interval, curve.basin.low, curve.basin.high]), curve.cost]


@given(LOSSES, st.integers(-3, 3))
@settings(max_examples=40)
def test_the_best_lr_scales_with_the_lrs(losses: list[float], decades: int) -> None:
    rates = [10.0 ** (place / 2 - 4) for place in range(len(losses))]
    moved = answer(swept([lr * 10.0**decades for lr in rates], losses))
    expected = answer(swept(rates, losses))
    assert moved[:-1] == pytest.approx([value + decades for value in expected[:-1]], abs=1e-6)
    assert moved[-1] == expected[-1]


@given(LOSSES, st.randoms())
@settings(max_examples=40)
def test_the_order_of_trials_and_the_sign_of_the_metric_do_not_matter(losses: list[float], random) -> None:
    rates = [10.0 ** (place / 2 - 4) for place in range(len(losses))]
    pairs = list(zip(rates, losses, strict=True))
    random.shuffle(pairs)
    expected = pytest.approx(answer(swept(rates, losses)), abs=1e-9)
    assert answer(swept([lr for lr, _ in pairs], [loss for _, loss in pairs])) == expected
    assert answer(swept(rates, [-loss for loss in losses], mode="max")) == expected


def test_one_or_two_lrs_have_a_best_one_and_no_basin() -> None:
    for losses in ([0.5], [0.5, 0.25]):
        found = analyse(swept([0.01, 0.1][: len(losses)], losses))
        assert found is None or (found.curves[0].basin is None and found.curves[0].lr == 0.1)


@given(LOSSES)
@settings(max_examples=40)
def test_the_interval_and_the_basin_contain_the_best_lr(losses: list[float]) -> None:
    rates = [10.0 ** (place / 2 - 4) for place in range(len(losses))]
    best, low, high, basin_low, basin_high, _ = answer(swept(rates, losses))
    tried = math.log10(rates[losses.index(min(losses))])
    assert low - 1e-9 <= best <= high + 1e-9
    assert basin_low - 1e-9 <= tried <= basin_high + 1e-9
    assert math.log10(rates[0]) - 1e-9 <= basin_low
    assert basin_high <= math.log10(rates[-1]) + 1e-9


def test_pruned_trials_do_not_change_the_fit_but_its_doubts() -> None:
    rates = [10.0 ** (place / 2 - 4) for place in range(5)]
    losses = [1.6, 1.2, 0.9, 0.7, 0.6]
    pruned = [
        TrialResult(5 + place, Path("none"), "pruned", {"optimizer.lr": lr}, {"val/score": score})
        for place, (lr, score) in enumerate([(1e-3, 0.1), (0.1, 3.0), (1.0, 5.0)])
    ]
    assert answer(swept(rates, losses, pruned)) == answer(swept(rates, losses))
    found = analyse(swept(rates, losses, pruned))
    assert found is not None
    assert "the best LR, 0.01, is the highest that was not pruned: the 2 above it were pruned" in (
        found.curves[0].doubts
    )
    assert [(lr, value) for lr, value, _ in found.pruned_points()] == [(1e-3, 0.1), (0.1, 3.0), (1.0, 5.0)]


def test_high_metrics_of_pruned_trials_are_lowered_to_the_limit(make_run) -> None:
    for number, lr in enumerate((1e-3, 1e-2, 1e-1)):
        make_run(number, [f"optimizer.lr={lr}"], {"val/loss": 0.5 + number / 10})
    folder = make_run(3, ["optimizer.lr=1"], {"val/loss": 17.0}, status="pruned")
    found = analyse(read_sweep(folder))
    assert found is not None
    assert found.start == 2.0
    assert found.curves[0].sensitivity is None
    assert [(lr, value) for lr, value, _ in found.pruned_points()] == [(1.0, 4.0)]


def test_doubts_a_choice_whose_trials_were_all_pruned(make_run) -> None:
    for number, lr in enumerate((1e-3, 1e-2)):
        make_run(number, [f"optimizer.lr={lr}", "optimizer=sgd"], {"val/loss": 0.5})
    folder = make_run(2, ["optimizer.lr=1e-3", "optimizer=adamw"], {"val/loss": 0.4}, status="pruned")
    found = analyse(read_sweep(folder))
    assert found is not None
    assert [(curve.name, curve.doubts) for curve in found.curves][1] == ("adamw", ("every trial was pruned",))
