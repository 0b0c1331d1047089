"""Muon: the momentum of each matrix is orthogonalised before each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.optimizers.traits import ADJUST_LR, NS_DTYPES

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0, so that small singular values grow fastest; they end near 1


class Muon(Optimizer):
    """Muon (Jordan et al., 2024): updates are the orthogonalised momentum of each matrix, times the LR.

        B <- momentum * B + (1 - momentum) * G;   U = orthogonalise(G + momentum * (B - G) or B)
        W <- (1 - lr * weight_decay) * W - lr * scale * U

    It is for hidden matrices; route embeddings, norms, biases and the output layer to another optimizer (`route` in a
    layer rule). A convolution kernel is a matrix of [out, in * height * width]. Unlike `torch.optim.Muon` it accepts
    those, and orthogonalises all matrices of one shape in one batched call.

    Args:
        params: parameters with two or more dimensions, or groups of them.
        lr: peak LR; a number or a tensor without dimensions.
        momentum: decay of the running mean of gradients.
        nesterov: use Nesterov momentum.
        weight_decay: decoupled; multiplied by the LR.
        adjust_lr_fn: the scale of an update of [rows, columns]: `original` is sqrt(max(1, rows / columns)) (Jordan et
            al., 2024); `match_rms_adamw` is 0.2 * sqrt(max(rows, columns)), which gives updates the size of AdamW's, so
            that LR and weight decay tuned for AdamW can be kept (Liu et al., 2025, arXiv 2502.16982).
        ns_steps: number of Newton-Schulz iterations.
        ns_coefficients: coefficients of x, x^3 and x^5 in each iteration.
        ns_dtype: precision of the iterations: `bfloat16`, `float32` (float64 for float64 weights), or `auto`:
            bfloat16 on a GPU, float32 elsewhere, since most CPUs have no fast bfloat16.
        eps: lower bound of the norm by which a matrix is divided.

    Raises:
        ValueError: values out of range, or a parameter that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        adjust_lr_fn: str = "original",
        ns_steps: int = 5,
        ns_coefficients: Sequence[float] = QUINTIC,
        ns_dtype: str = "auto",
        eps: float = 1e-7,
    ) -> None:
        _check(lr, momentum, weight_decay, ns_steps, ns_coefficients)
        for name, value, known in (("adjust_lr_fn", adjust_lr_fn, ADJUST_LR), ("ns_dtype", ns_dtype, NS_DTYPES)):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "adjust_lr_fn": adjust_lr_fn,
            "ns_steps": ns_steps,
            "ns_coefficients": tuple(ns_coefficients),
            "ns_dtype": ns_dtype,
            "eps": eps,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices.

        Raises:
            ValueError: a parameter is no matrix of real numbers.
        """
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if parameter.ndim < 2 or not parameter.is_floating_point():
                kind = f"{str(parameter.dtype).removeprefix('torch.')} of shape {list(parameter.shape)}"
                raise ValueError(f"Muon takes matrices of real numbers and convolution kernels, not {kind}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [parameter.grad for parameter in params if parameter.grad is not None]
        momenta = [self._momentum(parameter) for parameter in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
        if group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, update in enumerate(updates):
            alike.setdefault((len(update), update.numel(), update.device, update.dtype), []).append(index)
        for indices in alike.values():
            matrices = torch.stack([updates[index].flatten(1) for index in indices])
            lr = group["lr"] * update_scale(group["adjust_lr_fn"], *matrices.shape[1:])
            directions = orthogonalise(
                matrices.to(_precision(group["ns_dtype"], matrices)),
                group["ns_steps"],
                group["ns_coefficients"],
                group["eps"],
            )
            steps = directions.to(matrices.dtype).mul_(-lr)
            for index, step in zip(indices, steps.unbind(), strict=True):
                params[index].add_(step.view(params[index].shape))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalise(
    matrices: Tensor, steps: int = 5, coefficients: Sequence[float] = QUINTIC, eps: float = 1e-7
) -> Tensor:
    """Return the matrices with their singular values driven towards 1 by a Newton-Schulz iteration.

    With the default coefficients singular values end between 0.68 and 1.14, which does not harm Muon (Jordan et al.,
    2024); those below a thousandth of the largest end lower.

    Args:
        matrices: [..., rows, columns]; their precision is that of the iteration.
        steps: iterations.
        coefficients: a, b and c of X <- a X + b (X X^T) X + c (X X^T)^2 X.
        eps: lower bound of the Frobenius norm by which each matrix is divided first.

    Returns:
        The matrices, of the same shape.
    """
    a, b, c = coefficients
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # its Gram matrix is the smaller one
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)  # makes all singular values at most 1
    batched = x.reshape(-1, *x.shape[-2:])
    for _ in range(steps):
        gram = batched @ batched.mT
        batched = torch.baddbmm(batched, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), batched, beta=a)
    x = batched.view(x.shape)
    return x.mT if tall else x


def update_scale(adjust_lr_fn: str | None, rows: int, columns: int) -> float:
    """Return the factor of Muon on an update of [rows, columns], by `adjust_lr_fn`; None: `original`, as in torch."""
    if adjust_lr_fn in (None, "original"):
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def _precision(ns_dtype: str, matrices: Tensor) -> torch.dtype:
    if ns_dtype == "bfloat16" or (ns_dtype == "auto" and matrices.is_cuda):
        return torch.bfloat16
    return torch.promote_types(matrices.dtype, torch.float32)


def _check(
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    ns_steps: int,
    ns_coefficients: Sequence[float],
) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("lr is a number or a tensor of one number")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if value < 0:
            raise ValueError(f"{name} is at least 0, not {value}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is at least 0 and below 1, not {momentum}")
    if ns_steps < 1:
        raise ValueError(f"ns_steps is at least 1, not {ns_steps}")
    if len(ns_coefficients) != 3:
        raise ValueError(f"ns_coefficients are three numbers, not {ns_coefficients}")
