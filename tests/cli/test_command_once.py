"""A run is composed once and checked once; each of its values is parsed once, and its schedule is built once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrflow.cli import main
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
    count(Config, "model_validate", lambda *_: "validations")
    count(Duration, "parse", lambda given: None if isinstance(given, Duration) else f"duration {given}")
    count(Schedule, "__init__", lambda *_: "schedules")
    count(OverridesParser, "parse_override", lambda _, text: f"override {text}")
    return found


def test_the_way_of_an_override(counts: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["optimizer.lr=0.01", "layers=layer_decay", "schedule.warmup=7%", "trainer.max_steps=20"]
    assert main([*typed, "trainer.max_epochs=null"]) == 0, capsys.readouterr().err
    assert counts["compositions"] == 1
    assert counts["validations"] == 1
    assert counts["schedules"] == 1
    assert counts["duration 7%"] == 1
    assert [counts[f"override {text}"] for text in typed] == [1, 1, 1, 1]
