from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lrflow.errors import ConfigError
from lrflow.layers import Group, Rule, resolve
from lrflow.optimizers import build_optimizer

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "fused": "auto"}
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-2, "betas": [0.8, 0.99], "weight_decay": 1e-2, "fused": "auto"}
ADAMW = {**ADAM, "_target_": "torch.optim.AdamW", "weight_decay": 0.1}
ALL = [(SGD, torch.optim.SGD), (ADAM, torch.optim.Adam), (ADAMW, torch.optim.AdamW)]
RULES = [
    Rule("frozen", match="0.bias", freeze=True),
    Rule("no_decay", select=["bias", "norm"], weight_decay=0.0),
    Rule("head", match="3.*", lr="3x"),
    Rule("first", match="0.*"),
    Rule("more", match="4.*"),
]

each = pytest.mark.parametrize(("config", "factory"), ALL, ids=["sgd", "adam", "adamw"])


def make() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))


def groups_of(model: nn.Module, lr: float = 0.1) -> list[Group]:
    return resolve(model, RULES, lr)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 20) -> list[torch.Tensor]:
    """Trains with an LR that changes at every step; returns the parameters."""
    generator = torch.Generator().manual_seed(2)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            lr = peak * (1 - step / steps)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@each
@pytest.mark.parametrize("fused", [False, True])
def test_the_trajectory_is_that_of_groups_written_by_hand(same: Any, config: dict, factory: Any, fused: bool) -> None:
    model, other = make(), make()
    ours = train(model, build_optimizer(groups_of(model, config["lr"]), {**config, "fused": fused}, factory))

    other[0].bias.requires_grad_(False)
    norm_and_bias = [*other[1].parameters(), other[3].bias, other[4].bias]
    arguments = {name: value for name, value in config.items() if not name.startswith("_") and name != "fused"}
    by_hand = factory(
        [
            {"params": norm_and_bias, "weight_decay": 0.0},
            {"params": [other[3].weight], "lr": 3 * config["lr"]},
            {"params": [other[0].weight]},
            {"params": [other[4].weight]},
        ],
        fused=fused,
        **arguments,
    )
    assert same(ours, train(other, by_hand))
    assert not same(ours, list(make().parameters()))


