"""What the grids of `benchmarks.reproduce` compute, their data, and how they train as a population."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml

from benchmarks.reproduce import grokking
from benchmarks.reproduce.data import Plays, SquareMLP, Sums
from benchmarks.reproduce.grids import best, difference, population, tuned, values
from benchmarks.reproduce.lr_sensitivity import START, sensitivity
from benchmarks.reproduce.muon_speed import steps_for

NAN = math.nan


def test_the_best_lr_is_that_of_the_mean_over_seeds_that_all_trained() -> None:
    losses = np.array([[1.0, 1.2], [0.5, NAN], [0.9, 1.1], [2.0, 0.1]])
    assert best(losses) == 2
    assert tuned(losses).tolist() == [0.9, 1.1]


def test_the_interval_of_a_difference_pairs_the_seeds() -> None:
    theirs = np.array([1.0, 5.0, 9.0])
    assert difference(theirs - 0.25, theirs) == pytest.approx((-0.25, -0.25, -0.25))
    mean, low, high = difference(np.random.default_rng(0).standard_normal(200), np.zeros(200))
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.1)
    assert low < mean < high


def test_sensitivity_is_the_mean_above_the_best_and_bounded_by_the_start() -> None:
    assert sensitivity(np.array([[2.0], [3.0], [NAN], [99.0]])) == pytest.approx((0 + 1 + 2 * (START - 2)) / 4)
    assert sensitivity(np.array([[2.0, 1.0], [2.0, 1.0]])).tolist() == [0, 0]


def test_steps_for_a_loss_follow_the_logarithm() -> None:
    steps = np.array([100.0, 200.0, 400.0])
    losses = 5 - 0.5 * np.log(steps)
    for wanted in (50.0, 100.0, 150.0, 300.0, 800.0):
        assert steps_for(5 - 0.5 * math.log(wanted), steps, losses) == pytest.approx(wanted)


def test_phases_follow_when_a_run_learned_and_generalised() -> None:
    table = {
        (10, 60): "comprehension",
        (10, 400): "grokking",
        (10, np.inf): "memorisation",
        (np.inf, np.inf): "confusion",
    }
    assert {times: grokking.phase(*times) for times in table} == table


def test_sums_and_plays_are_what_they_say() -> None:
    (pairs, sums), _ = Sums(p=5).load()
    first, second = pairs[:, :5].argmax(1), pairs[:, 5:].argmax(1)
    assert torch.equal((first + second) % 5, sums)
    assert len({(int(a), int(b)) for a, b in zip(first, second, strict=True)}) == 25
    assert SquareMLP(10, 3, 5)(pairs.float()).shape == (25, 5)
    (windows, coming), _ = Plays(length=8, windows=20, facts={"vocabulary": 84}).load()
    assert windows.shape == coming.shape == (20, 8)
    assert torch.equal(windows[:, 1:], coming[:, :-1])


def test_a_grid_is_one_population_whose_runs_are_where_their_values_are() -> None:
    words = ("data=digits", "model=mlp", "model.widths=[4]", "optimizer=sgd", "trainer.max_steps=2")
    over = {"optimizer.lr": (0.1, 0.01), "seed": (3, 4)}
    with population(*words, over=over) as runs:
        assert runs.shape == (2, 2)
        for at, run in np.ndenumerate(runs):
            config = yaml.safe_load((run.folder / "config.yaml").read_text())
            assert (config["optimizer"]["lr"], config["seed"]) == (over["optimizer.lr"][at[0]], over["seed"][at[1]])
            assert json.loads((run.folder / "summary.json").read_text())["members"] == 4
        assert values(runs).shape == (2, 2)
        assert len(np.unique(values(runs))) == 4
