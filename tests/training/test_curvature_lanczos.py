"""Lanczos against dense eigensolvers, and its error bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.training.curvature import lanczos


def symmetric(values: list[float], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return turned @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turned.T


def start(size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_a_complete_krylov_space_has_the_extreme_eigenvalues(values: list[float]) -> None:
    matrix = symmetric(values)
    found = lanczos(lambda v: matrix @ v, start(len(values)), products=len(values), tolerance=0.0)
    exact = np.linalg.eigvalsh(matrix.numpy())
    assert found.largest == pytest.approx(exact[-1], abs=1e-8)
    assert found.smallest == pytest.approx(exact[0], abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 15))
def test_the_error_bounds_the_distance_to_an_eigenvalue(seed: int, products: int) -> None:
    values = np.random.default_rng(seed).normal(size=40).tolist()
    matrix = symmetric(values, seed)
    found = lanczos(lambda v: matrix @ v, start(40, seed), products, tolerance=0.0)
    assert found.products == products
    assert min(abs(found.largest - value) for value in values) <= found.error + 1e-9
    assert min(values) - 1e-9 <= found.smallest <= found.largest <= max(values) + 1e-9


def test_a_separated_eigenvalue_takes_few_products() -> None:
    values = [*np.linspace(-1, 1, 299).tolist(), 25.0]
    matrix = symmetric(values)
    found = lanczos(lambda v: matrix @ v, start(300))
    assert found.products < 10
    assert found.largest == pytest.approx(25.0, rel=1e-6)
    assert torch.linalg.vector_norm(matrix @ found.vector - 25.0 * found.vector) < 25.0 * 1e-3


def test_single_precision_is_enough_for_a_wide_spectrum() -> None:
    matrix = symmetric([-3.0, *np.linspace(0, 1, 98).tolist(), 1e4]).float()
    found = lanczos(lambda v: matrix @ v, start(100).float(), products=40, tolerance=0.0)
    assert found.largest == pytest.approx(1e4, rel=1e-6)
    assert found.smallest == pytest.approx(-3.0, abs=0.01)


def test_it_stops_at_an_invariant_subspace() -> None:
    found = lanczos(lambda v: 3.0 * v, start(50), products=20)
    assert (found.products, found.largest) == (1, pytest.approx(3.0))
    nothing = lanczos(lambda v: 0.0 * v, start(50), products=20)
    assert (nothing.products, nothing.largest, nothing.error) == (1, 0.0, 0.0)


def test_invalid_inputs_raise() -> None:
    with pytest.raises(ValueError, match="not zero"):
        lanczos(lambda v: v, torch.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda v: v * torch.nan, torch.ones(3))
