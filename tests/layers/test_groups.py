from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrflow.errors import ConfigError
from lrflow.layers import Group, LayerDecay, Rule, merge, resolve
from lrflow.schedules import Cosine, Linear, Schedule

REST = Rule("rest", match="*")


def names(group: Group) -> list[str]:
    return [name for name, _ in group.parameters]


def test_the_first_rule_that_matches_claims(net: nn.Module) -> None:
    rules = [Rule("no_decay", select=["bias", "norm"], weight_decay=0.0), Rule("head", match="head.*", lr="10x"), REST]
    no_decay, head, rest = resolve(net, rules, lr=0.01)
    assert names(no_decay) == [
        "backbone.linear.bias",
        "backbone.norm.weight",
        "backbone.norm.bias",
        "backbone.own.gain",
        "head.bias",
    ]
    assert names(head) == ["head.weight"]
    assert names(rest) == ["embed.weight", "backbone.linear.weight"]
    assert (head.lr, head.scale, head.weight_decay) == (pytest.approx(0.1), 10.0, None)
    assert (no_decay.lr, no_decay.scale, no_decay.weight_decay) == (0.01, 1.0, 0.0)
    assert (rest.tensors, rest.numel) == (2, 7 * 4 + 4 * 4)


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ({"type": "Linear"}, ["backbone.linear.weight", "backbone.linear.bias", "head.weight", "head.bias"]),
        ({"type": "torch.nn.Linear", "ndim": 1}, ["backbone.linear.bias", "head.bias"]),
        ({"type": "torch.nn.modules.linear.Linear", "match": "head.*"}, ["head.weight", "head.bias"]),
        ({"type": ["OwnNorm", "Embedding"]}, ["embed.weight", "backbone.own.gain"]),
        ({"ndim": [2]}, ["embed.weight", "backbone.linear.weight", "head.weight"]),
        ({"select": "matrix"}, ["backbone.linear.weight", "head.weight"]),
        ({"select": "embedding"}, ["embed.weight"]),
        ({"select": ["norm"], "ndim": 1, "match": "re:.*weight"}, ["backbone.norm.weight"]),
    ],
)
def test_every_selector_that_is_given_must_hold(net: nn.Module, selectors: dict, expected: list[str]) -> None:
    assert names(resolve(net, [Rule("some", **selectors), REST], lr=1.0)[0]) == expected


def test_a_type_is_also_any_of_its_base_classes() -> None:
    model = nn.MultiheadAttention(4, 2)
    assert names(resolve(model, [Rule("a", type="Linear"), REST], lr=1.0)[0]) == ["out_proj.weight", "out_proj.bias"]


@pytest.mark.parametrize("pattern", ["embed.*", "head.*"])
def test_a_tied_parameter_is_claimed_once_by_any_of_its_names(tied: nn.Module, pattern: str) -> None:
    first, rest = resolve(tied, [Rule("first", match=[pattern]), REST], lr=1.0)
    assert "embed.weight" in names(first)
    assert "head.weight" not in names(first) + names(rest)
    assert first.tensors + rest.tensors == len(list(tied.parameters()))


def test_a_tied_parameter_needs_one_place_where_name_and_type_hold(tied: nn.Module) -> None:
    rules = [Rule("head", match="head.*", type="Embedding"), REST]
    with pytest.raises(ConfigError, match="together"):
        resolve(tied, rules, lr=1.0)
    assert names(resolve(tied, [Rule("head", match="head.*", type="Linear"), REST], lr=1.0)[0]) == [
        "embed.weight",
        "head.bias",
    ]


def test_own_settings_reach_the_group(net: nn.Module) -> None:
    schedule = Schedule(Linear(), warmup="10%")
    head, rest = resolve(net, [Rule("head", match="head.*", lr=0.5, schedule=schedule), REST], lr=2.0, weight_decay=0.1)
    assert (head.lr, head.scale, head.weight_decay, head.schedule) == (0.5, 0.25, 0.1, schedule)
    assert (rest.weight_decay, rest.schedule) == (0.1, None)


