"""The tables of `tests/support/inputs.py`: what is said about wrong command lines, and which ones are right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from inputs import DOUBTFUL, RIGHT, WRONG
from omegaconf import OmegaConf

from lrflow.cli.arguments import parse, require_multirun
from lrflow.cli.sweep_check import check_sweep
from lrflow.config import Config
from lrflow.config.checks.warnings import warnings_before_start
from lrflow.config.composition.compose import Composer, checked, composer
from lrflow.config.composition.options import Catalogue
from lrflow.config.composition.overrides import expand, read_overrides
from lrflow.config.length import declared_horizon
from lrflow.config.saved import pinned
from lrflow.errors import ConfigError, Problem

CATALOGUE = Catalogue()


@contextmanager
def one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Composer]:
    """Compositions that share their options, in an empty folder; Hydra does not search its root for folders again."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ConfigLoaderImpl, "_process_config_searchpath", lambda *arguments: None)
    with composer(None, CATALOGUE) as composing:
        yield composing


def check(words: Sequence[str], composing: Composer) -> Config | None:
    """Check a command line like `python -m lrflow` does; return the config of a single run."""
    args = parse(words)
    if not args.multirun:
        require_multirun(args.overrides)
    overrides = read_overrides(pinned(expand(args.overrides)), CATALOGUE, sweep=args.multirun)
    if args.multirun or args.config_dir:
        with closed():
            check_sweep(overrides, args.config_dir, CATALOGUE)
        return None
    return checked(overrides, composing)[1]


@contextmanager
def closed() -> Iterator[None]:
    """Nothing of the open composer: Hydra has one at a time."""
    opened = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = opened


def lines(table: str) -> list[str]:
    return [line for line in table.strip().splitlines() if line]


def read(line: str) -> tuple[list[str], str]:
    command, _, told = line.partition(" => ")
    command = re.sub(r"^own=", "model=custom  model._target_=", command)
    return command.strip().split("  "), told.strip()


def unlike(problems: Sequence[Problem], told: str) -> str | None:
    """What the problems lack of what should be told: `key: part of the message`, more of them behind `&`."""
    expected = dict(part.strip().partition(":")[::2] for part in told.split(" & "))
    found = {problem.key: f"{problem.message} {problem.hint or ''}" for problem in problems}
    wrong = [key for key, part in expected.items() if part.strip() not in found.get(key, "")]
    wrong = wrong if found.keys() == expected.keys() else sorted(found.keys() ^ expected.keys())
    wrong += [key for key, text in found.items() if "cannot be composed" in text or "use +" in text]
    return f"{wrong}: {found}" if wrong else None


def test_the_table_is_large() -> None:
    assert sum(len(lines(table)) for table in WRONG.values()) >= 300
    assert len(lines(RIGHT)) >= 60


@pytest.mark.parametrize("room", WRONG)
def test_wrong_inputs(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []
    with one_process(tmp_path, monkeypatch) as composing:
        for line in lines(WRONG[room]):
            words, told = read(line)
            try:
                check(words, composing)
            except ConfigError as error:
                failures += [f"{line}\n    {lacking}" for lacking in [unlike(error.problems, told)] if lacking]
            except Exception as error:  # a bug of lrflow
                failures.append(f"{line}\n    {error!r}")
            else:
                failures.append(f"{line}\n    accepted")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("table", [DOUBTFUL, RIGHT], ids=["one warning", "none"])
def test_accepted_inputs_give_the_warning_that_is_due(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema_error: Callable[[Any], str]
) -> None:
    """The JSON schema of configs accepts them too."""
    failures = []
    with one_process(tmp_path, monkeypatch) as composing:
        for line in lines(table):
            words, due = read(line)
            try:
                config = check(words, composing)
                found = warnings_of(config)
                refused = schema_error(OmegaConf.to_container(config.source)) if config else ""
                found += [f"the JSON schema: {refused}"] if refused else []
            except Exception as error:
                found = [repr(error)]
            is_right = not found if table is RIGHT else len(found) == 1 and due in found[0]
            failures += [] if is_right else [f"{line}\n    {found}"]
    assert not failures, "\n".join(failures)


def warnings_of(config: Config | None) -> list[str]:
    horizon = declared_horizon(config) if config else None
    return warnings_before_start(config, horizon) if config and horizon else []


def test_what_only_a_file_shows(write, problems_of) -> None:
    """Files cannot be merged, or have numbers in another base: key and line are named."""
    wrong = {
        "optimizer: [1, 2]": ("optimizer", "expected a mapping of keys to values"),
        "schedule: {also: [a]}": ("schedule.also", "expected a mapping of keys to values"),
        "optimizer: {betas: {a: 1}}": ("optimizer.betas", "expected a list"),
        "hydra: {sweeper: 5}": ("hydra.sweeper", "expected a mapping of keys to values"),
        "hydra: {sweep: {dirr: 5}}": ("hydra.sweep.dirr", "there is no such key"),
        "trial: {number: 1, study: a, storage: b}": ("trial", "a file may not make a run a trial"),
    }
    failures = []
    for text, (key, told) in wrong.items():
        write("mine/recipe/wrong.yaml", f"# @package _global_\n{text}\n")
        problems = problems_of(["recipe=wrong"], Path("mine"))
        found = [(problem.key, problem.where) for problem in problems]
        if found != [(key, "mine/recipe/wrong.yaml:2")] or told not in problems[0].message:
            failures.append(f"{text}\n    {problems}")
    assert not failures, "\n".join(failures)


def test_numbers_in_base_eight_or_sixty_give_a_warning(write) -> None:
    from lrflow.config import compose

    write("mine/recipe/odd.yaml", "# @package _global_\nseed: 010\ndata: {split_seed: 1:30, num_workers: 0}\n")
    octal, sixty = compose(["recipe=odd"], Path("mine")).doubts
    assert octal == "seed: YAML reads 010 in base eight, as 8; write 10 or 8 (mine/recipe/odd.yaml:2)"
    assert sixty.startswith("data.split_seed: YAML reads 1:30 in base sixty")


@pytest.mark.parametrize("values", ["0.1,0.2,0.1", "0.1,0.2,1e-1", "choice(0.1,0.2,0.1)"])
def test_equal_points_of_a_sweep_give_a_warning(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_process(tmp_path, monkeypatch) as composing:
        check(["-m", f"optimizer.lr={values}"], composing)
    assert capsys.readouterr().out.strip() == "warning: optimizer.lr has the value 0.1 2 times: equal jobs"


def test_a_typo_in_every_job_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_process(tmp_path, monkeypatch) as composing, pytest.raises(ConfigError) as caught:
        check(["-m", "optimizer.lrr=0.1,0.2,0.3"], composing)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("optimizer.lrr", ...)
