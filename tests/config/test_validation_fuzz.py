"""Whatever is typed, the answer is a config or a list of problems."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lrflow.config import Config, compose, validate
from lrflow.config.composition.interpolation import leaves
from lrflow.config.composition.options import GROUPS, Catalogue
from lrflow.config.composition.overrides import Override, read_overrides
from lrflow.errors import ConfigError

KEYS = [key for key, _ in leaves(OmegaConf.to_container(compose().source)) if "[" not in key]
PARTS = sorted({part for key in KEYS for part in key.split(".")} | {"", "_target_", "hydra", "0", "trust", "x"})

keys = st.one_of(
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join),
    st.builds(lambda key, cut: key[:cut] + key[cut + 1 :], st.sampled_from(KEYS), st.integers(0, 12)),
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["???", "${x}", "${", "${oc.env:NO}", "1e-3", "10%", "3 epochs", "auto", "os.system", "torch.nn.Linear"]
    ),
)
nested = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARTS[1:]), inner, max_size=3),
    max_leaves=6,
)


def answers(problems: list) -> None:
    assert problems
    for problem in problems:
        assert problem.message
        assert "use +" not in str(problem)
        assert "Traceback" not in str(problem)


@pytest.mark.parametrize("signs", ["", "+", "~"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys, text=st.one_of(st.text(max_size=10), values.map(str)))
def test_any_override(signs: str, key: str, text: str) -> None:
    try:
        config = compose([f"{signs}{key}={text}"])
    except ConfigError as error:
        answers(error.problems)
    else:
        assert isinstance(config, Config)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys.filter(lambda key: key.strip(".")), value=nested)
def test_any_value_anywhere(default: Config, key: str, value: object) -> None:
    source = default.source.copy()
    try:
        OmegaConf.update(source, key, value, force_add=True)
    except Exception:
        return  # no config at all
    try:
        validate(source, default.choices)
    except ConfigError as error:
        answers(error.problems)


CATALOGUE = Catalogue()
sweeps = st.sampled_from(
    ["1,2", "a,b", "range(1,3)", "glob(*)", "choice(1,2)", "interval(0,1)", "sgd,adamw", "[1],[2]", "shuffle(1,2)"]
)


@settings(max_examples=200, deadline=None)
@given(
    key=st.one_of(keys, st.sampled_from(GROUPS)),
    text=st.one_of(sweeps, st.text(max_size=8)),
    signs=st.sampled_from("+~ "),
)
def test_any_sweep_can_be_listed(key: str, text: str, signs: str) -> None:
    overrides = read_overrides([Override.read(f"{signs.strip()}{key}={text}")], CATALOGUE, sweep=True)
    if overrides.problems:
        answers(overrides.problems)
    else:
        assert overrides.jobs()
