"""What counts as a spike, and as a warmup that is too short."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import Spiking, WarmupTooShort
from tests.health.histories import history, judged

STEPS = np.arange(400)
FALLS = 2.3 * np.exp(-STEPS / 100)


@pytest.mark.parametrize(
    ("loss", "grad_norm", "since"),
    [
        (FALLS, 1.0, None),
        (np.where(STEPS == 370, 5.0, FALLS), 1.0, 370),
        (np.where(STEPS == 370, 1.0, FALLS), 1.0, None),
        (np.where(STEPS >= 370, 5.0, FALLS), 1.0, None),
        (FALLS, np.where(STEPS == 370, 50.0, 1.0), 370),
        (FALLS, np.where((STEPS == 370) | (STEPS == 0), 50.0, 1.0), None),
    ],
    ids=["falls", "spike", "low", "stays", "gradient", "known gradient"],
)
def test_spiking(loss: np.ndarray, grad_norm: np.ndarray | float, since: int | None) -> None:
    finding = judged(Spiking(), "spiking", history(loss, grad_norm=grad_norm))
    assert (finding and finding.since) == since


HUMP = np.where((STEPS > 40) & (STEPS < 160), 4.0, FALLS)
SHORT = np.where((STEPS > 40) & (STEPS < 100), 4.0, FALLS)


@pytest.mark.parametrize(
    ("loss", "warmup", "lr", "found"),
    [
        (FALLS, 40, 0.3, False),
        (HUMP, 40, 0.3, True),
        (HUMP, 0, 0.3, False),
        (SHORT, 40, 0.3, False),
        (HUMP, 40, np.where(STEPS < 130, 0.3, 0.1), False),
        (np.where(STEPS == 45, 4.0, FALLS), 40, 0.3, False),
    ],
    ids=["falls", "hump", "no warmup", "costs nothing", "until the LR decays", "spike"],
)
def test_warmup_too_short(loss: np.ndarray, warmup: int, lr: np.ndarray | float, found: bool) -> None:
    finding = judged(WarmupTooShort(), "warmup_too_short", history(loss, lr=lr, warmup=warmup))
    assert (finding is not None) is found
    assert finding is None or finding.remedy.startswith("schedule.warmup=30%")


def test_the_remedy_is_no_shorter_warmup() -> None:
    loss = np.where((STEPS > 140) & (STEPS < 320), 4.0, np.exp(-STEPS / 100))
    finding = judged(WarmupTooShort(), "warmup_too_short", history(loss, warmup=140))
    assert finding is not None
    assert finding.remedy == "optimizer.lr=0.1"


def test_the_share_of_the_stability_bound_at_the_end_of_the_warmup() -> None:
    shown = history(FALLS, warmup=40)
    for step, share in ((20, 0.5), (40, 1.4), (80, 0.9), (200, 0.8)):
        shown.add_sharpness(step, 10.0, share)
    assert judged(WarmupTooShort(), "warmup_too_short", shown) is not None