def test_freezing(net: nn.Module) -> None:
    frozen, rest = resolve(net, [Rule("embeddings", select="embedding", freeze=True), REST], lr=1.0)
    assert (frozen.frozen, frozen.lr, frozen.scale, rest.frozen) == (True, 0.0, 0.0, False)
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == ["embed.weight"]


def test_parameters_that_the_model_froze_are_listed(net: nn.Module) -> None:
    net.backbone.requires_grad_(False)
    rest, frozen = resolve(net, [REST], lr=1.0)
    assert (frozen.name, frozen.frozen, frozen.tensors) == ("frozen", True, 5)
    assert all(name.startswith("backbone.") for name in names(frozen))
    assert rest.tensors == 3


def test_a_rule_that_freezes_claims_what_the_model_froze(net: nn.Module) -> None:
    net.backbone.linear.requires_grad_(False)
    backbone, rest = resolve(net, [Rule("backbone", match="backbone.*", freeze=True), REST], lr=1.0)
    assert (backbone.tensors, rest.tensors) == (5, 3)


def test_a_rule_called_frozen_takes_the_rest_of_the_frozen(net: nn.Module) -> None:
    net.backbone.linear.requires_grad_(False)
    groups = resolve(net, [Rule("frozen", match="embed.*", freeze=True), REST], lr=1.0)
    assert [(group.name, group.tensors) for group in groups] == [("frozen", 3), ("rest", 5)]


def test_nothing_is_frozen_if_there_is_a_problem(net: nn.Module, refused: Callable) -> None:
    refused(resolve, net, [Rule("a", match="embed.*", freeze=True), Rule("b", match="hed.*"), REST], lr=1.0)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_all_problems_are_reported_at_once(net: nn.Module, refused: Callable) -> None:
    rules = [
        Rule("head", match="hed.*"),
        Rule("deep", ndim=5),
        Rule("head", select="bias"),
        Rule("late", match="head.bias"),
    ]
    problems = refused(resolve, net, rules, lr=float("nan"), key="rules")
    assert list(problems) == [
        "optimizer.lr",
        "rules[2].name",
        "rules[0].match",
        "rules[1].ndim",
        "rules[3].match",
        "rules",
    ]
    assert "already the name of rules[0]" in problems["rules[2].name"]
    assert "5 trainable parameters match no rule: embed.weight, " in problems["rules"]
    assert '{name: rest, match: "*"}' in problems["rules"]


def test_a_model_with_nothing_to_train(net: nn.Module, refused: Callable) -> None:
    assert "nothing to train" in refused(resolve, net, [Rule("a", match="*", freeze=True)], lr=1.0)["layers.rules"]
    assert "no parameters" in refused(resolve, nn.ReLU(), [REST], lr=1.0)["model"]
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    assert "0.weight, 0.bias" in refused(resolve, lazy, [REST], lr=1.0)["model"]


def test_groups_with_equal_settings_merge_in_the_order_of_the_first() -> None:
    def group(name: str, lr: float = 1.0, decay: float | None = None, schedule: Schedule | None = None) -> Group:
        return Group(name, ((name, nn.Parameter(torch.ones(1))),), lr, lr, decay, schedule)

    cosine = Schedule(Cosine())
    groups = [
        group("a"),
        group("b", lr=2.0),
        group("c", decay=0.0),
        group("d", lr=1),
        group("e", schedule=cosine),
        group("f", schedule=Schedule(Cosine())),
        group("g", schedule=Schedule(Linear())),
        group("h", decay=0),
    ]
    merged = [[member.name for member in members] for members in merge(groups)]
    assert merged == [["a", "d"], ["b"], ["c", "h"], ["e", "f"], ["g"]]
    frozen = Group("z", (), 0.0, 0.0, frozen=True)
    assert merge([frozen]) == []


