"""What counts as a loss that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import Diverging, Facts, History
from lrflow.training import Block

STEPS = np.arange(400)


@pytest.mark.parametrize(
    ("loss", "since"),
    [
        (2.3 * np.exp(-STEPS / 100), None),
        (2.3 + 0 * STEPS, None),
        (np.where(STEPS < 200, 2.3 * np.exp(-STEPS / 100), 9.0), 200),
        (np.where(STEPS == 200, 100.0, 2.3 * np.exp(-STEPS / 100)), None),
        (2.3 * np.exp(STEPS / 100), 0),
    ],
    ids=["falls", "stays", "jumps", "spikes", "rises"],
)
def test_judge(loss: np.ndarray, since: int | None) -> None:
    history, rates = History(Facts(400, lr=0.3)), np.full((400, 1), 0.3)
    history.extend(Block(0, loss, loss, loss, rates, rates))
    detector = Diverging()
    detector.kind = "diverging"
    finding = detector.judge(history)
    if since is None:
        assert finding is None
    else:
        assert finding is not None
        assert abs(finding.since - since) <= 1
        assert finding.remedy.startswith("optimizer.lr=0.1,")
