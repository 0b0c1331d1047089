"""The loss of a language model: over all tokens of a set, without those that are left out, and what follows from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrflow.objectives import chosen_loss, of_tokens
from lrflow.training import Supervised
from lrflow.training.objective import Criterion, build_criterion


def language_model(**more: object) -> Criterion:
    return build_criterion(of_tokens(chosen_loss({"name": "cross_entropy", **more}), {"val": 2.5}))


def test_each_token_counts_once_and_padding_not_at_all() -> None:
    torch.manual_seed(0)
    module = Supervised(nn.Identity(), language_model())
    outputs, targets = torch.randn(5, 4, 7), torch.randint(7, (5, 4))
    targets[0, 1:] = targets[4] = -100
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):  # the last batch has no target at all
        module.count("val", outputs[rows], targets[rows])
    found = {name: float(value) for name, value in module.scores("val").items()}
    expected = float(functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()))
    assert found == pytest.approx({
        "val/loss": expected,
        "val/perplexity": math.exp(expected),
        "val/bits_per_byte": expected / math.log(2) / 2.5,
    })  # fmt: skip
    assert float(module.loss(outputs, targets)) == pytest.approx(expected)


def test_perplexity_is_logged_only_of_a_plain_loss_and_is_never_an_error() -> None:
    assert language_model().chosen.logged == ("loss", "perplexity", "bits_per_byte")
    assert language_model(weight=[1.0] * 7).chosen.logged == ("loss",)
    assert of_tokens(chosen_loss("mse"), None).logged == chosen_loss("mse").logged
    assert language_model().chosen.of_loss(1e6, "val")["perplexity"] == math.inf
    assert math.isnan(language_model().chosen.of_loss(math.nan, "val")["perplexity"])
