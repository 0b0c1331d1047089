"""Rules that say what does not go together, or freeze for longer than the run is: told with the config, all at once."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from lrflow.config import compose
from lrflow.config.schemas import layers as schema
from lrflow.errors import ConfigError
from lrflow.layers import Rule

REST = "{name: rest, match: '*'}"


def told(*rules: str, more: tuple[str, ...] = ("trainer.max_epochs=6",)) -> dict[str, str]:
    """The problems of these rules in a run of 6 epochs of 20 steps: key -> the whole text."""
    try:
        compose([f"layers.rules=[{', '.join(rules)}]", *more])
    except ConfigError as error:
        return {problem.key: str(problem) for problem in error.problems}
    return {}


@pytest.mark.parametrize(
    "rule",
    [
        "{name: a, match: 'head.*', unfreeze: 5 epochs, unfreeze_warmup: 19}",
        "{name: a, match: 'head.*', unfreeze: 119}",
        "{name: a, match: 'head.*', unfreeze: 0, unfreeze_warmup: 5%}",
        "{name: a, match: 'head.*', freeze: true, freeze_statistics: false}",
        "{name: a, match: 'head.*', unfreeze: 1 epoch, freeze_after: 119, freeze_statistics: false}",
        "{name: a, match: [lost.*], optional: true, settings: {betas: [0.8, 0.9], eps: 1e-10}}",
    ],
)
def test_valid_freezing(rule: str) -> None:
    assert told(rule, REST) == {}


@pytest.mark.parametrize(
    ("settings", "key", "text"),
    [
        ("unfreeze: 6 epochs", "unfreeze", "is 120 steps, but the run has only 120\n    the group would never train"),
        ("unfreeze: 100%", "unfreeze", "is 120 steps, but the run has only 120"),
        ("unfreeze: 50%, unfreeze_warmup: 60", "unfreeze_warmup", "ends at step 120, but the run has only 120"),
        ("unfreeze: 2, freeze: true", "unfreeze", "a frozen group does not train"),
        ("unfreeze_warmup: 2", "unfreeze_warmup", "the group is never unfrozen"),
        ("freeze_statistics: false", "freeze_statistics", "the group is not frozen"),
        ("unfreeze: 2 epocs", "unfreeze", "not a duration"),
        ("unfreze: 2 epochs", "unfreze", "unfreeze"),
        ("freeze: true, lr: 2x", "lr", "a frozen group does not train"),
        ("freeze: true, freeze_after: 2", "freeze_after", "a frozen group does not train"),
        ("freeze_after: 6 epochs", "freeze_after", "is 120 steps, but the run has only 120"),
        ("freeze_after: 0", "freeze_after", "expected a duration above 0"),
        ("unfreeze: 2 epochs, freeze_after: 40", "freeze_after", "the group trains only from step 40 on"),
        ("settings: {lr: 3}", "settings.lr", "a rule has a field for it"),
        ("settings: {betaz: [0.8, 0.9]}", "settings.betaz", "did you mean layers.rules[0].settings.betas?"),
        ("settings: {betas: [0.8, 1.9]}", "settings.betas", "each at least 0 and below 1"),
        ("settings: {betas: [0.8, 0.9, 0.9]}", "settings.betas", "torch.optim.AdamW has 2"),
        ("settings: {eps: -1}", "settings.eps", "expected a number above 0"),
        ("settings: {fused: true}", "settings.fused", "is a setting of the whole optimizer"),
        ("settings: {amsgrad: true}", "settings.amsgrad", "is a setting of the whole optimizer"),
        ("settings: 3", "settings", "mapping"),
    ],
)
def test_invalid_freezing(settings: str, key: str, text: str) -> None:
    found = told(f"{{name: a, match: 'head.*', {settings}}}", REST)
    assert list(found) == [f"layers.rules[0].{key}"]
    assert text in found[f"layers.rules[0].{key}"]


def test_a_fraction_of_a_run_of_unknown_length() -> None:
    more = ("data=custom", "data._target_=lrflow.data.Digits", "model.shape=[1, 8, 8]", "model.outputs=10")
    more = (*more, "model.loss=cross_entropy")
    rule = "{name: a, match: 'head.*', unfreeze: 100%}"
    assert list(told(rule, REST, more=more)) == ["layers.rules[0].unfreeze"]
    assert told(rule.replace("100%", "50%"), REST, more=more) == {}


def test_epochs_of_unknown_length() -> None:
    rule = "{name: a, match: 'head.*', unfreeze: 2 epochs}"
    found = told(rule, REST, more=("task=plan", "horizon.steps=100"))
    assert "give steps ('500 steps') or a share of the run ('10%')" in found["layers.rules[0].unfreeze"]
    assert told(rule, REST, more=("task=plan", "horizon.steps=100", "horizon.steps_per_epoch=10")) == {}


def test_a_run_with_every_group_frozen_at_first_is_an_error() -> None:
    late = "{name: a, match: 'head.*', unfreeze: 2}"
    assert list(told(late, "{name: b, match: '*', unfreeze: 1}")) == ["layers.rules"]
    assert list(told(late, "{name: b, match: '*', freeze: true}")) == ["layers.rules"]
    assert told(late, "{name: b, match: '*', unfreeze: 0}") == {}


def test_problems_of_all_rules_are_reported_at_once() -> None:
    found = told("{name: a, lr: 2x}", "{name: frozen, match: 'head.*'}", REST)
    assert list(found) == ["layers.rules[0].match", "layers.rules[1].name"]
    assert "needs one of match, type, ndim and select" in found["layers.rules[0].match"]


def test_a_rule_of_a_config_has_the_keys_and_defaults_of_the_class() -> None:
    written = {name: field.default for name, field in schema.Rule.model_fields.items() if not field.is_required()}
    made = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(Rule)
        if f.name not in ("name", "parameters", "depth")
    }
    assert written.keys() == made.keys()
    assert {**written, "unfreeze_warmup": written["unfreeze_warmup"].value} == made
