from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from lrflow.config.composition.overrides import OF_ANY_SWEEP, expand
from lrflow.config.schemas.sweep import Sweep
from lrflow.config.schemas.types import ClockTime, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2 hours", 7200),
        ("1 hour", 3600),
        ("30 min", 1800),
        ("90 s", 90),
        ("1.5h", 5400),
        ("1 h 30 min", 5400),
        ("1 day, 2 hours", 93600),
        ("5 minutes", 300),
        ("10 SEC", 10),
        (".5 h", 1800),
    ],
)
def test_reads_a_time_on_the_clock(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert TypeAdapter(ClockTime).validate_python(text) == text


@pytest.mark.parametrize(
    "value",
    [
        60,
        1.5,
        "60",
        "",
        "2 epochs",
        "hours",
        "2 hours and",
        "-1 h",
        "0 s",
        "1 h x",
        "s",
        "10%",
        True,
        None,
        [1],
        "1e400 h",
    ],
)
def test_a_value_without_a_unit_of_time_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a time with its unit, such as 2 hours, 30 min or 90 s"):
        TypeAdapter(ClockTime).validate_python(value)


@pytest.mark.parametrize(
    ("texts", "sampler"),
    [
        (["optimizer.lr=1,2", "sweep.timeout=2 hours"], "grid"),
        (["optimizer.lr=1,2", "sweep.max_time=2 hours", "sweep.retries=0", "sweep.isolate=false"], "grid"),
        (["optimizer.lr=1,2", "sweep.timeout=2 hours", "sweep.n_trials=3"], None),
        (["optimizer.lr=interval(1,2)", "sweep.timeout=2 hours"], None),
        (["optimizer.lr=1,2", "sweep=lr_bayes", "sweep.timeout=2 hours"], None),
        (["sweep.resume=last", "sweep.timeout=2 hours"], None),
        (["optimizer.lr=1,2", "sweep.sampler=random"], "random"),
    ],
)
def test_settings_of_how_jobs_run_leave_a_grid_a_grid(texts: list[str], sampler: str | None) -> None:
    found = {override.key: override.value for override in expand(texts)}
    assert found.get("hydra.sweeper.sampler") == sampler
    assert set(OF_ANY_SWEEP) <= Sweep.model_fields.keys()
