"""The factors of a transfer, against the rules of their papers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.plan.transfer import EXPONENTS, of_batch, of_betas, of_horizon, of_weight_decay

ratios = st.floats(0.01, 100)


def test_known_factors():
    longer = of_horizon(4)
    assert longer.value == pytest.approx(4**-0.32)
    assert (longer.low, longer.high) == pytest.approx((0.5, 4 ** -min(EXPONENTS)))
    assert of_horizon(1 / 4).low < of_horizon(1 / 4).value < of_horizon(1 / 4).high == 2
    assert of_horizon(4, 0.5).describe() == "horizon 0.5 (0.5 to 0.678): 4x the samples ^ -0.5 (scaling.exponent)"
    assert of_batch(4, "adam").value == 2
    assert of_batch(4, "sgd").value == 4
    # nanochat's rule: sqrt(batch) over the samples, with an LR that follows the root of the batch
    assert of_weight_decay(math.sqrt(4), batch=4, samples=10).value == pytest.approx(2 / 10)


@given(ratios, ratios, ratios)
def test_the_timescale_stays_the_same_share_of_the_run(lr, batch, samples):
    decay = of_weight_decay(lr, batch, samples).value
    steps = samples / batch
    assert 1 / (lr * decay) / steps == pytest.approx(1)


@given(ratios, st.floats(0.9, 0.9999))
def test_beta2_keeps_its_half_life_in_samples(batch, beta2):
    def half_life(beta):
        return math.log(0.5) / math.log(beta)

    new = beta2 ** of_betas(batch).value
    if 0 < new < 1:
        assert half_life(new) * batch == pytest.approx(half_life(beta2), rel=1e-3)


@given(ratios, ratios)
def test_two_transfers_are_one(first, second):
    for of in (of_horizon, lambda ratio: of_batch(ratio, "adam"), lambda ratio: of_batch(ratio, "sgd")):
        assert of(first).value * of(second).value == pytest.approx(of(first * second).value)
