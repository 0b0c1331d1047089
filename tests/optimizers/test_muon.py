"""Muon against torch's, against a singular value decomposition, and for kernels and stacks, which torch's rejects."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrflow.optimizers import Muon
from lrflow.optimizers.muon import ADJUST_LR, QUINTIC, orthogonalise

CUBIC = (2.0, -1.5, 0.5)  # of modded-nanogpt's track 3: converges to 1 instead of scattering around it


def newton_schulz(matrix: Tensor, steps: int, coefficients: tuple[float, ...]) -> Tensor:
    """The same iteration on singular values alone: x <- a x + b x^3 + c x^5, in float64."""
    a, b, c = coefficients
    u, x, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    x = x / x.norm()
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return u @ torch.diag(x) @ v


@pytest.mark.parametrize("shape", [(8, 8), (16, 5), (5, 16), (1, 7), (7, 1)])
@pytest.mark.parametrize(("steps", "coefficients"), [(5, QUINTIC), (3, QUINTIC), (12, CUBIC)])
def test_singular_values_follow_the_polynomial(shape: tuple[int, int], steps: int, coefficients: Any) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    expected = newton_schulz(matrix, steps, coefficients)
    assert torch.allclose(orthogonalise(matrix, steps, coefficients), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
def test_singular_values_end_in_the_known_band(shape: tuple[int, int]) -> None:
    """All that start above a hundredth of the Frobenius norm end between 0.68 and 1.14 (Jordan et al., 2024)."""
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    spread = torch.linspace(0.1, 1, min(shape), dtype=torch.float64)
    found = torch.linalg.svdvals(orthogonalise(u @ torch.diag(spread) @ v))
    assert found.min() > 0.68
    assert found.max() < 1.14
    exact = torch.linalg.svdvals(orthogonalise(u @ torch.diag(spread) @ v, 12, CUBIC))
    assert torch.allclose(exact, torch.ones_like(exact), atol=1e-3)


def test_a_stack_is_orthogonalised_as_its_matrices_one_by_one() -> None:
    stack = torch.randn(2, 3, 6, 4)
    for i in range(2):
        for j in range(3):
            assert torch.allclose(orthogonalise(stack)[i, j], orthogonalise(stack[i, j]), atol=1e-6)


def test_half_precision_gives_the_same_up_to_its_rounding() -> None:
    matrix = torch.randn(48, 32)
    half = orthogonalise(matrix.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), orthogonalise(matrix), atol=0.05)


def test_no_gradient_is_no_direction() -> None:
    assert torch.equal(orthogonalise(torch.zeros(4, 3)), torch.zeros(4, 3))


def follow(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 6) -> list[Tensor]:
    """Make steps with the same random gradients for each optimizer; return the weights."""
    draw = torch.Generator().manual_seed(3)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draw, dtype=torch.float64).to(weight.dtype)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def weights_of(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=draw, dtype=dtype)) for shape in shapes]


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Newton-Schulz, but not in bfloat16."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda tensor: tensor.clone())


SHAPES = ((8, 8), (8, 8), (12, 5), (5, 12), (12, 5))


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("adjust_lr_fn", ADJUST_LR)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_moves_as_torchs_own(adjust_lr_fn: Any, nesterov: bool, weight_decay: float) -> None:
    options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    ours, theirs = weights_of(*SHAPES), weights_of(*SHAPES)
    left = follow(Muon(ours, adjust_lr_fn=adjust_lr_fn, **options), ours)
    right = follow(torch.optim.Muon(theirs, adjust_lr_fn=adjust_lr_fn, **options), theirs)
    for mine, other in zip(left, right, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert not torch.allclose(left[0], weights_of(*SHAPES)[0], atol=1e-2)


def test_it_moves_as_torchs_own_up_to_bfloat16() -> None:
    ours, theirs = weights_of(*SHAPES), weights_of(*SHAPES)
    left = follow(Muon(ours, lr=0.05), ours)
    right = follow(torch.optim.Muon(theirs, lr=0.05, weight_decay=0.0), theirs)
    for mine, other in zip(left, right, strict=True):
        assert torch.allclose(mine, other, atol=0.02)


def test_the_defaults_are_torchs_but_for_lr_and_decay() -> None:
    weights = weights_of((4, 4))
    ours, theirs = Muon(weights).defaults, torch.optim.Muon(weights).defaults
    assert set(ours) == {*theirs, "ns_dtype"}
    same = {"momentum", "nesterov", "ns_coefficients", "ns_steps", "eps"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), name=st.sampled_from(ADJUST_LR))
def test_the_scale_of_an_update(rows: int, columns: int, name: str) -> None:
    """The ratio to an update without a scale is the published formula."""
    gradient = torch.randn(rows, columns, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))
    weight.grad = gradient
    Muon([weight], lr=0.1, momentum=0.0, nesterov=False, adjust_lr_fn=name).step()
    formula = {"original": math.sqrt(max(1, rows / columns)), "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns))}
    assert torch.allclose(weight.detach(), -0.1 * formula[name] * orthogonalise(gradient), atol=1e-12)


def test_matched_to_adamw_an_update_has_the_size_of_adamws() -> None:
    """RMS 0.2 whatever the shape (Liu et al., 2025), where the iteration converges to orthogonal matrices."""
    for shape in ((64, 64), (256, 16), (16, 256)):
        weight = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        weight.grad = torch.randn(shape, dtype=torch.float64)
        Muon([weight], lr=1.0, adjust_lr_fn="match_rms_adamw", ns_steps=15, ns_coefficients=CUBIC).step()
        assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_the_matrix_of_its_rows(memory_format: torch.memory_format) -> None:
    (start,) = weights_of((6, 4, 3, 3))
    kernel = nn.Parameter(start.detach().clone(memory_format=memory_format))
    matrix = nn.Parameter(start.detach().flatten(1))
    optimizers = [Muon([kernel]), Muon([matrix])]
    for _ in range(3):
        gradient = torch.randn(6, 4, 3, 3)
        kernel.grad, matrix.grad = gradient.to(memory_format=memory_format), gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(kernel.detach().flatten(1), matrix.detach(), atol=1e-6)
    assert kernel.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_keep_their_precision(dtype: torch.dtype) -> None:
    weights = weights_of((6, 4), dtype=dtype)
    before = weights[0].detach().clone()
    follow(Muon(weights), weights, steps=2)
    assert weights[0].dtype == dtype
    assert not torch.equal(before, weights[0])


@pytest.mark.parametrize(("dtype", "weight"), [("bfloat16", torch.float32), ("float32", torch.float16)])
def test_the_iterations_have_a_precision_of_their_own(dtype: str, weight: torch.dtype) -> None:
    gradient = torch.randn(6, 4).to(weight)
    parameter = nn.Parameter(torch.zeros(6, 4, dtype=weight))
    parameter.grad = gradient
    Muon([parameter], lr=1.0, momentum=0.0, nesterov=False, ns_dtype=dtype, adjust_lr_fn="original").step()
    expected = orthogonalise(gradient.to(getattr(torch, dtype))).to(weight) * -math.sqrt(6 / 4)
    assert torch.equal(parameter.detach(), expected)


def test_a_tensor_lr_is_the_number_that_it_holds() -> None:
    plain, tensor = weights_of(*SHAPES), weights_of(*SHAPES)
    left = follow(Muon(plain, lr=0.03, weight_decay=0.1), plain)
    right = follow(Muon(tensor, lr=torch.tensor(0.03, dtype=torch.float64), weight_decay=0.1), tensor)
    for mine, other in zip(left, right, strict=True):
        assert torch.allclose(mine, other, atol=1e-7)


def test_parameters_without_a_gradient_stand_still() -> None:
    moved, still = weights_of((4, 4), (4, 4))
    before = still.detach().clone()
    moved.grad = torch.ones(4, 4)
    optimizer = Muon([moved, still], weight_decay=0.5)
    optimizer.step()
    assert torch.equal(still, before)
    assert still not in optimizer.state


def test_saved_and_loaded_in_the_middle_it_resumes_bit_for_bit() -> None:
    whole, first = weights_of(*SHAPES), weights_of(*SHAPES)
    expected = follow(Muon(whole), whole, steps=6)

    draw = torch.Generator().manual_seed(3)
    optimizer = Muon(first)

    def go(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=draw, dtype=torch.float64).to(weight.dtype)
            optimizer.step()

    go(optimizer, first)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = copy.deepcopy(first)
    again = Muon(second)
    again.load_state_dict(torch.load(file, weights_only=True))
    go(again, second)
    assert all(torch.equal(a, b) for a, b in zip(expected, second, strict=True))


def test_the_closure_is_called_once_with_gradients() -> None:
    (weight,) = weights_of((3, 3))
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        loss = weight.square().sum()
        loss.backward()
        return loss

    expected = float(weight.detach().square().sum())
    with torch.no_grad():
        assert float(Muon([weight]).step(closure)) == pytest.approx(expected)
    assert calls == [True]


@pytest.mark.parametrize(
    ("parameter", "options", "words"),
    [
        (torch.ones(3), {}, r"float32 of shape \[3\]"),
        (torch.ones(2, 2, dtype=torch.complex64), {}, "complex64"),
        (torch.ones(2, 2), {"lr": -1.0}, "lr is at least 0"),
        (torch.ones(2, 2), {"lr": torch.ones(2)}, "a tensor of one number"),
        (torch.ones(2, 2), {"momentum": 1.0}, "momentum is at least 0 and below 1"),
        (torch.ones(2, 2), {"weight_decay": -0.1}, "weight_decay is at least 0"),
        (torch.ones(2, 2), {"adjust_lr_fn": "rms"}, "one of original, match_rms_adamw"),
        (torch.ones(2, 2), {"ns_dtype": "half"}, "one of auto, float32, bfloat16"),
        (torch.ones(2, 2), {"ns_steps": 0}, "ns_steps is at least 1"),
        (torch.ones(2, 2), {"ns_coefficients": (1.0, 2.0)}, "three numbers"),
    ],
)
def test_unsupported_parameters(parameter: Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Muon([nn.Parameter(parameter)], **options)


def test_a_compiled_step_compiles_no_more_once_it_has_its_momentum() -> None:
    compilations = 0

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    torch._dynamo.reset()
    plain, compiled = weights_of(*SHAPES), weights_of(*SHAPES)
    optimizer = Muon(compiled, lr=torch.tensor(0.02, dtype=torch.float64))
    step = torch.compile(optimizer.step, backend=backend)
    reference = Muon(plain)
    counts = []
    draw = torch.Generator().manual_seed(3)
    for index in range(6):
        lr = 0.02 * (1 - index / 6)
        optimizer.param_groups[0]["lr"].fill_(lr)
        reference.param_groups[0]["lr"] = lr
        for weight, other in zip(plain, compiled, strict=True):
            weight.grad = torch.randn(weight.shape, generator=draw)
            other.grad = weight.grad.clone()
        reference.step()
        step()
        counts.append(compilations)
    torch._dynamo.reset()
    assert counts[0] >= 1
    assert counts[1:] == [counts[1]] * 5
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, compiled, strict=True))
