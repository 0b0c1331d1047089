"""A run is composed once and checked once; each of its values is parsed once, and its schedule is built once."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrflow.cli import main
from lrflow.cli.sweep_check import CheckedJobs
from lrflow.config import compose
from lrflow.config.composition.overrides import Override
from lrflow.config.config import Config
from lrflow.schedules import Duration, Schedule


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what a run is made of has been made."""
    found: Counter[str] = Counter()

    def count(owner: type, name: str, key: Callable[..., str | None]) -> None:
        made: Any = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            if label := key(*args):
                found[label] += 1
            return made(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(ConfigLoaderImpl, "load_configuration", lambda *_: "compositions")
    count(ConfigLoaderImpl, "load_sweep_config", lambda *_: "jobs that Hydra composes")
    count(Config, "model_validate", lambda *_: "validations")
    count(Duration, "parse", lambda given: None if isinstance(given, Duration) else f"duration {given}")
    count(Schedule, "__init__", lambda *_: "schedules")
    count(OverridesParser, "parse_override", lambda _, text: f"override {text}")
    return found


def test_each_step_runs_once_per_command(counts: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["optimizer.lr=0.01", "layers=layer_decay", "schedule.warmup=7%", "trainer.max_steps=20"]
    assert main([*typed, "trainer.max_epochs=null"]) == 0, capsys.readouterr().err
    assert counts["compositions"] == 1
    assert counts["validations"] == 1
    assert counts["schedules"] == 1
    assert counts["duration 7%"] == 1
    assert [counts[f"override {text}"] for text in typed] == [1, 1, 1, 1]


def test_a_job_of_a_sweep_is_checked_once_and_composed_by_hydra_once(counts: Counter[str], task) -> None:
    ran = task()
    same = ["seed=3", "optimizer=sgd", "trainer.progress=false", "name='a b'"]
    assert main(["-m", "optimizer.lr=0.1,0.2,3e-1", *same]) == 0
    assert counts["jobs that Hydra composes"] == 3
    assert counts["validations"] == 3
    assert [(config.optimizer.lr, config.run_folder.name) for config in ran] == [(0.1, "0"), (0.2, "1"), (0.3, "2")]
    assert "trainer.progress=False" in ran[0].overrides  # as Hydra writes it


@pytest.mark.parametrize("again", ["optimizer.lr=0.1,0.1", "output=${oc.env:HOME},${oc.env:HOME}/more"])
def test_a_job_is_checked_again_if_its_config_was_used_or_can_change(again: str, counts: Counter[str], task) -> None:
    ran = task()
    assert main(["-m", again, "hydra.sweep.dir=sweep"]) == 0
    assert [str(config.run_folder) for config in ran] == ["sweep/0", "sweep/1"]
    assert counts["validations"] > 2
    assert ran[0] is not ran[1]


def test_a_job_in_another_process_gets_no_config() -> None:
    jobs = CheckedJobs(["seed=1"])
    jobs.add([Override.read("seed=1")], compose(["seed=1"]))
    assert jobs.configs
    other = pickle.loads(pickle.dumps(jobs))
    assert (other.labels, other.configs) == (["seed=1"], {})
