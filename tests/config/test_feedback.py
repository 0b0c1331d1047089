"""What of a feedback is told before the run."""

from __future__ import annotations

import pytest

from lrflow.config import compose
from lrflow.config.feedback import doubts
from lrflow.errors import ConfigError
from lrflow.schedules import Horizon

RUN = Horizon(120, 20)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["feedback=plateau"], []),
        (["feedback=plateau", "feedback.monitor=val/accuracy", "feedback.mode=max"], []),
        (["feedback=plateau", "feedback.monitor=val/accuracy"], ["feedback.mode is min, and val/accuracy looks like"]),
        (["feedback=greedy", "feedback.monitor=train/top5_acc"], ["feedback.mode is min, and train/top5_acc"]),
        (["feedback=greedy", "feedback.monitor=train/reward_loss"], []),
        (["feedback=greedy", "feedback.monitor=train/account"], []),
        (["trainer.checkpoint.monitor=val/f1"], ["trainer.checkpoint.mode is min, and val/f1"]),
        (["trainer.checkpoint.monitor=val/f1", "trainer.checkpoint.mode=max"], []),
        (["feedback=greedy", "feedback.every=120"], []),
        (["feedback=greedy", "feedback.every=7 epochs"], ["feedback.every is 7 epochs, and the run has 120 steps"]),
        (["feedback=plateau", "feedback.monitor=train/loss", "feedback.every=500"], ["feedback.every is 500 steps"]),
        (["feedback=sasa", "feedback.every=121"], ["feedback.every is 121 steps"]),
    ],
)
def test_what_is_hardly_meant(overrides: list[str], said: list[str]) -> None:
    found = doubts(compose(overrides), RUN)
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_a_run_shorter_than_the_epoch_after_which_it_looks() -> None:
    config = compose(["feedback=plateau", "feedback.monitor=train/loss"])
    assert doubts(config, Horizon(15, 20))[0].startswith("feedback.every is 1 epoch, and the run has 15 steps")


def test_swapped_letters_of_a_short_word() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["feedback=plateau", "feedback.mode=mni"])
    assert caught.value.problems[0].hint == "did you mean min?"
