from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.errors import ConfigError
from lrflow.layers import Rule
from lrflow.schedules import Cosine, Schedule


@pytest.mark.parametrize(
    ("lr", "peak", "scale"),
    [
        (None, 0.01, 1.0),
        ("10x", 0.1, 10.0),
        ("0.1x", 0.001, 0.1),
        (" 2X ", 0.02, 2.0),
        (0.002, 0.002, 0.2),
        ("1e-3", 0.001, 0.1),  # YAML 1.1 reads this as text
        (1, 1.0, 100.0),
    ],
)
def test_the_lr_is_absolute_or_a_multiple_of_the_peak(lr: object, peak: float, scale: float) -> None:
    rule = Rule("head", match="*", lr=lr)  # type: ignore[arg-type]
    assert rule.peak(0.01) == pytest.approx(peak)
    assert rule.scale(0.01) == pytest.approx(scale)


@given(st.floats(1e-12, 1e6))
def test_a_multiple_is_kept_to_the_last_bit(scale: float) -> None:
    assert Rule("a", match="*", lr=f"{scale!r}x").scale(0.3) == scale


@pytest.mark.parametrize(
    "lr", [0, -1e-3, "0x", "-2x", "x", "10y", "nan", float("nan"), float("inf"), "infx", True, [1]]
)
def test_an_lr_that_cannot_train_is_an_error(lr: object, refused) -> None:
    problems = refused(Rule, "head", match="*", lr=lr)
    assert list(problems) == ["lr"]
    assert "10x" in problems["lr"]


def test_zero_points_to_freezing(refused) -> None:
    assert "freeze: true" in refused(Rule, "head", match="*", lr=0)["lr"]


@pytest.mark.parametrize(
    ("pattern", "name", "holds"),
    [
        ("head.*", "head.weight", True),
        ("head.*", "head.fc.weight", True),
        ("head.*", "ahead.weight", False),
        ("head", "head.weight", False),
        ("*.bias", "a.b.bias", True),
        ("Head.*", "head.weight", False),
        ("layer[12].*", "layer2.weight", True),
        (r"re:layer\d+\.weight", "layer12.weight", True),
        (r"re:layer\d", "layer1.weight", False),
        (r"re:(?i)HEAD\..*", "head.weight", True),
        (["a.*", "b.*"], "b.c", True),
    ],
)
def test_match_covers_the_whole_dotted_name(pattern: object, name: str, holds: bool) -> None:
    assert Rule("r", match=pattern).matches_name(name) is holds  # type: ignore[arg-type]


def test_a_rule_from_a_config_is_the_rule_from_python() -> None:
    schedule = {"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": "lrflow.schedules.Cosine"}}
    config = {"name": "a", "match": ["x.*"], "ndim": 2, "select": "bias", "weight_decay": "1e-2", "schedule": schedule}
    rule = Rule.from_config(config)
    assert rule == Rule("a", match="x.*", ndim=[2], select=["bias"], weight_decay=0.01, schedule=Schedule(Cosine()))
    assert len({rule, Rule.from_config(config)}) == 1


def test_all_problems_of_a_rule_are_reported_at_once(refused) -> None:
    config = {
        "name": "a",
        "mach": "x",
        "match": "re:(",
        "select": ["norms"],
        "ndim": "2",
        "type": [],
        "lr": "fast",
        "weight_decay": -1,
        "schedule": {"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": "lrflow.schedules.Cosin"}},
        "freeze": "yes",
    }
    problems = refused(Rule.from_config, config, key="layers.rules[3]")
    key = "layers.rules[3]"
    assert {*problems} == {
        *(f"{key}.{field}" for field in ("mach", "match", "select", "ndim", "type", "lr", "weight_decay", "freeze")),
        f"{key}.schedule.shape._target_",
    }
    assert "did you mean match?" in problems[f"{key}.mach"]
    assert "did you mean norm?" in problems[f"{key}.select"]
    assert "Cosine" in problems[f"{key}.schedule.shape._target_"]


@pytest.mark.parametrize("name", [None, "", "  ", 3])
def test_a_rule_needs_a_name(name: object, refused) -> None:
    assert "name" in refused(Rule, name, match="*")


def test_the_name_frozen_is_reserved(refused) -> None:
    assert "frozen" in refused(Rule, "frozen", match="*")["name"]
    assert Rule("frozen", match="*", freeze=True).freeze


def test_a_rule_needs_a_selector(refused) -> None:
    assert "match: '*'" in refused(Rule, "all")["match"]


def test_a_frozen_rule_takes_no_settings(refused) -> None:
    problems = refused(Rule, "a", match="*", freeze=True, lr="2x", weight_decay=0.0, schedule=Schedule(Cosine()))
    assert list(problems) == ["lr", "weight_decay", "schedule"]


@pytest.mark.parametrize("config", [None, "head", ["head"], 3])
def test_a_rule_is_a_mapping(config: object, refused) -> None:
    assert "{name: head" in refused(Rule.from_config, config, key="layers.rules[1]")["layers.rules[1]"]


words = st.sampled_from(["", "a", "*", "re:a", "re:(", "bias", "2x", "x", "nan", "1e-3", "[", "true"])
values = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | words


fields = st.sampled_from([field.name for field in dataclasses.fields(Rule)])


@given(st.dictionaries(fields, values | st.lists(values, max_size=3) | st.dictionaries(words, values, max_size=2)))
def test_no_config_of_a_rule_fails_in_another_way(config: dict[str, object]) -> None:
    rule, keys = None, ["k"]
    try:
        rule = Rule.from_config(config, key="k")
    except ConfigError as error:
        keys = [problem.key for problem in error.problems]
    assert keys
    assert all(key.startswith("k") for key in keys)
    assert rule is None or (rule.name == config["name"] and rule.peak(1.0) > 0)


def test_a_custom_shape_needs_a_resolver(refused) -> None:
    shape = {"_target_": "mine.Shape"}
    config = {"name": "a", "match": "*", "schedule": {"_target_": "lrflow.schedules.Schedule", "shape": shape}}
    assert "layers.rules[0].schedule.shape._target_" in refused(Rule.from_config, config)
    found = {"lrflow.schedules.Schedule": Schedule, "mine.Shape": Cosine}
    assert Rule.from_config(config, resolve=found.__getitem__).schedule == Schedule(Cosine())


@pytest.mark.parametrize("route", ["", 3, ["muon"]])
def test_a_route_is_a_name(route: object) -> None:
    with pytest.raises(ConfigError, match=r"route.*expected the name of a route"):
        Rule("a", match="*", route=route)  # type: ignore[arg-type]


def test_a_frozen_rule_has_no_route() -> None:
    with pytest.raises(ConfigError, match="route = 'muon': a frozen group does not train"):
        Rule("a", match="*", freeze=True, route="muon")
