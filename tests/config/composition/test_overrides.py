from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrflow.config.composition import overrides
from lrflow.config.composition.options import Catalogue
from lrflow.config.composition.overrides import Overrides, expand

CATALOGUE = Catalogue()


def read(texts: list[str], sweep: bool = False) -> Overrides:
    return overrides.read_overrides(expand(texts), CATALOGUE, sweep)


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
def test_overrides_in_hydras_grammar(typed: str, handed: str) -> None:
    assert read([typed]).texts == [handed]


def test_an_override_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = OverridesParser.parse_override
    monkeypatch.setattr(OverridesParser, "parse_override", lambda self, text: parsed.append(text) or parse(self, text))
    (ready,) = read(["optimizer.betas=[0.9,0.99]"]).ready
    assert (ready.key, ready.given, ready.sign) == ("optimizer.betas", "[0.9,0.99]", "++")
    assert (ready.text, ready.typed) == ("++optimizer.betas=[0.9,0.99]", "optimizer.betas=[0.9,0.99]")
    assert ready.parsed == parse(OverridesParser.create(), ready.text)
    assert parsed == ["optimizer.betas=[0.9,0.99]"]


@pytest.mark.parametrize(
    ("typed", "handed"),
    [
        (["seed=1", "optimizer=sgd", "seed=2"], ["optimizer=sgd", "++seed=2"]),
        (["optimizer=sgd", "optimizer=adamw"], ["optimizer=adamw"]),
        (["++seed=1", "~seed"], ["~seed"]),
        (["resume=a", "resume.from=b"], ["++resume.from=b"]),
        (["fast=true", "fast=false"], ["fast=off"]),
    ],
)
def test_the_last_override_of_a_key_wins(typed: list[str], handed: list[str]) -> None:
    found = read(typed)
    assert (found.texts, found.problems) == (handed, [])


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
    assert [override.text for override in expand([typed])] == [written]


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
def test_jobs_of_a_sweep_equal_those_of_hydra(typed: list[str]) -> None:
    found = read(typed, sweep=True)
    parsed = OverridesParser.create().parse_overrides(found.texts)
    jobs = [[override.text for override in job] for job in found.jobs()]
    assert jobs == BasicSweeper.split_arguments(parsed, None)[0]


def test_both_ends_of_an_interval_are_checked() -> None:
    jobs = read(["optimizer.lr=interval(0.001,0.1)"], sweep=True).jobs()
    assert [[override.text for override in job] for job in jobs] == [["++optimizer.lr=0.001"], ["++optimizer.lr=0.1"]]


def test_every_value_of_a_sweep_is_an_option() -> None:
    (problem,) = read(["optimizer=sgd,adamww"], sweep=True).problems
    assert (problem.key, problem.value) == ("optimizer", "adamww")


def test_a_glob_expands_to_matching_options() -> None:
    assert read(["optimizer=glob(adam*w)"], sweep=True).texts == ["optimizer=adamw"]
    assert read(["schedule=glob(*step)"], sweep=True).texts == ["schedule=multistep,step"]
    (problem,) = read(["optimizer=glob(zzz*)"], sweep=True).problems
    assert (problem.key, problem.value) == ("optimizer", "glob(zzz*)")
    (problem,) = read(["optimizer=glob(*)"]).problems
    assert "add -m" in str(problem.hint)


def test_a_glob_of_values_is_an_error() -> None:
    (problem,) = read(["seed=glob(*)"], sweep=True).problems
    assert problem.key == "seed"
