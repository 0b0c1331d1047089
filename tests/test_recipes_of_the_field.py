"""The plans of published recipes have the LRs of the published rules, and the page with its pictures is current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
MODULES = ("recipes_of_the_field", "field_rules", "field_networks")


@pytest.fixture(scope="module")
def field() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        patch.setenv("LRFLOW_TRUST", "field_networks")
        import recipes_of_the_field

        yield recipes_of_the_field
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def compared(field: ModuleType) -> list[Any]:
    return list(field.compare())


def test_each_recipe_has_the_rule_of_its_source(field: ModuleType, compared: list[Any]) -> None:
    wrong = {
        one.recipe.name: one.error
        for one in compared
        if not (one.error < field.EXACT or one.error == pytest.approx(one.recipe.error, rel=0.02))
    }
    assert wrong == {}
    assert sum(one.error < field.EXACT for one in compared) >= 40


def test_other_settings_and_scalars_have_their_rules_too(field: ModuleType, compared: list[Any]) -> None:
    moving = [one for one in compared if one.settings]
    assert len(moving) >= 3
    assert [one.recipe.name for one in moving if one.settings_error >= field.EXACT] == []


def test_plans_pass_their_checks(compared: list[Any]) -> None:
    failed = {one.recipe.name: check.detail for one in compared for check in one.plan.check() if not check.ok}
    assert failed == {}


def test_recipes_are_short_and_each_has_an_entry(field: ModuleType, compared: list[Any]) -> None:
    files = sorted((DOCS / "field" / "recipe").glob("*.yaml"))
    assert sorted(one.recipe.name for one in compared) == [path.stem for path in files]
    assert [path.stem for path in files if len(path.read_text().splitlines()) > 20] == []
    assert [path.stem for path in files if "\ntrainer: {max_epochs: " not in path.read_text()] == []
    assert all(one.recipe.note for one in compared if one.recipe.error)


def test_the_page_and_its_pictures_are_current(field: ModuleType, compared: list[Any]) -> None:
    assert field.stale(compared) == [], "run python docs/recipes_of_the_field.py"


def test_another_plan_would_be_noticed(field: ModuleType, compared: list[Any]) -> None:
    first, second = compared[:2]
    other = replace(first, plan=second.plan)
    assert not field.alike(field.picture(first), field.picture(other))
    assert field.relative(np.array([1.0, 0.51]), np.array([1.0, 0.5])) == pytest.approx(0.02)