def test_groups_with_equal_settings_share_a_parameter_group() -> None:
    model = make()
    optimizer = build_optimizer(groups_of(model), SGD, torch.optim.SGD)
    described = [(g["name"], g["members"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert described == [
        ("no_decay", ["no_decay"], 0.1, 0.0),
        ("head", ["head"], pytest.approx(0.3), 1e-2),
        ("first + more", ["first", "more"], 0.1, 1e-2),
    ]
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 1, 2]


@each
@pytest.mark.parametrize("fused", [False, True])
def test_a_tensor_lr_changes_nothing(same: Any, config: dict, factory: Any, fused: bool) -> None:
    plain, tensor = make(), make()
    config = {**config, "fused": fused}
    expected = train(plain, build_optimizer(groups_of(plain), config, factory))
    optimizer = build_optimizer(groups_of(tensor), config, factory, tensor_lr=True)
    lrs = [group["lr"] for group in optimizer.param_groups]
    assert all(lr.shape == () and lr.dtype == torch.float64 for lr in lrs)
    assert len({lr.data_ptr() for lr in lrs}) == len(lrs)  # filled in place, so none may be shared
    assert same(expected, train(tensor, optimizer))


def test_a_tensor_lr_on_other_devices_has_the_dtype_of_fused_kernels() -> None:
    optimizer = build_optimizer(groups_of(make().to("meta")), SGD, torch.optim.SGD, device="meta", tensor_lr=True)
    assert {(group["lr"].device.type, group["lr"].dtype) for group in optimizer.param_groups} == {
        ("meta", torch.float32)
    }


def one(parameter: torch.Tensor) -> list[Group]:
    return [Group("all", (("p", nn.Parameter(parameter)),), lr=0.1, scale=1.0)]


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_auto_takes_the_fused_kernel_where_it_works(config: dict, factory: Any, dtype: torch.dtype) -> None:
    groups = one(torch.ones(3, dtype=dtype))
    optimizer = build_optimizer(groups, config, factory)
    assert optimizer.param_groups[0]["fused"] is True
    parameter = groups[0].parameters[0][1]
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(parameter, torch.ones_like(parameter))


@pytest.mark.parametrize(
    ("parameter", "arguments", "factory"),
    [
        (torch.ones(3, dtype=torch.complex64), {}, torch.optim.AdamW),
        (torch.ones(3, device="meta"), {}, torch.optim.AdamW),
        (torch.ones(3), {"foreach": True}, torch.optim.AdamW),
        (torch.ones(3), {"differentiable": True}, torch.optim.AdamW),
        (torch.ones(3), {}, torch.optim.RMSprop),
    ],
    ids=["complex", "device", "foreach", "differentiable", "class"],
)
def test_auto_leaves_fused_where_it_does_not_work(parameter: torch.Tensor, arguments: dict, factory: Any) -> None:
    optimizer = build_optimizer(one(parameter), {"lr": 0.1, "fused": "auto", **arguments}, factory)
    assert not optimizer.param_groups[0].get("fused")


@pytest.mark.parametrize("fused", [True, False])
def test_fused_as_configured(fused: bool) -> None:
    optimizer = build_optimizer(one(torch.ones(3)), {**SGD, "fused": fused}, torch.optim.SGD)
    assert optimizer.param_groups[0]["fused"] is fused


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_options_of_lrflow(name: str, conf: Callable[[str], dict]) -> None:
    config = conf(name)
    factory = getattr(torch.optim, config["_target_"].rsplit(".", 1)[1])
    model = make()
    optimizer = build_optimizer(groups_of(model), config, factory)
    assert optimizer.param_groups[1]["fused"] is True
    train(model, optimizer, steps=2)


def test_a_function_may_make_the_optimizer() -> None:
    seen: dict[str, Any] = {}

    def factory(params: Any, **options: Any) -> torch.optim.Optimizer:
        seen.update(options)
        return torch.optim.SGD(params, lr=options["lr"])

    build_optimizer(one(torch.ones(2)), {"_target_": "x", "lr": 0.1, "own": [1, 2], "fused": "auto"}, factory)
    assert seen == {"lr": 0.1, "own": (1, 2)}


def test_the_state_is_plain_and_survives_a_safe_load() -> None:
    model = make()
    optimizer = build_optimizer(groups_of(model), ADAMW, torch.optim.AdamW)
    train(model, optimizer, steps=2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = build_optimizer(groups_of(copy.deepcopy(model)), ADAMW, torch.optim.AdamW)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert [group["members"] for group in again.param_groups] == [["no_decay"], ["head"], ["first", "more"]]


def refused(groups: list[Group], config: dict, factory: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        build_optimizer(groups, config, factory)
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_all_problems_are_reported_at_once() -> None:
    frozen = [Group("a", (("p", nn.Parameter(torch.ones(1))),), 0.0, 0.0, frozen=True)]
    problems = refused(frozen, {"lr": 0.1, "momentun": 0.9, "beta": 1}, torch.optim.SGD)
    assert list(problems) == ["optimizer.momentun", "optimizer.beta", "layers.rules"]
    assert "did you mean momentum?" in problems["optimizer.momentun"]
    assert "nothing to train" in problems["layers.rules"]


@pytest.mark.parametrize(
    ("config", "factory", "name", "words"),
    [
        ({**SGD, "momentum": 0.0, "nesterov": True}, torch.optim.SGD, "nesterov", "Nesterov momentum requires"),
        ({**ADAM, "betas": [1.5, 0.9]}, torch.optim.Adam, "betas", "= [1.5, 0.9]: the optimizer rejects it: Invalid"),
        ({**ADAM, "eps": "a"}, torch.optim.Adam, "eps", "= 'a': expected a number"),
        ({**ADAM, "fused": True, "foreach": True}, torch.optim.Adam, "fused", "cannot be `True` together"),
        ({"lr": 0.1, "etas": [2.0, 1.0]}, torch.optim.Rprop, "etas", "= [2.0, 1.0]: the optimizer rejects it: Invalid"),
        ({"lr": 0.1, "d": 0.5}, torch.optim.Adafactor, "d", "= 0.5: the optimizer rejects it: Clipping threshold d"),
    ],
)
def test_an_error_of_torch_is_a_problem_of_the_argument(config: dict, factory: Any, name: str, words: str) -> None:
    problems = refused(one(torch.ones(1)), config, factory)
    assert list(problems) == [f"optimizer.{name}"]
    assert words in problems[f"optimizer.{name}"]


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("MARS", "gamma", -1, "gamma must be non-negative"),
        ("MARS", "gamma", "abc", "expected a number"),
        ("MARS", "mars_type", "x", "must be one of"),
        ("SOAP", "max_precondition_dim", -1, "must be positive"),
        ("LARS", "trust_coefficient", -1, "must be non-negative"),
        ("AdEMAMix", "alpha", -1, "must be non-negative"),
        ("AdaHessian", "hessian_power", -1, "Hessian Power must be"),
        ("SophiaH", "update_period", 0, "must be positive"),
    ],
)
def test_optimizers_of_other_packages_that_raise_too(kind: str, name: str, value: Any, words: str) -> None:
    factory = getattr(pytest.importorskip("pytorch_optimizer"), kind)
    problems = refused(one(torch.ones(1)), {"lr": 0.1, "weight_decay": 0.0, name: value}, factory)
    assert list(problems) == [f"optimizer.{name}"]
    assert words in problems[f"optimizer.{name}"]
    assert repr(value) in problems[f"optimizer.{name}"]


def test_an_error_that_names_no_argument_is_a_problem_of_the_optimizer() -> None:
    def factory(params: Any, lr: float, other: int) -> torch.optim.Optimizer:
        raise ValueError("there is no such day")

    problems = refused(one(torch.ones(1)), {"_target_": "my.Own", "lr": 0.1, "other": 1}, factory)
    assert problems == {"optimizer": "optimizer = 'my.Own': the optimizer rejects its arguments: there is no such day"}


def test_a_weight_decay_that_the_optimizer_does_not_have() -> None:
    parameter = nn.Parameter(torch.ones(1))
    groups = [Group("a", (("p", parameter),), 0.1, 1.0, weight_decay=0.1), Group("b", (), 0.1, 1.0, weight_decay=0.0)]
    assert "set one: a" in refused(groups, {"lr": 0.1}, torch.optim.Rprop)["layers.rules"]
    assert build_optimizer(groups[1:] + one(torch.ones(1)), {"lr": 0.1}, torch.optim.Rprop)


class _NoOptimizer:
    def __init__(self, params: object, lr: float) -> None:
        self.lr = lr


@pytest.mark.parametrize(
    ("make", "kind"), [(lambda params, lr: None, "NoneType"), (_NoOptimizer, "_NoOptimizer")], ids=["None", "object"]
)
def test_a_factory_that_makes_no_optimizer_is_an_error(make: Any, kind: str) -> None:
    groups = resolve(nn.Linear(2, 2), [Rule("all", match="*")], 0.1)
    with pytest.raises(ConfigError) as caught:
        build_optimizer(groups, {"_target_": "my.make", "lr": 0.1}, make)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("optimizer._target_", "my.make")
    assert problem.message.startswith(f"makes a {kind}, which is no optimizer")


def test_a_word_instead_of_a_switch_is_an_error() -> None:
    groups = resolve(nn.Linear(2, 2), [Rule("all", match="*")], 0.1)
    with pytest.raises(ConfigError, match=r"optimizer\.foreach = 'maybe': expected true, false or null"):
        build_optimizer(groups, {"lr": 0.1, "foreach": "maybe"}, torch.optim.SGD)
    build_optimizer(groups, {"lr": 0.1, "foreach": None}, torch.optim.SGD)
