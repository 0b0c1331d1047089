"""What of a feedback is told before the run."""

from __future__ import annotations

import pytest

from lrflow.config import compose
from lrflow.config.checks.metrics import guessed_modes, unlikely_settings
from lrflow.errors import ConfigError
from lrflow.schedules import Horizon

RUN = Horizon(120, 20)
OWN = "model.loss=null"  # as for a module of the user's own, which may log any metric


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["feedback=plateau"], []),
        (["feedback=plateau", "feedback.monitor=val/accuracy", "feedback.mode=max"], []),
        (
            ["feedback=plateau", "feedback.monitor=val/accuracy"],
            ["val/accuracy: assuming that higher is better, from its name. If lower is better, add feedback.mode"],
        ),
        (["feedback=greedy", "feedback.monitor=train/top5_acc"], ["train/top5_acc: assuming that higher is better"]),
        (["feedback=greedy", "feedback.monitor=train/reward_loss"], []),
        (["feedback=greedy", "feedback.monitor=train/account"], ["train/account: assuming that lower is better"]),
        (
            ["feedback=greedy", "feedback.monitor=train/acc", "feedback.mode=min"],
            ["feedback.mode is min, but train/acc"],
        ),
        (
            ["trainer.checkpoint.monitor=val/f1"],
            ["val/f1: assuming that higher is better"],
        ),
        (["trainer.checkpoint.monitor=val/f1", "trainer.checkpoint.mode=max"], []),
        (["feedback=greedy", "feedback.every=120"], []),
        (
            ["feedback=greedy", "feedback.every=7 epochs"],
            ["feedback.every is 7 epochs, but the run has only 120 steps"],
        ),
        (["feedback=plateau", "feedback.monitor=train/loss", "feedback.every=500"], ["feedback.every is 500 steps"]),
        (["feedback=sasa", "feedback.every=121"], ["feedback.every is 121 steps"]),
    ],
)
def test_warnings(overrides: list[str], said: list[str]) -> None:
    config = compose([*overrides, OWN])
    found = [*guessed_modes(config.directions), *unlikely_settings(config, RUN)]
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_a_mode_applies_to_its_metric_everywhere() -> None:
    config = compose(
        ["trainer.checkpoint.monitor=val/x", "feedback=plateau", "feedback.monitor=val/x", "feedback.mode=max", OWN]
    )
    assert config.trainer.checkpoint.mode == config.feedback.mode == config.feedback.node()["mode"] == "max"
    assert not [*guessed_modes(config.directions), *unlikely_settings(config, RUN)]


def test_a_guessed_mode_is_reported_once() -> None:
    config = compose(["trainer.checkpoint.monitor=val_acc", "feedback=plateau", "feedback.monitor=val_acc", OWN])
    assert not unlikely_settings(config, RUN)  # it is no warning
    (told,) = guessed_modes(config.directions)
    better = "val_acc: assuming that higher is better, from its name."
    assert told == f"{better} If lower is better, add trainer.checkpoint.mode=min."


def test_two_modes_of_one_metric_are_an_error_that_names_both_keys() -> None:
    words = [
        "trainer.checkpoint.monitor=val/x",
        "trainer.checkpoint.mode=min",
        "find.monitor=val/x",
        "find.mode=max",
        OWN,
    ]
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert [problem.key for problem in caught.value.problems] == ["find.mode"]
    assert "trainer.checkpoint.mode is min for the same metric, val/x" in str(caught.value)


def test_a_run_shorter_than_the_interval_of_feedback() -> None:
    config = compose(["feedback=plateau", "feedback.monitor=train/loss"])
    assert unlikely_settings(config, Horizon(15, 20))[0].startswith(
        "feedback.every is 1 epoch, but the run has only 15 steps"
    )


def test_swapped_letters_of_a_short_word() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["feedback=plateau", "feedback.mode=mni"])
    assert caught.value.problems[0].hint == "did you mean min?"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["feedback=plateau", "feedback.factor=2"], "expected a number above 0 and below 1"),
        (["feedback=kl", "feedback.factor=0.5"], "expected a number above 1"),
        (["feedback=sasa", "feedback.significance=1"], "expected a number above 0 and below 1"),
        (["feedback=sasa", "feedback.min_samples=3"], "expected a whole number of at least 4, or null"),
        (["feedback=greedy", "feedback.threshold_mode=asb"], "expected one of rel, abs"),
    ],
)
def test_each_kind_has_its_own_ranges(given: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(given)
    assert [problem.message for problem in caught.value.problems] == [told]