class TestRoutes:
    """A group of another optimizer has that one's peak LR and weight decay unless its rule sets them."""

    def test_its_settings_are_those_of_its_optimizer(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        rules = [
            Rule("own", match="0.weight", route="b"),
            Rule("scaled", match="1.weight", route="a", lr="0.1x"),
            Rule("set", match="2.weight", route="a", lr=0.7, weight_decay=0.3),
            Rule("rest", match="*", lr="2x"),
        ]
        routes = {"a": {"lr": 0.02, "weight_decay": 0.1}, "b": {"lr": 0.5}}
        groups = resolve(model, rules, 0.001, 0.01, routes=routes)
        assert [(g.name, g.route, g.lr, g.scale, g.weight_decay) for g in groups] == [
            ("own", "b", 0.5, 1.0, None),
            ("scaled", "a", 0.002, 0.1, 0.1),
            ("set", "a", 0.7, 35.0, 0.3),
            ("rest", None, 0.002, 2.0, 0.01),
        ]

    def test_groups_of_different_optimizers_never_merge_and_the_main_ones_come_first(self) -> None:
        groups = [
            Group(name, ((name, nn.Parameter(torch.ones(1))),), 1.0, 1.0, route=route)
            for name, route in (("x", "b"), ("y", "a"), ("z", None), ("v", "b"), ("w", None))
        ]
        assert [[g.name for g in members] for members in merge(groups)] == [["z", "w"], ["x", "v"], ["y"]]

    def test_problems_of_routes(self, net: nn.Module, refused: Callable) -> None:
        rules = [Rule("a", match="head.*", route="moun"), REST]
        reported = refused(resolve, net, rules, lr=1.0, routes={"muon": {"lr": 0.1}})
        assert "did you mean muon?" in reported["layers.rules[0].route"]
        reported = refused(resolve, net, rules, lr=1.0, routes={"moun": {"lr": 0.0}})
        assert list(reported) == ["optimizer.routes.moun.lr"]


LEAVES = [
    lambda: nn.Linear(2, 2),
    lambda: nn.Linear(2, 2, bias=False),
    lambda: nn.LayerNorm(2),
    lambda: nn.Embedding(2, 2),
    lambda: nn.Conv1d(2, 2, 1),
    lambda: nn.PReLU(),
    lambda: nn.ReLU(),
]


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """A random tree of modules; modules and parameters may be shared, and some are frozen."""
    modules = [draw(st.sampled_from(LEAVES))() for _ in range(draw(st.integers(1, 6)))]
    for _ in range(draw(st.integers(0, 3))):
        shared = draw(st.lists(st.sampled_from(modules), min_size=1, max_size=3))
        modules.append(nn.Sequential(*shared))
    model = nn.ModuleDict(dict(zip("abcdefghij", [nn.Linear(2, 2), *modules], strict=False)))
    square = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    if len(square) > 1 and draw(st.booleans()):
        draw(st.sampled_from(square)).weight = draw(st.sampled_from(square)).weight
    for parameter in model.parameters():
        parameter.requires_grad_(draw(st.integers(0, 4)) > 0)
    return model


@st.composite
def rule_lists(draw: st.DrawFn) -> list[Rule]:
    rules = []
    for index in range(draw(st.integers(0, 4))):
        selectors = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "match": st.sampled_from(["*", "a.*", "*.weight", "re:.*bias", ["b.*", "c.*"], "*0*"]),
                    "type": st.sampled_from(["Linear", ["LayerNorm", "Embedding"], "torch.nn.Conv1d"]),
                    "ndim": st.sampled_from([1, 2, [1, 3]]),
                    "select": st.sampled_from(["bias", "norm", "embedding", "matrix", ["bias", "norm"]]),
                },
            ).filter(bool)
        )
        rules.append(Rule(f"rule{index}", freeze=draw(st.integers(0, 4)) == 0, **selectors))
    return [*rules, REST] if draw(st.booleans()) else rules


