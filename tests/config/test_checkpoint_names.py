"""Patterns of names for the best checkpoints: what they give, and what is refused before the run."""

from __future__ import annotations

from typing import Any

import pytest

from lrflow.config import compose
from lrflow.config.checkpoint_names import NamePattern
from lrflow.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{epoch:03d}-{val/accuracy:.3f}", "007--0.125"),
        ("{step}", "400"),
        ("acc={val/accuracy:010.2e},{step:05}", "acc=-01.25e-01,00400"),
        ("fixed", "fixed"),
        ("{val/accuracy}", "-0.125"),
    ],
)
def test_names(pattern: str, name: str) -> None:
    values = {"epoch": 7, "step": 400, "val/accuracy": -0.125}
    assert NamePattern.parse(pattern).format(values) == name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a/{step}"], "'/' is not safe"),
        (["..{step}"], "does not begin with ."),
        (["-{step}"], "does not begin with -"),
        (["{step"], "expected fields in braces"),
        (["{}"], "the name of a metric, epoch or step"),
        (["{step!r}"], "the name of a metric, epoch or step"),
        (["{step.__class__}"], "a plain module trained with cross_entropy does not log this metric: step.__class__"),
        (["{epoch:.3f}"], "a width, such as 03d"),
        (["{epoch:5d}"], "a width, such as 03d"),
        (["{val/loss:{step}}"], "digits after the point"),
        (["{val/loss:.999999999f}"], "digits after the point"),
        (["{val/loss:/>9}"], "digits after the point"),
        (["step-{step}"], "are names of other checkpoints"),
        (["best"], "are names of other checkpoints"),
        (["{step}.ckpt"], "without .ckpt"),
        (["x" * 201], "at most 200 bytes"),
        (["{val/acuracy}"], "did you mean val/accuracy?"),
        (["{epoc}"], "did you mean epoch?"),
        (["{val/loss}", "best=2"], "could have the same name: metrics may be equal"),
        (["{epoch}", "best=2", "trainer.val_every=0.5 epochs"], "an epoch has several validations"),
        (["{step}", "monitor=null"], "which chooses the best, is null"),
    ],
)
def test_refused_before_the_run(words: list[str], told: str) -> None:
    name, *more = words
    given = [word if word.startswith("trainer.") else f"trainer.checkpoint.{word}" for word in more]
    with pytest.raises(ConfigError) as caught:
        compose([f'trainer.checkpoint.name="{name}"', *given])
    (problem,) = caught.value.problems
    assert problem.key == "trainer.checkpoint.name"
    assert told in str(problem)


def test_a_name_without_quotes_and_a_number_of_none() -> None:
    def told(word: str) -> Any:
        with pytest.raises(ConfigError) as caught:
            compose([word])
        return str(caught.value)

    assert "put it in quotes" in told("trainer.checkpoint.name={epoch:03d}")
    assert "above 0" in told("trainer.checkpoint.best=0")
