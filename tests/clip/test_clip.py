"""Each guard against its published rule, computed here with NumPy, over 40 steps with outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrflow.clip import AGC, AdaGC, Clip, Gradients, Norm, Skip, Value, ZClip
from lrflow.errors import ConfigError, LrflowError

NAMES = ["body.weight", "body.bias", "conv.weight", "head.weight"]
SHAPES = [(4, 3), (4,), (2, 3, 2, 2), (3, 4)]
Arrays = list[np.ndarray]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
    made[1].data.zero_()  # as biases begin
    return made


def steps(count: int = 40) -> Iterator[tuple[Arrays, float]]:
    """Gradients and a loss per step; every ninth is an outlier, and the head gets none at first."""
    generator = np.random.default_rng(1)
    for step in range(count):
        scale = (8.0 if step % 9 == 8 else 1.0) * (0.05 if step % 2 else 0.1)
        grads = [generator.normal(size=shape) * scale for shape in SHAPES]
        if step < 3:
            grads[0] *= 0
        yield grads, 1.0 + 0.01 * step % 3 + (5.0 if step == 30 else 0.0)


def total(grads: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum((grad**2).sum() for grad in grads)))


def call(clip: Clip, held: Sequence[nn.Parameter], grads: Sequence[Any], loss: float = 1.0) -> float:
    for parameter, grad in zip(held, grads, strict=True):
        parameter.grad = None if grad is None else torch.as_tensor(grad).clone()
    return float(clip(Gradients(NAMES, held, lambda: torch.tensor(loss))))


def norm(_: Arrays) -> Callable[[Arrays, float], Arrays]:
    return lambda grads, loss: [grad * min(1, 0.4 / (total(grads) + 1e-6)) for grad in grads]


def value(_: Arrays) -> Callable[[Arrays, float], Arrays]:
    return lambda grads, loss: [grad.clip(-0.1, 0.1) for grad in grads]


def agc(weights: Arrays) -> Callable[[Arrays, float], Arrays]:
    def unit(grad: np.ndarray, weight: np.ndarray) -> np.ndarray:
        limit = 0.05 * max(np.linalg.norm(weight), 1e-3)
        return grad if np.linalg.norm(grad) <= limit else grad * limit / np.linalg.norm(grad)

    def clip(grads: Arrays, loss: float) -> Arrays:
        found = []
        for grad, weight in zip(grads[:3], weights[:3], strict=True):
            if grad.ndim == 1:
                found.append(unit(grad, weight))
            else:
                found.append(np.stack([unit(row, own) for row, own in zip(grad, weight, strict=True)]))
        return [*found, grads[3]]

    return clip


def adagc(_: Arrays) -> Callable[[Arrays, float], Arrays]:
    """Algorithm 1 of the paper; an average that has seen no gradient yet does not limit."""
    gamma, count = [np.inf] * 4, [0]

    def clip(grads: Arrays, loss: float) -> Arrays:
        found = []
        for index, grad in enumerate(grads):
            own = np.linalg.norm(grad)
            if count[0] < 10:
                new = grad * min(0.4 / (total(grads) + 1e-6), 1)
                gamma[index] = min(gamma[index], np.linalg.norm(new)) if own else gamma[index]
            else:
                new = grad * min(1.2 * gamma[index] / own, 1)
                gamma[index] = 0.9 * gamma[index] + 0.1 * np.linalg.norm(new)
            found.append(new)
        count[0] += 1
        return found

    return clip


def zclip(_: Arrays) -> Callable[[Arrays, float], Arrays]:
    """The paper's reciprocal clipping, with mean and variance of the first norms at once."""
    first: list[float] = []
    mean = var = 0.0

    def clip(grads: Arrays, loss: float) -> Arrays:
        nonlocal mean, var
        norm = limit = total(grads)
        if len(first) < 8:
            first.append(norm)
            mean, var = float(np.mean(first)), float(np.var(first))
            return grads
        score = (norm - mean) / (np.sqrt(var) + 1e-6)
        if score > 2.0:
            limit = mean + 2.0**2 / score * np.sqrt(var)
        mean = 0.9 * mean + 0.1 * limit
        var = 0.9 * var + 0.1 * (limit - mean) ** 2
        return [grad * limit / (norm + 1e-6) if limit < norm else grad for grad in grads]

    return clip


def skip(_: Arrays) -> Callable[[Arrays, float], Arrays]:
    """OLMo-core's rule, on one side: those of skipped steps count too."""
    seen: list[tuple[float, float]] = []

    def clip(grads: Arrays, loss: float) -> Arrays:
        new, last = (loss, total(grads)), np.array(seen[-20:])
        seen.append(new)
        skips = len(last) >= 20 and (np.array(new) > last.mean(axis=0) + 3 * last.std(axis=0, ddof=1)).any()
        return [] if skips else grads

    return clip


RULES: dict[str, tuple[Callable[[], Clip], Callable[[Arrays], Callable[[Arrays, float], Arrays]]]] = {
    "norm": (lambda: Norm(max_norm=0.4), norm),
    "value": (lambda: Value(clip_value=0.1), value),
    "agc": (lambda: AGC(clip_factor=0.05, exclude="head.*"), agc),
    "adagc": (lambda: AdaGC(max_norm=0.4, ratio=1.2, beta=0.9, warmup=10), adagc),
    "zclip": (lambda: ZClip(threshold=2.0, alpha=0.9, warmup=8), zclip),
    "skip": (lambda: Skip(sigma=3, window=20), skip),
}


