"""Extreme eigenvalues of a symmetric operator from its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extremes:
    """The largest and the smallest eigenvalue that a Krylov space shows.

    Args:
        largest: a lower bound of the operator's largest eigenvalue, and within `error` of an eigenvalue.
        smallest: an upper bound of the smallest one.
        error: the residual norm of the largest one's Ritz pair; there is an eigenvalue at most this far from `largest`.
        products: operator-vector products that were spent.
        vector: the unit Ritz vector of `largest`; [n].
    """

    largest: float
    smallest: float
    error: float
    products: int
    vector: Tensor


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    products: int = 20,
    tolerance: float = 1e-4,
) -> Extremes:
    """The extreme eigenvalues of a symmetric operator, by the method of Lanczos (1950).

    Every new direction is made orthogonal to all earlier ones, twice: without that, rounding brings copies of
    eigenvalues that were found already (Paige, 1971; twice is enough: Giraud et al., 2005). The largest eigenvalue of a
    network's Hessian, which stands apart from the others, takes about 20 products; power iteration takes several times
    as many.

    Args:
        product: from a vector [n] to the operator's product with it [n].
        start: a vector [n] that is not orthogonal to the eigenvector sought; a random one is not, almost surely. Its
            dtype and device are worked in, and `min(products, n)` vectors like it are kept.
        products: how many may be spent.
        tolerance: of the error over the size of the largest eigenvalue; enough then.

    Raises:
        ValueError: a start of zero length, or a product that is not finite.
    """
    norm = torch.linalg.vector_norm(start)
    if not norm > 0:
        raise ValueError("Lanczos starts from a vector that is not zero")
    count = min(products, start.numel())
    basis = torch.empty(count, start.numel(), dtype=start.dtype, device=start.device)
    # The projection onto the basis: tridiagonal, and small, so that it is solved on the CPU in double precision.
    projected = torch.zeros(count, count, dtype=torch.float64)
    basis[0] = start / norm
    for size in range(1, count + 1):
        known = basis[:size]
        image = product(known[-1])
        along = known[-1] @ image
        for _ in range(2):
            image = image - known.T @ (known @ image)
        beyond = float(torch.linalg.vector_norm(image))
        projected[size - 1, size - 1] = float(along)
        if not torch.isfinite(projected[size - 1, size - 1]) or beyond != beyond:
            raise ValueError("a product of the operator is not finite")
        values, vectors = torch.linalg.eigh(projected[:size, :size])
        largest, error = float(values[-1]), abs(beyond * float(vectors[-1, -1]))
        scale = max(abs(largest), abs(float(values[0])))
        if size == count or error <= tolerance * abs(largest) or beyond <= 1e-12 * scale:
            break
        projected[size - 1, size] = projected[size, size - 1] = beyond
        basis[size] = image / beyond
    vector = known.T @ vectors[:, -1].to(known)
    return Extremes(largest, float(values[0]), error, size, vector / torch.linalg.vector_norm(vector))
