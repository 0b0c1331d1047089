"""The messages about rules and parameters that do not match."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from lrflow.layers import Rule, resolve

REST = Rule("rest", match="*")


@pytest.fixture
def reported(net: nn.Module, refused: Callable) -> Callable[..., dict[str, str]]:
    """Return the problems of rules for the small net; a last rule claims all other parameters."""
    return lambda *rules: refused(resolve, net, [*rules, REST], lr=1.0)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("hed.*", "nearest: head.*"),
        ("backbone.linaer.weight", "nearest: backbone.linear.weight"),
        (r"re:bakbone\.linear\..*", "nearest: backbone.linear."),
        ("Head.*", "nearest: head.*"),
        ("head", "head is a module; its parameters are head.*"),
        ("backbone.norm", "its parameters are backbone.norm.*"),
        ("zzz", "the names are embed.weight, "),
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_nearest_names(reported: Callable, pattern: str, hint: str) -> None:
    problems = reported(Rule("a", match=pattern))
    assert list(problems) == ["layers.rules[0].match"]
    assert (
        f"'{pattern}': matches none of the 8 parameter names".replace("\\", "\\\\") in problems["layers.rules[0].match"]
    )
    assert hint in problems["layers.rules[0].match"]


def test_one_unmatched_pattern_in_a_list_is_an_error(reported: Callable) -> None:
    assert "'hed.*'" in reported(Rule("a", match=["head.*", "hed.*"]))["layers.rules[0].match"]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("linear", "no module of this class", "nearest: Linear"),
        ("torch.nn.Lineer", "no module of this class", "nearest: Linear"),
        ("tensorflow.Linear", "no module of this class", "nearest: Linear"),
        ("Conv2d", "no module of this class", "parameters are held by Embedding, LayerNorm, Linear, OwnNorm"),
        ("Backbone", "holds no parameters itself", 'match: "backbone.*"'),
    ],
)
def test_a_class_that_is_not_there(reported: Callable, name: str, message: str, hint: str) -> None:
    problem = reported(Rule("a", type=name))["layers.rules[0].type"]
    assert message in problem
    assert hint in problem


def test_only_a_misspelt_class_in_a_list_is_an_error(net: nn.Module, reported: Callable) -> None:
    assert list(reported(Rule("a", type=["Linear", "Layernorm"]))) == ["layers.rules[0].type"]
    assert resolve(net, [Rule("a", type=["Linear", "Conv2d"]), REST], lr=1.0)[0].tensors == 4


def test_absent_dimensions_and_kinds(reported: Callable) -> None:
    problems = reported(Rule("a", ndim=4), Rule("b", match="head.*", select=["norm"]))
    assert "the model's parameters have 1, 2" in problems["layers.rules[0].ndim"]
    assert "alone they select: match 2, select 3" in problems["layers.rules[1]"]


def test_kinds_that_the_model_has(refused: Callable) -> None:
    problems = refused(resolve, nn.Linear(2, 2), [Rule("a", select=["norm", "embedding"]), REST], lr=1.0)
    assert "the model has bias, matrix" in problems["layers.rules[0].select"]


def test_a_rule_that_comes_too_late_names_the_earlier_ones(reported: Callable) -> None:
    problem = reported(Rule("bias", select="bias"), Rule("weight", ndim=2), Rule("head", match="head.*"))
    assert "claimed by earlier rules: bias, weight" in problem["layers.rules[2].match"]


def test_a_rule_for_frozen_parameters(net: nn.Module, reported: Callable) -> None:
    net.head.requires_grad_(False)  # type: ignore[union-attr]
    problem = reported(Rule("head", match="head.*", lr="10x"))["layers.rules[0].match"]
    assert "selects only parameters that the model has frozen: head.weight, head.bias" in problem


def test_long_lists_are_cut_short(refused: Callable) -> None:
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    problem = refused(resolve, deep, [Rule("a", match="0.*")], lr=1.0)["layers.rules"]
    assert "18 trainable parameters match no rule" in problem
    assert "3.bias and 12 more" in problem
