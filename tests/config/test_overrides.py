from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrflow.config.catalogue import Catalogue
from lrflow.config.overrides import as_typed, expand, read

CATALOGUE = Catalogue()


@pytest.mark.parametrize(
    ("typed", "handed"),
    [
        ("optimizer=sgd", "optimizer=sgd"),
        ("+optimizer=sgd", "optimizer=sgd"),
        ("optimizer.lr=0.1", "++optimizer.lr=0.1"),
        ("+optimizer.lr=0.1", "++optimizer.lr=0.1"),
        ("++optimizer.lr=0.1", "++optimizer.lr=0.1"),
        ("optimizer={lr: 1}", "++optimizer={lr: 1}"),
        ("~optimizer.lr", "~optimizer.lr"),
        ("hydra.job.chdir=false", "hydra.job.chdir=false"),
        ("hydra/launcher=basic", "hydra/launcher=basic"),
    ],
)
def test_how_hydra_takes_them(typed: str, handed: str) -> None:
    assert read([typed], CATALOGUE).texts == [handed]


def test_as_typed() -> None:
    assert as_typed(["++a=1", "optimizer=sgd"]) == ["a=1", "optimizer=sgd"]


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("resume=last", "resume.from=last"),
        ("+resume=last", "+resume.from=last"),
        ("resume.from=x", "resume.from=x"),
        ("resume={from: x}", "resume={from: x}"),
        ("resume", "resume"),
    ],
)
def test_short_forms(typed: str, written: str) -> None:
    assert expand([typed]) == [written]


@pytest.mark.parametrize(
    "typed",
    [
        ["optimizer=sgd,adamw", "optimizer.lr=0.1,0.01", "seed=3"],
        ["seed=range(3)", "optimizer.betas=[0.9,0.99],[0.8,0.9]"],
        ["optimizer.lr=choice(1e-1, 1e-2)", "schedule=linear,cosine"],
        ["seed=1"],
        [],
    ],
)
def test_the_jobs_of_a_sweep_are_those_that_hydra_runs(typed: list[str]) -> None:
    overrides = read(typed, CATALOGUE, sweep=True)
    parsed = OverridesParser.create().parse_overrides(overrides.texts)
    assert overrides.jobs() == BasicSweeper.split_arguments(parsed, None)[0]


def test_of_an_interval_both_ends_are_jobs() -> None:
    jobs = read(["optimizer.lr=interval(0.001,0.1)"], CATALOGUE, sweep=True).jobs()
    assert jobs == [["++optimizer.lr=0.001"], ["++optimizer.lr=0.1"]]


def test_every_value_of_a_sweep_is_an_option() -> None:
    (problem,) = read(["optimizer=sgd,adamww"], CATALOGUE, sweep=True).problems
    assert (problem.key, problem.value) == ("optimizer", "adamww")


def test_the_same_twice_is_no_contradiction() -> None:
    assert not read(["seed=1", "seed=1"], CATALOGUE).problems


def test_a_glob_stands_for_the_options_that_it_matches() -> None:
    assert read(["optimizer=glob(adam*w)"], CATALOGUE, sweep=True).texts == ["optimizer=adamw"]
    assert read(["schedule=glob(*step)"], CATALOGUE, sweep=True).texts == ["schedule=multistep,step"]
    (problem,) = read(["optimizer=glob(zzz*)"], CATALOGUE, sweep=True).problems
    assert (problem.key, problem.value) == ("optimizer", "glob(zzz*)")
    (problem,) = read(["optimizer=glob(*)"], CATALOGUE).problems
    assert "add -m" in str(problem.hint)


def test_sweeps_that_have_no_end_of_options() -> None:
    (problem,) = read(["seed=glob(*)"], CATALOGUE, sweep=True).problems
    assert problem.key == "seed"
