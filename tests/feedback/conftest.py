from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lrflow.errors import ConfigError
from lrflow.feedback import Feedback, MetricFeedback


@pytest.fixture
def factors() -> Callable[..., list[float]]:
    """Return the factor after each of these readings."""

    def drive(feedback: MetricFeedback, readings: list[float]) -> list[float]:
        found = []
        for reading in readings:
            feedback.update(reading)
            found.append(feedback.factor)
        return found

    return drive


@pytest.fixture
def wrong() -> Callable[..., set[str]]:
    """Return the keys of the problems of these settings; fails if there are none."""

    def find(kind: type[Feedback], **settings: Any) -> set[str]:
        with pytest.raises(ConfigError) as caught:
            kind(**settings)
        return {problem.key for problem in caught.value.problems}

    return find