@pytest.mark.parametrize("name", RULES)
def test_the_published_rule(name: str) -> None:
    """Over all steps; half of the run is continued by a second guard from the state of the first."""
    make, rule = RULES[name]
    held = parameters()
    clip, expected_of = make(), rule([parameter.detach().numpy() for parameter in held])
    clip.begin(NAMES)
    factors = []
    for step, (grads, loss) in enumerate(steps()):
        if step == 23:
            saved, clip = clip.state_dict(), make()
            clip.begin(NAMES)
            clip.load_state_dict(saved)
        factor = call(clip, held, grads, loss)
        expected = expected_of(grads, loss)
        factors.append(factor)
        if not expected:
            assert factor == 0
            assert all(parameter.grad is None for parameter in held)
            continue
        for parameter, grad in zip(held, expected, strict=True):
            np.testing.assert_allclose(parameter.grad, grad, rtol=3e-6, atol=1e-12)
        is_same = all(np.array_equal(new, old) for new, old in zip(expected, grads, strict=True))
        assert (factor == 1) == is_same
        assert factor == pytest.approx(total(expected) / total(grads), rel=1e-4)
    clipped = sum(factor < 1 for factor in factors)
    assert 2 <= clipped <= 40
    if name == "skip":
        assert factors[30] == 0


def test_the_norm_is_clipped_as_by_torch() -> None:
    ours, theirs = parameters(), parameters()
    grads = [torch.randn(shape) for shape in SHAPES]
    for one, other, grad in zip(ours, theirs, grads, strict=True):
        one.data, other.data = one.data.float(), other.data.float()
        one.grad, other.grad = grad.clone(), grad.clone()
    nn.utils.clip_grad_norm_(theirs, 0.3)
    Norm(0.3)(Gradients(NAMES, ours, lambda: torch.zeros(())))
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(ours, theirs, strict=True))


def test_parameters_without_a_gradient_keep_their_average() -> None:
    """And a guard continues with the averages of the parameters that are still trained."""
    clip, held = AdaGC(warmup=1, ratio=2.0, beta=0.5, max_norm=100), parameters()
    clip.begin(NAMES)
    ones: list[Tensor | None] = [torch.ones(shape, dtype=torch.float64) for shape in SHAPES]
    call(clip, held, ones)
    call(clip, held, [None, *ones[1:]])
    assert held[0].grad is None
    saved, clip = clip.state_dict(), AdaGC(warmup=1, ratio=2.0, beta=0.5, max_norm=100)
    clip.begin(["new", "body.weight"])
    clip.load_state_dict(saved)
    tens = [torch.full(shape, 10.0, dtype=torch.float64) for shape in (SHAPES[1], SHAPES[0])]
    for parameter, ten in zip((held[1], held[0]), tens, strict=True):
        parameter.grad = ten.clone()
    clip(Gradients(clip.names, [held[1], held[0]], lambda: torch.zeros(())))
    assert torch.equal(held[1].grad, tens[0])  # no average yet
    assert float(held[0].grad.norm()) == pytest.approx(2 * 12**0.5)


@pytest.mark.parametrize("make", [lambda: ZClip(warmup=2), lambda: AdaGC(warmup=2), lambda: Skip(window=2)])
def test_what_is_not_finite_is_not_remembered(make: Callable[[], Clip]) -> None:
    clip, other, held = make(), make(), parameters()
    for guard in (clip, other):
        guard.begin(NAMES)
    for step, (grads, loss) in enumerate(steps(12)):
        if step == 6:
            call(clip, held, [grad * np.inf for grad in grads], loss)
        grads = [grad + 0.01 for grad in grads]
        assert call(clip, held, grads, loss) == call(other, held, grads, loss)


def test_sparse_gradients() -> None:
    """Rows that occur twice in a batch are added up first."""
    table = nn.Parameter(torch.ones(5, 2))
    rows = torch.sparse_coo_tensor([[1, 1, 3]], torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 4.0]]), (5, 2))
    table.grad = rows
    assert float(Norm(1.0)(Gradients(["table"], [table], lambda: torch.zeros(())))) == pytest.approx(0.2)
    expected = torch.zeros(5, 2)
    expected[1, 0], expected[3, 1] = 0.6, 0.8
    assert torch.allclose(table.grad.to_dense(), expected)
    table.grad = rows
    agc = AGC()
    agc.begin(["table"])
    with pytest.raises(LrflowError, match="clip=agc needs dense gradients"):
        agc(Gradients(["table"], [table], lambda: torch.zeros(())))


def test_settings_outside_their_range() -> None:
    for make in (lambda: Norm(0), lambda: ZClip(alpha=1), lambda: AdaGC(warmup=1.5), lambda: Skip(max_norm=-1)):
        with pytest.raises(ConfigError, match=r"clip\.\w+ = .*: expected"):
            make()
    with pytest.raises(ConfigError, match=r"clip.exclude = 'haed.\*': matches no parameter"):
        AGC(exclude="haed.*").begin(NAMES)
