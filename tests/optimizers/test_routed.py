"""Several optimizers as one: each steps as it would alone, and the whole is a torch optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from lrflow.errors import ConfigError, LrflowError
from lrflow.layers import Rule, resolve
from lrflow.optimizers import Muon, Routed, build_optimizer

SHAPES = ((6, 4), (4, 6), (5,), (6, 4), (3, 2, 2), (7,))
KINDS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
    "fused": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.5),
    "asgd": lambda params: torch.optim.ASGD(params, lr=0.01),
    "rprop": lambda params: torch.optim.Rprop(params, lr=0.01),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=0.01),
}


def weights_of(count: int = len(SHAPES)) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES[:count]]


def members(weights: list[nn.Parameter], kinds: Mapping[str | None, str], homes: list[Any]) -> dict[Any, Optimizer]:
    """Return an optimizer per route, with one group per weight, marked as lrflow marks them."""
    found: dict[Any, Optimizer] = {}
    for route, kind in kinds.items():
        own = [{"params": [w]} for w, home in zip(weights, homes, strict=True) if home == route]
        if own:
            found[route] = KINDS[kind](own)
            for group in found[route].param_groups if route else ():
                group["route"] = route
    return found


def give_gradients(weights: list[nn.Parameter], draw: torch.Generator, missing: float = 0.0) -> None:
    for weight in weights:
        gradient = torch.randn(weight.shape, generator=draw)
        weight.grad = None if float(torch.rand((), generator=draw)) < missing else gradient


def roundtrip(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.tuples(*[st.sampled_from(sorted(KINDS))] * 3),
    homes=st.lists(st.sampled_from([None, "a", "b"]), min_size=len(SHAPES), max_size=len(SHAPES)),
    steps=st.integers(1, 5),
    seed=st.integers(0, 100),
    again=st.sampled_from(["save", "pickle", "deepcopy"]),
)
def test_each_member_steps_as_it_would_alone(
    same: Any, kinds: tuple[str, ...], homes: list[Any], steps: int, seed: int, again: str
) -> None:
    """Bit for bit, over random steps with gradients missing, saved and loaded in the middle."""
    routes = dict(zip([None, "a", "b"], kinds, strict=True))
    alone, together = weights_of(), weights_of()
    separate = members(alone, routes, homes)
    routed: Optimizer = Routed(members(together, routes, homes))

    def go(draw: torch.Generator) -> None:
        for step in range(steps):
            state = draw.get_state()
            give_gradients(alone, draw, missing=0.2)
            draw.set_state(state)
            give_gradients(together, draw, missing=0.2)
            groups = [group for member in separate.values() for group in member.param_groups]
            for group, other in zip(groups, routed.param_groups, strict=True):
                group["lr"] = other["lr"] = 0.05 / (1 + step)
            for member in separate.values():
                member.step()
            routed.step()
            assert same(alone, together)

    draw = torch.Generator().manual_seed(seed)
    go(draw)
    if again == "save":
        state = roundtrip(routed.state_dict())
        routed = Routed(members(together, routes, homes))
        routed.load_state_dict(state)
    elif again == "pickle":
        together, routed = pickle.loads(pickle.dumps((together, routed)))
    else:
        together, routed = copy.deepcopy((together, routed))
    go(draw)
    assert {id(p) for group in routed.param_groups for p in group["params"]} == {id(p) for p in together}


@pytest.fixture
def weights() -> list[nn.Parameter]:
    return weights_of(4)


@pytest.fixture
def routed(weights: list[nn.Parameter]) -> Routed:
    """AdamW for the first and third weight, Muon for the others."""
    muon = Muon([{"params": [weights[1]], "route": "muon"}, {"params": [weights[3]], "route": "muon"}])
    return Routed({None: torch.optim.AdamW([weights[0], weights[2]], lr=0.01), "muon": muon})


class TestItIsOneOfTorchs:
    def test_its_groups_are_the_members(self, routed: Routed) -> None:
        own = [group for member in routed.optimizers.values() for group in member.param_groups]
        assert [id(group) for group in routed.param_groups] == [id(group) for group in own]
        routed.param_groups[0]["lr"] = 0.5
        assert routed.optimizers[None].param_groups[0]["lr"] == 0.5

    def test_its_state_is_the_members(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        give_gradients(weights, torch.Generator())
        routed.step()
        assert set(routed.state) == set(weights)
        assert all(
            routed.state[weight] is member.state[weight]
            for member in routed.optimizers.values()
            for weight in member.state
        )
        assert set(routed.state[weights[1]]) == {"momentum_buffer"}

    def test_its_state_dict_numbers_all_parameters_through(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        give_gradients(weights, torch.Generator())
        routed.step()
        state = routed.state_dict()
        assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2], [3]]
        assert [set(state["state"][number]) for number in range(4)] == [
            {"step", "exp_avg", "exp_avg_sq"},
            {"step", "exp_avg", "exp_avg_sq"},
            {"momentum_buffer"},
            {"momentum_buffer"},
        ]

    def test_the_closure_is_called_once(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        calls = []

        def closure() -> Tensor:
            calls.append(torch.is_grad_enabled())
            routed.zero_grad()
            loss = torch.stack([weight.square().sum() for weight in weights]).sum()
            loss.backward()
            return loss

        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            loss = routed.step(closure)
        assert calls == [True]
        assert float(loss.detach()) == pytest.approx(sum(float(weight.square().sum()) for weight in before))
        assert not any(torch.equal(a, b) for a, b in zip(before, weights, strict=True))

    def test_zero_grad(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        give_gradients(weights, torch.Generator())
        routed.zero_grad()
        assert all(weight.grad is None for weight in weights)

    def test_hooks(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        seen = []
        routed.register_step_pre_hook(lambda optimizer, *_: seen.append(("pre", optimizer)))
        routed.register_step_post_hook(lambda optimizer, *_: seen.append(("post", optimizer)))
        routed.optimizers["muon"].register_step_post_hook(lambda optimizer, *_: seen.append(("muon", optimizer)))
        routed.register_state_dict_post_hook(lambda optimizer, state: {**state, "extra": 1})
        routed.register_load_state_dict_pre_hook(lambda optimizer, state: seen.append(("load", optimizer)))
        give_gradients(weights, torch.Generator())
        routed.step()
        state = routed.state_dict()
        assert state["extra"] == 1
        routed.load_state_dict(state)
        assert seen == [("pre", routed), ("muon", routed.optimizers["muon"]), ("post", routed), ("load", routed)]

    def test_torchs_schedulers_take_it(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(routed, gamma=0.5)
        give_gradients(weights, torch.Generator())
        routed.step()
        scheduler.step()
        assert [group["lr"] for group in routed.param_groups] == [0.005, 0.01, 0.01]

    def test_it_prints_its_groups(self, routed: Routed) -> None:
        assert repr(routed).startswith("Routed (")
        assert "ns_steps: 5" in repr(routed)

    def test_adding_groups_is_an_error(self, routed: Routed) -> None:
        with pytest.raises(LrflowError, match="before they are put together"):
            routed.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    def test_a_state_of_other_groups_is_an_error(self, routed: Routed, weights: list[nn.Parameter]) -> None:
        other = torch.optim.AdamW(weights).state_dict()
        with pytest.raises(ValueError, match="different number of parameter groups"):
            routed.load_state_dict(other)


class TestGradientScaler:
    """16-mixed: gradients are unscaled before every member, and a step that overflowed is skipped by all."""

    @pytest.mark.parametrize("fused", [False, True])
    def test_it_steps_as_without_a_scale(self, same: Any, fused: bool) -> None:
        def make(weights: list[nn.Parameter]) -> Routed:
            adamw = torch.optim.AdamW([weights[0]], lr=0.01, fused=fused)
            return Routed({None: adamw, "muon": Muon([weights[1]])})

        plain, scaled = weights_of(2), weights_of(2)
        left, right = make(plain), make(scaled)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(torch.zeros(()))
        for step in range(3):
            draw = torch.Generator().manual_seed(step)
            give_gradients(plain, draw)
            draw.manual_seed(step)
            give_gradients(scaled, draw)
            for weight in scaled:
                assert weight.grad is not None
                weight.grad *= 1024
            left.step()
            scaler.unscale_(right)
            scaler.step(right)
            scaler.update()
            assert same(plain, scaled)

    def test_a_step_that_overflowed_moves_nothing(self, same: Any, routed: Routed, weights: list[nn.Parameter]) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(torch.zeros(()))
        give_gradients(weights, torch.Generator())
        assert weights[1].grad is not None
        weights[1].grad[0, 0] = torch.inf
        before = [weight.detach().clone() for weight in weights]
        scaler.step(routed)
        scaler.update()
        assert same(before, weights)
        assert scaler.get_scale() == 512


class Modes(torch.optim.SGD):
    """An optimizer with separate evaluation weights."""

    mode = "train"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


def test_modes_are_passed_on_to_those_that_have_them() -> None:
    first, second = weights_of(2)
    member = Modes([second], lr=0.1)
    routed = Routed({None: torch.optim.SGD([first], lr=0.1), "modes": member})
    routed.eval()
    assert member.mode == "eval"
    routed.train()
    assert member.mode == "train"


def test_a_member_that_needs_the_closure_is_an_error() -> None:
    first, second = weights_of(2)
    with pytest.raises(ConfigError, match=r"optimizer\.routes\.newton: LBFGS evaluates the model several times"):
        Routed({None: torch.optim.SGD([first], lr=0.1), "newton": torch.optim.LBFGS([second])})
    assert Routed({None: torch.optim.SGD([first], lr=0.1)})


class TestSecondOrder:
    """A member that differentiates gradients steps before the weights change."""

    def test_on_a_route_it_steps_as_it_would_alone(self, same: Any) -> None:
        adahessian = pytest.importorskip("pytorch_optimizer").AdaHessian

        def go(together: bool) -> list[Tensor]:
            first, second = weights = [nn.Parameter(torch.full((3,), 2.0)), nn.Parameter(torch.full((3,), 0.5))]
            torch.manual_seed(0)
            newton = adahessian([second], lr=0.1)
            main: Optimizer = torch.optim.SGD([first], lr=0.1)
            routed = Routed({None: main, "newton": newton}) if together else None
            for _ in range(2):
                gradients = torch.autograd.grad((first * second).pow(2).sum(), weights, create_graph=True)
                first.grad, second.grad = gradients
                if routed:
                    routed.step()
                else:
                    newton.step()
                    main.step()
            return [weight.detach() for weight in weights]

        assert same(go(together=True), go(together=False))

    def test_two_second_order_members_are_an_error(self) -> None:
        library = pytest.importorskip("pytorch_optimizer")
        first, second = weights_of(2)
        with pytest.raises(ConfigError, match=r"optimizer\.routes\.b: SophiaH differentiates .* so does AdaHessian"):
            Routed({None: library.AdaHessian([first]), "b": library.SophiaH([second])})


class Objects(torch.optim.SGD):
    """An optimizer whose state is no plain data, and which saves it as plain data itself."""

    class Mean:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["mean"] = self.Mean(weight.detach().clone())

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        saved["state"] = {number: {"mean": state["mean"].value} for number, state in saved["state"].items()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        assert min(number for group in state_dict["param_groups"] for number in group["params"]) == 0
        for state in self.state.values():
            state["mean"] = self.Mean(state["mean"])


@pytest.mark.parametrize("routes", [(None, "a"), ("a", None)])
def test_each_member_saves_and_loads_by_its_own_methods(routes: tuple[Any, Any]) -> None:
    def make() -> tuple[list[nn.Parameter], Routed]:
        weights = weights_of(4)
        objects = Objects([{"params": weights[:2]}, {"params": weights[2:3]}], lr=0.1)
        other = torch.optim.AdamW([weights[3]])
        return weights, Routed(dict(zip(routes, (other, objects), strict=True)))

    weights, routed = make()
    give_gradients(weights, torch.Generator())
    routed.step()
    state = roundtrip(routed.state_dict())
    assert [group["params"] for group in state["param_groups"]] == [[0], [1, 2], [3]]
    others, again = make()
    again.load_state_dict(state)
    for weight, other in zip(weights[:3], others[:3], strict=True):
        assert torch.equal(again.state[other]["mean"].value, routed.state[weight]["mean"].value)
    assert torch.equal(again.state[others[3]]["exp_avg"], routed.state[weights[3]]["exp_avg"])


def test_a_parameter_of_two_members_is_an_error() -> None:
    (weight,) = weights_of(1)
    with pytest.raises(ConfigError, match="hold the same parameter"):
        Routed({None: torch.optim.SGD([weight], lr=0.1), "other": torch.optim.SGD([weight], lr=0.1)})


class TestAChangedRoute:
    """State is only valid for the optimizer that wrote it."""

    def test_starts_without_state_and_with_its_own_settings(self, weights: list[nn.Parameter]) -> None:
        first = Routed(members(weights, {None: "adamw", "a": "sgd"}, [None, None, "a", "a"]))
        give_gradients(weights, torch.Generator())
        first.step()
        second = Routed(members(weights, {None: "adamw", "a": "sgd"}, [None, "a", "a", "a"]))
        state = first.state_dict()
        state["param_groups"][0]["betas"] = (0.5, 0.5)
        second.load_state_dict(roundtrip(state))
        assert set(second.state) == {weights[0], weights[2], weights[3]}
        assert second.param_groups[0]["betas"] == (0.5, 0.5)
        assert "betas" not in second.param_groups[1]
        assert second.param_groups[1]["nesterov"] is True
        give_gradients(weights, torch.Generator())
        second.step()
        assert "momentum_buffer" in second.state[weights[1]]


def test_build_optimizer_marks_the_groups_of_a_route() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    rules = [Rule("hidden", match="0.weight", route="muon", lr="2x"), Rule("rest", match="*")]
    groups = resolve(model, rules, 0.1, routes={"muon": {"lr": 0.02, "weight_decay": 0.3}})
    optimizer = build_optimizer([groups[0]], {"lr": 0.02}, Muon, key="optimizer.routes.muon")
    (group,) = optimizer.param_groups
    assert (group["route"], group["lr"], group["weight_decay"]) == ("muon", 0.04, 0.3)
    assert "route" not in build_optimizer([groups[1]], {"lr": 0.1}, torch.optim.SGD).param_groups[0]
    with pytest.raises(ConfigError, match=r"optimizer\.routes\.muon\.momentun.*\n.*did you mean momentum"):
        build_optimizer([groups[0]], {"lr": 0.02, "momentun": 0.5}, Muon, key="optimizer.routes.muon")
    with pytest.raises(ConfigError, match=r"optimizer\.routes\.muon: the optimizer rejects.*shape \[4\]"):
        build_optimizer([groups[1]], {"lr": 0.02}, Muon, key="optimizer.routes.muon")