def selected(rule: Rule, model: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a rule selects a parameter; independent of lrflow, for the modules above only."""
    if rule.ndim is not None and parameter.ndim not in rule.ndim:
        return False
    places = []
    for path, module in model.named_modules(remove_duplicate=False):
        places += [(f"{path}.{n}", module, n) for n, p in module.named_parameters(recurse=False) if p is parameter]
    embedding = any(isinstance(module, nn.Embedding) for _, module, _ in places)
    kinds = {
        "bias": any(name == "bias" for _, _, name in places),
        "norm": any(isinstance(module, nn.LayerNorm) for _, module, _ in places),
        "embedding": embedding,
        "matrix": parameter.ndim >= 2 and not embedding,
    }
    if rule.select is not None and not any(kinds[kind] for kind in rule.select):
        return False
    for full, module, _ in places:
        name_holds = rule.match is None or any(
            re.fullmatch(pattern[3:], full) if pattern.startswith("re:") else fnmatch.fnmatchcase(full, pattern)
            for pattern in rule.match
        )
        plain = [name.rsplit(".", 1)[-1] for name in rule.type or ()]
        if name_holds and (rule.type is None or type(module).__name__ in plain):
            return True
    return False


def attempt(model: nn.Module, rules: list[Rule]) -> tuple[list[Group], dict[str, str]]:
    """Return the groups, or the reported problems by key."""
    try:
        return resolve(model, rules, lr=0.1), {}
    except ConfigError as error:
        return [], {problem.key: problem.message for problem in error.problems}


@settings(deadline=None, max_examples=150)
@given(models(), rule_lists())
def test_the_accounting_is_exact(model: nn.Module, rules: list[Rule]) -> None:
    expected: dict[str, list[str]] = {rule.name: [] for rule in rules}
    unmatched = []
    for name, parameter in model.named_parameters():
        able = [rule for rule in rules if parameter.requires_grad or rule.freeze]
        first = next((rule.name for rule in able if selected(rule, model, parameter)), None)
        if first is None and parameter.requires_grad:
            unmatched.append(name)
        else:
            expected.setdefault(first or "frozen", []).append(name)
    empty = [index for index, rule in enumerate(rules) if not expected[rule.name]]
    trains = any(expected[rule.name] for rule in rules if not rule.freeze)
    before = [parameter.requires_grad for parameter in model.parameters()]

    groups, reported = attempt(model, rules)
    if reported:
        assert [parameter.requires_grad for parameter in model.parameters()] == before
        assert ("no rule" in reported.get("layers.rules", "")) is bool(unmatched)
        assert all(name in reported["layers.rules"] for name in unmatched[:6])
        assert all(any(key.startswith(f"layers.rules[{index}]") for key in reported) for index in empty)
        dead = any("parameter names" in message for message in reported.values())  # one pattern of a list
        assert unmatched or empty or not trains or dead
        return
    assert not unmatched
    assert {group.name: names(group) for group in groups} == expected
    frozen = {name for group in groups if group.frozen for name in names(group)}
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    merged = [group.name for members in merge(groups) for group in members]
    assert sorted(merged) == sorted(group.name for group in groups if not group.frozen)


@settings(deadline=None, max_examples=100)
@given(models(), st.booleans())
def test_layer_decay_accounts_for_any_model(model: nn.Module, no_decay: bool) -> None:
    for parameter in list(model.parameters())[:1]:
        parameter.requires_grad_(True)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = resolve(model, LayerDecay(0.5, no_decay=no_decay).rules(model), lr=1.0)
    assert sorted(name for group in groups if not group.frozen for name in names(group)) == sorted(trainable)
    assert sum(group.tensors for group in groups) == len(list(model.parameters()))
    scales = [group.scale for group in groups if not group.frozen]
    assert scales == sorted(scales)


def test_given_parameters_are_selected_and_no_others(net: nn.Module, refused: Callable) -> None:
    rules = [Rule("head", parameters=net.head.parameters(), lr="2x"), Rule("rest", match="*")]
    groups = {group.name: [name for name, _ in group.parameters] for group in resolve(net, rules, lr=1.0)}
    assert groups["head"] == ["head.weight", "head.bias"]
    stranger = Rule("else", parameters=nn.Linear(2, 2).parameters())
    assert (
        "selects parameters that the model does not have"
        in refused(resolve, net, [stranger, *rules], 1.0)["layers.rules[0]"]
    )
    assert list(refused(Rule, "none", parameters=[])) == ["parameters"]
