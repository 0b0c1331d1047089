"""`schedule.batch` as it is typed: what is wrong with it, and the durations that its clocks count."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from lrflow.config import compose
from lrflow.config.batch_schedule import Epoch, count_batches
from lrflow.config.schemas.average import Average
from lrflow.errors import ConfigError
from lrflow.schedules.batch_schedule import compile_batches
from lrflow.schedules.time import Duration

RUN = ["data=digits", "data.batch_size=32", "trainer.max_epochs=3", "trainer.devices=1"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("schedule.batches=[[0,64]]", "did you mean schedule.batch?"),
        ("schedule.batch=64", "for one batch size: data.batch_size=64"),
        ("schedule.batch=[0,64]", "a list of [duration, batch size]"),
        ("schedule.batch=[[0,0]]", "whole numbers above 0, such as [[0, 64]], not 0"),
        ("schedule.batch=[[0,64 samples]]", "whole numbers above 0, such as [[0, 64]], not '64 samples'"),
        ("schedule.batch=[[5,64]]", "a first size that begins at 0, not at 5 steps"),
        ("schedule.batch=[[0,64],[10,64]]", "not 64 twice in a row"),
        ("schedule.batch=[[0,64],[20,128],[10,256]]", "begins at step 10, before the size that precedes it"),
        ("schedule.batch=[[0,64],[10,128],[10,256]]", "which no step would have"),
        ("schedule.batch=[[0,64],[90,128]]", "begins at step 90, but the run has only 60 steps"),
        ("schedule.batch=[[0,64],[10,1280]]", "is more than an epoch of the training data, 1,257 examples"),
    ],
)
def test_a_wrong_batch_is_named_with_what_was_expected(typed: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        count_batches(compose([*RUN, typed]), Epoch(40, 32, 1257), 1)
    (problem,) = raised.value.problems
    assert problem.key == typed.partition("=")[0]
    assert expected in f"{problem.message}; {problem.hint}"


def test_the_last_epoch_that_is_averaged_is_the_one_with_the_last_batch() -> None:
    sizes = [(Duration.parse(0), 10), (Duration.parse("1 epoch"), 20)]
    horizon = compile_batches(sizes, 40, max_epochs=3)
    average: Any = TypeAdapter(Average).validate_python({"kind": "tail", "last": "1 epoch"})
    assert horizon.steps == 8
    assert average.averaging(horizon).first == 7  # of epochs of 4, 2 and 2 steps
