"""The multiplicative rule of Baydin et al., for every kind of optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.feedback import Hypergradient
from lrflow.schedules import Horizon

RUN = Horizon(100)
CURVATURES = np.array([1.0, 3.0, 10.0])


def quadratic(
    feedback: Hypergradient,
    steps: int,
    lr: float,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    noise: Callable[[int], np.ndarray] = lambda step: np.zeros(3),
    state: tuple[Any, ...] | None = None,
    **options: Any,
) -> tuple[list[float], list[np.ndarray], Any]:
    """Descend a quadratic under a feedback; return the factors, the weights, and the state to resume from."""
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = make([weights], lr=lr, **options)
    first = 0
    if state is not None:
        first, saved, moments = state[0], state[1], state[2]
        weights.data.copy_(saved)
        optimizer.load_state_dict(moments)
        feedback.load_state_dict(state[3])
    feedback.watch([weights], RUN)
    factors, path = [], []
    for step in range(first, first + steps):
        weights.grad = torch.from_numpy(CURVATURES) * weights.detach() + torch.from_numpy(noise(step))
        feedback.observe(lr)
        optimizer.param_groups[0]["lr"] = lr * feedback.factor
        optimizer.step()
        factors.append(feedback.factor)
        path.append(weights.detach().numpy().copy())
    end = (first + steps, weights.detach().clone(), optimizer.state_dict(), feedback.state_dict())
    return factors, path, end


@pytest.mark.parametrize(("lr", "beta"), [(0.001, 0.1), (0.15, 0.05), (0.3, 0.02)])
def test_plain_sgd_follows_the_papers_rule(lr: float, beta: float) -> None:
    """In NumPy: a_t = a_{t-1} (1 + beta g_t g_{t-1} / (|g_t| |g_{t-1}|)), and then the step with a_t."""
    noise = np.random.default_rng(0).normal(size=(40, 3)) * 0.1
    factors, path, _ = quadratic(Hypergradient(beta=beta, every=1), 40, lr, noise=lambda step: noise[step])
    weights, rate, before = np.array([1.0, -2.0, 0.5]), lr, None
    for step in range(40):
        gradient = CURVATURES * weights + noise[step]
        if before is not None:
            rate *= 1 + beta * (gradient @ before) / (np.linalg.norm(gradient) * np.linalg.norm(before))
        weights = weights - rate * gradient
        before = gradient
        assert factors[step] * lr == pytest.approx(rate, rel=1e-9)
        assert path[step] == pytest.approx(weights, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Adagrad, {}),
    ],
)
def test_any_optimizer_goes_faster_where_its_steps_agree(make: Any, options: dict[str, Any]) -> None:
    far_too_low = 1e-5
    factors, _, _ = quadratic(Hypergradient(beta=0.1, every=1), 30, far_too_low, make, **options)
    # Optimizers that scale each weight separately move at an angle to the gradient.
    assert 1.1**15 < factors[-1] < 1.1**29


def test_an_lr_beyond_stability_falls_back_below_it() -> None:
    lr = 0.5  # 2.5 times the stable LR
    factors, path, _ = quadratic(Hypergradient(beta=0.1, every=1), 200, lr)
    assert factors[-1] * lr < 2 / CURVATURES.max()
    assert np.abs(path[-1]).max() < 1e-3


def test_the_direction_is_that_of_the_weights_and_not_of_the_gradient() -> None:
    """With an LR of 0 for one of two tensors, the other one alone decides."""
    still, moving = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    feedback = Hypergradient(beta=0.5, every=1)
    feedback.watch([still, moving], RUN)
    still.grad, moving.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    feedback.observe(0.1)
    moving.data -= 0.1 * moving.grad
    feedback.observe(0.1)
    assert feedback.factor == pytest.approx(1 + 0.5 * 4 / 5)  # gradient (3, 0, 0, 4), update (0, 0, 0, 1)


def test_with_an_interval_the_changes_are_applied_together() -> None:
    gradients = [torch.tensor([1.0, float(step % 3)]) for step in range(9)]

    def drive(every: int) -> list[float]:
        weight = torch.nn.Parameter(torch.zeros(2))
        feedback, found = Hypergradient(beta=0.1, every=every), []
        feedback.watch([weight], RUN)
        for gradient in gradients:
            weight.grad = gradient
            feedback.observe(0.1)
            weight.data -= 0.1 * gradient
            found.append(feedback.factor)
        return found

    each, fourth = drive(1), drive(4)
    assert fourth[:4] == [1.0] * 4
    assert fourth[4:8] == pytest.approx([each[4]] * 4)
    assert fourth[8] == pytest.approx(each[8])


def test_without_evidence_nothing_moves() -> None:
    weight, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
    feedback = Hypergradient(beta=0.5, every=1)
    feedback.watch([weight, unused], RUN)
    for gradient in ([1.0, 1.0], [1.0, 1.0], [math.inf, math.nan], [0.0, 0.0]):
        weight.grad = torch.tensor(gradient)
        feedback.observe(0.0)  # as a step that a gradient scaler skips: the weights stay
        assert feedback.factor == 1.0
    weight.grad = None
    feedback.observe(0.0)
    assert feedback.factor == 1.0


def test_sparse_gradients() -> None:
    def drive(sparse: bool) -> float:
        table = torch.nn.Embedding(4, 2, sparse=sparse)
        torch.nn.init.ones_(table.weight)
        feedback = Hypergradient(beta=0.5, every=1)
        feedback.watch([table.weight], RUN)
        for rows in ([0, 1], [1, 2]):
            table.weight.grad = None
            table(torch.tensor(rows)).sum().backward()
            feedback.observe(0.1)
            table.weight.data -= 0.1 * table.weight.grad.to_dense()
        return feedback.factor

    assert drive(True) == drive(False) == pytest.approx(1.25)


@pytest.mark.parametrize("cut", [1, 4, 6, 11])
def test_it_resumes_exactly(cut: int) -> None:
    def noise(step: int) -> np.ndarray:
        return np.random.default_rng(step).normal(size=3) * 0.1

    def fresh() -> Hypergradient:
        return Hypergradient(beta=0.1, every=3)

    factors, path, _ = quadratic(fresh(), 14, 0.1, torch.optim.SGD, noise, momentum=0.9)
    _, _, state = quadratic(fresh(), cut, 0.1, torch.optim.SGD, noise, momentum=0.9)
    later, rest, _ = quadratic(fresh(), 14 - cut, 0.1, torch.optim.SGD, noise, state, momentum=0.9)
    assert later == factors[cut:]
    assert all((now == then).all() for now, then in zip(rest, path[cut:], strict=True))


def test_the_state_of_other_weights_is_an_error() -> None:
    _, _, state = quadratic(Hypergradient(), 3, 0.1)
    other = Hypergradient()
    other.load_state_dict(state[3])
    with pytest.raises(ValueError, match="other parameters"):
        other.watch([torch.nn.Parameter(torch.zeros(2))], RUN)


def test_its_description(wrong: Any) -> None:
    expected = "hypergradient: x(1 + 0.02 cos(gradient, last update)) each step, applied every 10 steps"
    assert Hypergradient().describe() == expected
    assert wrong(Hypergradient, beta=1) == {"feedback.beta"}
