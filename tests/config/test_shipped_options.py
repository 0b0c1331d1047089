"""Every option and recipe that lrflow ships is sound, and says nothing that its targets do not take."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lrflow.config import checks, compose, schema, settings
from lrflow.config.catalogue import GROUPS, Catalogue, Option, shipped_keys
from lrflow.config.files import read
from lrflow.config.spelling import closest, names_of
from lrflow.config.targets import CONTROLS, _parameters, check_arguments, locate
from lrflow.layers import Rule
from lrflow.layers.rules import SELECTS

CATALOGUE = Catalogue()
OPTIONS = [option for group in GROUPS for option in CATALOGUE.options(group).values()]


def targets_in(path: Path) -> list[str]:
    """Every `_target_` that an option gives."""
    return re.findall(r"_target_: *([\w.]+)", path.read_text())


TARGETS = dict.fromkeys((o.group, target) for o in OPTIONS if o.group != "recipe" for target in targets_in(o.path))
NODES = [(group, target, shipped_keys(group, target)) for group, target in TARGETS]


def named(option: Option) -> str:
    return f"{option.group}={option.name}"


@pytest.mark.parametrize("option", OPTIONS, ids=named)
def test_every_option_can_be_chosen(option: Option, tmp_path: Path) -> None:
    (tmp_path / "run.ckpt").touch()
    own = {
        "task=evaluate": [f"task.from={tmp_path}/run.ckpt"],
        "layers=airbench": ["optimizer=airbench"],  # which brings the route that its rules take
        "model=custom": ["model._target_=torch.nn.Flatten"],
        "layers=mup": ["layers.base={widths: [64, 64]}"],
        "scaling=linear": ["scaling.reference=256"],
        "scaling=sqrt": ["scaling.reference=256"],
        "data=custom": ["data._target_=lrflow.data.Digits", "model=custom", "model._target_=torch.nn.Flatten"],
    }
    config = compose([named(option), *own.get(named(option), [])])
    assert config.choices[option.group] == option.name


@pytest.mark.parametrize("option", OPTIONS, ids=named)
def test_every_option_says_in_a_line_what_it_is(option: Option) -> None:
    assert 10 < len(option.summary) < 100


@pytest.mark.parametrize(
    ("group", "target", "options"), NODES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_its_keys_bind_to_its_targets_signature(group: str, target: str, options: tuple[frozenset[str], ...]) -> None:
    extra, ignore = checks.PASSED.get(group, ((), ()))
    for keys in options:
        assert check_arguments(target, dict.fromkeys(keys - set(CONTROLS)), group, extra, ignore) == []


@pytest.mark.parametrize(
    ("group", "target", "options"), NODES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_further_argument_of_its_target_is_taken_for_a_typo(
    group: str, target: str, options: tuple[frozenset[str], ...]
) -> None:
    known = {key for keys in options for key in keys}
    for argument in _parameters(locate(target))[0].keys() - known:
        assert closest(argument, known - set(CONTROLS)) is None


def test_a_rule_has_the_keys_of_the_class_that_takes_it() -> None:
    assert set(names_of(schema.Rule)) == {field.name for field in fields(Rule)} - {"depth", "parameters"}  # of makers


@pytest.mark.parametrize("option", CATALOGUE.options("trainer").values(), ids=named)
def test_the_schema_documents_what_the_options_say(option: Option) -> None:
    said = set(read(option.path)) - {"defaults"}
    assert said <= set(names_of(settings.Trainer))


def test_the_default_trainer_says_everything_that_the_schema_knows() -> None:
    said = read(CATALOGUE.options("trainer")["auto"].path)
    assert set(said) == set(names_of(settings.Trainer))
    assert set(said["checkpoint"]) == set(names_of(settings.Checkpoint))


def test_the_schema_knows_the_kinds_of_parameters_that_rules_select() -> None:
    assert schema.SELECTS == SELECTS
