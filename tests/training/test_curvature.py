"""Sharpness against dense eigensolvers, closed forms, and training at the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from lrflow.optimizers.traits import Bound, traits_of
from lrflow.training.curvature import hessian_product, measure_sharpness, preconditioner, stability_limit


def small_problem() -> tuple[nn.Module, Callable[[Mapping[str, Tensor]], Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, target = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    return network, lambda point: nn.functional.cross_entropy(functional_call(network, dict(point), (inputs,)), target)


def dense_hessian(loss: Callable[[Mapping[str, Tensor]], Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Compute the Hessian with torch.autograd.functional, as an independent reference."""
    names = list(parameters)
    sizes = [parameters[name].numel() for name in names]

    def flat_loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        return loss({name: part.view_as(parameters[name]) for name, part in zip(names, parts, strict=True)})

    return torch.autograd.functional.hessian(
        flat_loss, torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    )


def test_products_and_top_eigenvalue_equal_those_of_the_dense_hessian() -> None:
    network, loss = small_problem()
    parameters = dict(network.named_parameters())
    dense = dense_hessian(loss, parameters)
    vector = torch.randn(len(dense), dtype=torch.float64)
    torch.testing.assert_close(hessian_product(loss, parameters)(vector), dense @ vector)
    found = measure_sharpness(loss, [parameters], [0.1])
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert found.top == pytest.approx(top, rel=1e-4)
    assert found.scaled == pytest.approx(0.1 * top, rel=1e-4)
    assert found.ceiling(0.1) == pytest.approx(2 / top, rel=1e-4)
    assert found.products <= 20


