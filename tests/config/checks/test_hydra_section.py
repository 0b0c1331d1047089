"""Hydra builds objects and writes files too, and a downloaded recipe could ask it to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.lrflow.sweeper import LrflowSweeper
from lrflow.cli import main
from lrflow.config import compose
from lrflow.config.checks.hydra_section import check_sweeper
from lrflow.config.schemas.sweep import Sweep


def test_a_problem_of_hydras_section_names_the_line_of_the_recipe(write, problems_of) -> None:
    write(
        "conf/recipe/evil.yaml", "# @package _global_\nhydra:\n  callbacks: {x: {_target_: joblib.load}}\n  mode: RUN\n"
    )
    found = {problem.key: problem.where for problem in problems_of(["recipe=evil"], Path("conf"))}
    assert found["hydra.callbacks.x"] == "conf/recipe/evil.yaml:3"
    assert found["hydra.mode"] == "conf/recipe/evil.yaml:4"


def test_a_variable_that_is_to_be_copied_and_is_not_set(
    write, problems_of, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_SUCH_NAME", raising=False)
    write("conf/recipe/evil.yaml", "# @package _global_\nhydra: {job: {env_copy: [NO_SUCH_NAME]}}\n")
    for words in (["hydra.job.env_copy=[NO_SUCH_NAME]"], ["recipe=evil"]):
        (problem,) = problems_of(words, Path("conf"))
        assert (problem.key, problem.value) == ("hydra.job.env_copy", "NO_SUCH_NAME")
        assert main(["-m", "--config-dir", "conf", "optimizer.lr=0.1,0.2", *words]) == 2
        assert "the environment variable NO_SUCH_NAME is not set" in " ".join(capsys.readouterr().err.split())


def test_allowed_hydra_settings() -> None:
    compose(["hydra/job_logging=default", "hydra/hydra_logging=default", "+hydra.job.env_set.OMP_NUM_THREADS=1"])


def test_search_paths_are_set_by_a_flag(problems_of) -> None:
    (problem,) = problems_of(["hydra.searchpath=[pkg://x]"])
    assert "--config-dir" in problem.message


def test_settings_of_the_sweeper_appear_once() -> None:
    node = OmegaConf.to_container(ConfigStore.instance().load("hydra/sweeper/lrflow.yaml").node)
    assert isinstance(node, dict)
    assert node.pop("_target_") == f"{LrflowSweeper.__module__}.{LrflowSweeper.__name__}"
    assert node == Sweep().model_dump()
    assert not check_sweeper(node)
