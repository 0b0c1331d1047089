"""Hydra builds objects and writes files too, and a downloaded recipe could ask it to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.lrflow.sweeper import LrflowSweeper
from lrflow.config import compose
from lrflow.config.hydra_section import check_sweeper
from lrflow.config.sweep import Sweep

EVIL = {
    "callbacks": "callbacks: {x: {_target_: joblib.load, filename: x}}",
    "launcher": "launcher: {_target_: os.system}",
    "an alias": "launcher: {_target_: hydra_plugins.x.os.system}",
    "sweeper": "sweeper: {_target_: my.Sweeper}",
    "trust": "job: {env_set: {LRFLOW_TRUST: os}}",
    "another path": "job: {env_set: {PYTHONPATH: /tmp}}",
    "a sweep": "mode: MULTIRUN",
    "sweep": "sweeper: {params: {seed: '1,2'}}",
    "log file": "job_logging: {handlers: {f: {class: logging.FileHandler, filename: x.log}}}",
    "log file up": "job_logging: {handlers: {f: {class: logging.FileHandler, filename: '${hydra.runtime.output_dir}/../x'}}}",  # noqa: E501
    "log class": "hydra_logging: {handlers: {f: {class: logging.handlers.SMTPHandler}}}",
    "log factory": "job_logging: {formatters: {f: {(): os.system}}}",
}


@pytest.mark.parametrize("name", EVIL)
def test_forbidden_hydra_settings_in_a_recipe(name: str, write, problems_of) -> None:
    write("conf/recipe/evil.yaml", f"# @package _global_\nhydra:\n  {EVIL[name]}\n")
    problems = problems_of(["recipe=evil"], Path("conf"))
    assert all(problem.key.startswith("hydra.") for problem in problems)
    assert all(problem.where == "conf/recipe/evil.yaml:3" for problem in problems)


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