def test_groups_with_different_lrs_preconditioners_and_decay() -> None:
    network, loss = small_problem()
    parameters = dict(network.named_parameters())
    weights = {name: p for name, p in parameters.items() if p.ndim > 1}
    biases = {name: p for name, p in parameters.items() if p.ndim == 1}
    preconditioners = {name: torch.rand_like(p) + 0.5 for name, p in parameters.items()}
    found = measure_sharpness(
        loss,
        [weights, biases],
        [0.1, 1.0],
        preconditioners=preconditioners,
        decay=[0.01, 0.0],
        products=60,
        tolerance=0.0,
    )
    ordered = {**weights, **biases}

    def flat(values: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([values[name].reshape(-1) for name in ordered]).detach()

    rates = flat({name: torch.full_like(p, 0.1 if name in weights else 1.0) for name, p in ordered.items()})
    decay = flat({name: torch.full_like(p, 0.01 if name in weights else 0.0) for name, p in ordered.items()})
    seen = torch.diag(1 / flat(preconditioners)) @ (dense_hessian(loss, ordered) + torch.diag(decay))
    assert found.top == pytest.approx(float(torch.linalg.eigvals(seen).real.max()), rel=1e-6)
    assert found.scaled == pytest.approx(float(torch.linalg.eigvals(torch.diag(rates) @ seen).real.max()), rel=1e-6)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_steps_on_a_quadratic_shrink_below_the_ceiling_and_grow_above(momentum: float, nesterov: bool) -> None:
    curvature = torch.tensor([0.3, 2.0, 7.0, 31.0], dtype=torch.float64)
    limit = stability_limit("sgd", {"momentum": momentum, "nesterov": nesterov})

    def loss(point: Mapping[str, Tensor]) -> Tensor:
        return (curvature * point["x"] ** 2).sum() / 2

    found = measure_sharpness(loss, [{"x": torch.ones_like(curvature)}], [1.0], limit)
    for share, grows in ((0.99, False), (1.01, True)):
        x = torch.ones_like(curvature).requires_grad_()
        optimizer = torch.optim.SGD([x], share * found.ceiling(1.0), momentum, nesterov=nesterov, foreach=False)
        for _ in range(4000):
            x.grad = curvature * x.detach()
            optimizer.step()
        sharpest = x[-1].abs()
        assert (sharpest > 1e6) if grows else (sharpest < 1e-6)


def bound_of(optimizer: torch.optim.Optimizer) -> Bound:
    bound = traits_of(type(optimizer)).bound
    assert bound is not None
    return bound


def digits_problem() -> tuple[nn.Module, Callable[[Mapping[str, Tensor]], Tensor]]:
    torch.manual_seed(0)
    inputs, classes = load_digits(return_X_y=True)
    x = torch.tensor(inputs[:500] / 16, dtype=torch.float32)
    y = nn.functional.one_hot(torch.tensor(classes[:500]), 10).float()
    network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    return network, lambda point: 5 * nn.functional.mse_loss(functional_call(network, dict(point), (x,)), y)


@pytest.mark.parametrize(
    ("make", "steps", "within"),
    [
        (lambda parameters: torch.optim.SGD(parameters, 0.1), 3600, 0.05),
        (lambda parameters: torch.optim.Adam(parameters, 3e-3, eps=1e-7), 2700, 0.03),
    ],
    ids=["gradient descent at 2 / lr", "Adam at 38 / lr"],
)
def test_full_batch_training_settles_at_the_edge_of_stability(
    make: Callable[..., torch.optim.Optimizer], steps: int, within: float
) -> None:
    network, loss = digits_problem()
    optimizer = make(network.parameters())
    parameters = dict(network.named_parameters())
    group, name = optimizer.param_groups[0], bound_of(optimizer)
    limit = stability_limit(name, group)
    shares = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(parameters).backward()
        optimizer.step()
        if step > steps - 900 and step % 150 == 0:
            divided = {key: preconditioner(name, group, optimizer.state[p]) for key, p in parameters.items()}
            found = measure_sharpness(
                loss,
                [parameters],
                [group["lr"]],
                limit,
                None if name == "sgd" else divided,  # type: ignore[arg-type]
            )
            shares.append(found.share)
    assert sum(shares) / len(shares) == pytest.approx(1.0, abs=within)


@pytest.mark.parametrize(
    ("bound", "options", "limit"),
    [
        ("sgd", {}, 2.0),
        ("sgd", {"momentum": 0.9}, 3.8),
        ("sgd", {"momentum": 0.9, "dampening": 0.9}, 38.0),
        ("sgd", {"momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
        ("adam", {"betas": (0.9, 0.999)}, 38.0),
        ("rmsprop", {"momentum": 0.0}, 2.0),
        ("adagrad", {}, 2.0),
    ],
)
def test_stability_limits(bound: Bound, options: dict, limit: float) -> None:
    assert stability_limit(bound, options) == pytest.approx(limit)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.1),
        lambda p: torch.optim.RMSprop(p, 0.1, centered=True),
        lambda p: torch.optim.Adagrad(p, 0.1),
    ],
)
def test_the_preconditioner_equals_torchs_divisor(make: Callable[..., torch.optim.Optimizer]) -> None:
    """With a constant gradient g, a step of Adam is lr * g / P."""
    torch.manual_seed(0)
    parameter, gradient = nn.Parameter(torch.zeros(6)), torch.randn(6)
    optimizer = make([parameter])
    for _ in range(3):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone() * torch.rand(()) if isinstance(optimizer, torch.optim.RMSprop) else gradient
        optimizer.step()
    assert parameter.grad is not None
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    divisor = preconditioner(bound_of(optimizer), group, state)
    direction = state.get("exp_avg", parameter.grad)
    torch.testing.assert_close(before - parameter, 0.1 * direction / divisor)


def test_a_preconditioner_before_the_first_gradient_raises() -> None:
    with pytest.raises(ValueError, match="not seen a gradient"):
        preconditioner("adam", {"eps": 1e-8, "betas": (0.9, 0.999)}, {})


def test_a_flat_loss_has_no_ceiling() -> None:
    found = measure_sharpness(lambda point: point["x"].sum(), [{"x": torch.ones(3)}], [0.1])
    assert (found.top, found.share, found.ceiling(0.1)) == (0.0, 0.0, math.inf)
