"""Sharpness of a loss (top eigenvalue of the preconditioned Hessian), by Lanczos on Hessian-vector products.

`stability_limit` and `preconditioner` hold the formulas of each optimizer; `module_loss` turns a Lightning module's
training loss into a pure function of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lrflow.optimizers.traits import Bound
from lrflow.training.isolation import isolated

LossFunction = Callable[[dict[str, Tensor]], Tensor]
"""Maps parameters by name to a scalar loss."""


@dataclass(frozen=True)
class MeasuredSharpness:
    """The sharpness of a loss and the share of the stable LR range that the current LRs use.

    On a quadratic a step of gradient descent shrinks the error along an eigenvector of the Hessian while
    `lr * eigenvalue` is below 2. With an LR per parameter group, a preconditioner (Adam) and momentum the same holds
    for the largest eigenvalue of `diag(lr) P^-1 H`, with another limit than 2 (Cohen et al., 2021, 2103.00065; Cohen et
    al., 2022, 2207.14484).

    Args:
        top: largest eigenvalue of P^-1 H, including weight decay that is added to the gradient.
        scaled: largest eigenvalue of `diag(lr) P^-1 H`.
        limit: upper limit of `scaled`, beyond which steps along its eigenvector grow; 2 for plain gradient descent.
        error: relative error of `scaled`.
        products: number of Hessian-vector products used; one costs about two gradients.
    """

    top: float
    scaled: float
    limit: float
    error: float
    products: int

    @property
    def share(self) -> float:
        """The share of the stable range that the current LRs use; above 1, steps along the sharpest direction grow."""
        return max(self.scaled, 0.0) / self.limit

    def ceiling(self, lr: float) -> float:
        """Return the largest stable LR, given the current one, if groups keep their ratios; inf: any LR is stable."""
        return lr / self.share if self.share > 0 else float("inf")


def measure_sharpness(
    loss: LossFunction,
    groups: Sequence[Mapping[str, Tensor]],
    rates: Sequence[float],
    limit: float = 2.0,
    preconditioners: Mapping[str, Tensor] | None = None,
    decay: Sequence[float] | None = None,
    products: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> MeasuredSharpness:
    """Return the sharpness of a loss at the current parameters.

    Args:
        loss: maps all parameters by name to a scalar; pure and twice differentiable.
        groups: the parameters by name, in the optimizer's groups.
        rates: the LR of each group.
        limit: limit of the scaled sharpness, from `stability_limit`.
        preconditioners: by name, the P that divides a parameter's gradient, in the shape of the parameter; None: 1.
        decay: weight decay of each group that is added to the gradient; None: none.
        products: maximum number of Hessian-vector products.
        tolerance: stop once the relative error is below this.
        seed: seed of the random direction that Lanczos starts from.

    Raises:
        ValueError: the curvature is not finite.
    """
    parameters = {name: tensor.detach() for group in groups for name, tensor in group.items()}
    decays = decay or [0.0] * len(groups)
    hessian = hessian_product(loss, parameters)
    added = _spread(groups, decays)
    inverse = None if preconditioners is None else 1.0 / _flat([preconditioners[name] for name in parameters])
    steps = _spread(groups, list(rates)) if len(set(rates)) > 1 else None

    def top(scale: Tensor | None) -> Any:
        # The eigenvalues of S H are those of the symmetric S^1/2 H S^1/2.
        root = None if scale is None else scale.sqrt()

        def product(vector: Tensor) -> Tensor:
            inner = vector if root is None else root * vector
            image = hessian(inner) + added * inner
            return image if root is None else root * image

        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(sum(tensor.numel() for tensor in parameters.values()), generator=generator)
        return lanczos(product, start.to(next(iter(parameters.values()))), products, tolerance)

    plain = top(inverse)
    if steps is None:  # a single LR only scales the eigenvalue
        found, scaled = plain, plain.largest * rates[0]
    else:
        found = top(steps if inverse is None else steps * inverse)
        scaled = found.largest
    error = found.error / abs(found.largest) if found.largest else 0.0
    spent = found.products + (0 if found is plain else plain.products)
    return MeasuredSharpness(plain.largest, scaled, limit, error, spent)


def stability_limit(bound: Bound, settings: Mapping[str, Any]) -> float:
    """Return the largest eigenvalue of `lr P^-1 H` at which an optimizer's steps do not grow.

    Gradient descent 2; with heavy-ball momentum b (2 + 2b) / (1 - dampening); Nesterov's (2 + 2b) / (1 + 2b) (Cohen et
    al., 2021); Adam's running mean (2 + 2 b1) / (1 - b1), which is 38 at 0.9 (Cohen et al., 2022).

    Args:
        bound: the formula, from the optimizer's traits.
        settings: settings of a parameter group: `momentum`, `dampening`, `nesterov`, `betas`.
    """
    if bound == "adam":
        first = float(settings["betas"][0])
        return (2 + 2 * first) / (1 - first)
    if bound == "adagrad":
        return 2.0
    momentum = float(settings.get("momentum", 0.0))
    if settings.get("nesterov"):
        return (2 + 2 * momentum) / (1 + 2 * momentum)
    return (2 + 2 * momentum) / (1 - float(settings.get("dampening", 0.0)))


def preconditioner(bound: Bound, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor | None:
    """Return the diagonal that an optimizer divides a parameter's gradient by; None if it does not divide.

    Args:
        bound: the formula, from the optimizer's traits.
        settings: settings of the parameter group.
        state: optimizer state of the parameter.

    Raises:
        ValueError: the optimizer has not seen a gradient of the parameter yet.
    """
    if bound == "sgd":
        return None
    if not state:
        raise ValueError("the optimizer has not seen a gradient yet")
    eps = float(settings["eps"])
    if bound == "adagrad":
        return state["sum"].sqrt() + eps
    if bound == "rmsprop":
        square = state["square_avg"]
        if settings.get("centered"):
            square = square - state["grad_avg"].square()
        return square.sqrt() + eps
    step, (first, second) = float(state["step"]), settings["betas"]
    square = state["max_exp_avg_sq"] if settings.get("amsgrad") else state["exp_avg_sq"]
    # Including the bias correction of the first moment, as in Cohen et al.: early steps are longer.
    return (1 - first**step) * ((square / (1 - second**step)).sqrt() + eps)


def hessian_product(loss: LossFunction, parameters: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function that maps a flat vector [n] to the Hessian's product with it [n].

    The gradient is computed once and differentiated again for each product. Forward-over-reverse (`jvp` of `grad`)
    would keep no graph, but takes 1.4 to 1.7 times as long on a CPU, and torch 2.13 lacks its forward mode for
    `mse_loss`, `huber_loss` and LSTMs.

    Args:
        loss: maps parameters by name to a scalar.
        parameters: the point of the Hessian; flat vectors follow the order of these.
    """
    point = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    inputs = list(point.values())
    sizes = [tensor.numel() for tensor in inputs]
    gradients = torch.autograd.grad(loss(point), inputs, create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        parts = [part.view_as(tensor) for part, tensor in zip(vector.split(sizes), inputs, strict=True)]
        # A gradient that depends on no parameter, as of a linear loss, cannot be differentiated.
        pairs = [pair for pair in zip(gradients, parts, strict=True) if pair[0].requires_grad]
        if not pairs:
            return torch.zeros_like(vector)
        outputs, along = zip(*pairs, strict=True)
        images = torch.autograd.grad(outputs, inputs, along, retain_graph=True, materialize_grads=True)
        return _flat(images)

    return product


def check_twice_differentiable(loss: LossFunction, parameters: Mapping[str, Tensor]) -> None:
    """Check that a loss has the second derivatives of `hessian_product`; torch treats some missing ones as zero.

    Args:
        loss: maps parameters by name to a scalar.
        parameters: the point at which to check.

    Raises:
        ValueError: a part of the loss can be differentiated only once, or the loss depends on no parameter.
        RuntimeError: torch cannot differentiate the loss twice.
    """
    point = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    gradients = torch.autograd.grad(loss(point), list(point.values()), create_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError("the loss depends on no parameter (or checkpointing with use_reentrant=True hides them)")
    seen, pending = set(), [gradient.grad_fn for gradient in gradients if gradient is not None]
    while pending:
        if (node := pending.pop()) is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise ValueError("a part of the loss can be differentiated only once")
        seen.add(node)
        pending += [function for function, _ in node.next_functions]
    hessian_product(loss, parameters)(torch.cat([tensor.detach().reshape(-1) for tensor in parameters.values()]))


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The largest and smallest eigenvalue of a symmetric operator, as estimated by `lanczos`.

    Args:
        largest: a lower bound of the operator's largest eigenvalue, within `error` of an eigenvalue.
        smallest: an upper bound of the smallest one.
        error: the residual norm of the largest Ritz pair; an eigenvalue lies at most this far from `largest`.
        products: number of operator-vector products used.
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
) -> ExtremeEigenvalues:
    """Return the extreme eigenvalues of a symmetric operator, by the Lanczos method (Lanczos, 1950).

    Every new direction is orthogonalized twice against all earlier ones: otherwise rounding produces copies of
    eigenvalues already found (Paige, 1971; twice is enough: Giraud et al., 2005). The largest eigenvalue of a network's
    Hessian is well separated and takes about 20 products; power iteration takes several times as many.

    Args:
        product: maps a vector [n] to the operator's product with it [n].
        start: a vector [n] that is not orthogonal to the eigenvector; a random one almost surely is not. The method
            uses its dtype and device, and stores `min(products, n)` such vectors.
        products: maximum number of products.
        tolerance: stop once the error relative to the largest eigenvalue is below this.

    Raises:
        ValueError: `start` is zero, or a product is not finite.
    """
    norm = torch.linalg.vector_norm(start)
    if not norm > 0:
        raise ValueError("Lanczos starts from a vector that is not zero")
    count = min(products, start.numel())
    basis = torch.empty(count, start.numel(), dtype=start.dtype, device=start.device)
    # The projection onto the basis is tridiagonal and small; it is solved on the CPU in double precision.
    projected = torch.zeros(count, count, dtype=torch.float64)
    basis[0] = start / norm
    for size in range(1, count + 1):
        directions = basis[:size]
        image = product(directions[-1])
        along = directions[-1] @ image
        for _ in range(2):
            image = image - directions.T @ (directions @ image)
        residual = float(torch.linalg.vector_norm(image))
        projected[size - 1, size - 1] = float(along)
        if not torch.isfinite(projected[size - 1, size - 1]) or residual != residual:
            raise ValueError("a product of the operator is not finite")
        values, vectors = torch.linalg.eigh(projected[:size, :size])
        largest, error = float(values[-1]), abs(residual * float(vectors[-1, -1]))
        scale = max(abs(largest), abs(float(values[0])))
        if size == count or error <= tolerance * abs(largest) or residual <= 1e-12 * scale:
            break
        projected[size - 1, size] = projected[size, size - 1] = residual
        basis[size] = image / residual
    vector = directions.T @ vectors[:, -1].to(directions)
    return ExtremeEigenvalues(largest, float(values[0]), error, size, vector / torch.linalg.vector_norm(vector))


def module_loss(module: pl.LightningModule, batches: Sequence[Any]) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return the mean training loss of some batches as a function of the parameters; call it in `as_pure_function`.

    Args:
        module: its own parameters are not changed.
        batches: batches on the module's device, with equal weights; a batch whose step returns None is skipped.

    Returns:
        A function from parameters by their names in the module to a scalar; it raises ValueError if the training step
        skips every batch.
    """
    step = TrainingStep(module)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        named = {f"module.{name}": tensor for name, tensor in parameters.items()}
        buffers = {f"module.{name}": buffer for name, buffer in module.named_buffers()}

        def batch_loss(batch: Any, index: int) -> Tensor | None:
            # Each call gets its own buffers, since the graph of an earlier call may still need that call's buffers.
            copies = {name: buffer.clone() for name, buffer in buffers.items()}
            result: Tensor | None = functional_call(step, named | copies, (batch, index))
            return result

        outputs = [batch_loss(batch, index) for index, batch in enumerate(batches)]
        losses = [value for value in outputs if value is not None]
        if not losses:
            raise ValueError("the training step skips every batch")
        return torch.stack(losses).mean()

    return loss


@contextmanager
def as_pure_function(module: pl.LightningModule) -> Iterator[None]:
    """Make the training step a pure function of the parameters: its calls have no side effects.

    Dropout is off, and batch norms use the statistics of the batch and update none. The function can be differentiated
    twice: compilation and the fused attention kernels, which do not support that, are switched off.
    """
    with isolated(module):
        frozen = [one for one in module.modules() if isinstance(one, _BatchNorm) and not one.training]
        module.train()
        for one in module.modules():
            if isinstance(one, _DropoutNd) or one in frozen:
                one.eval()  # a frozen batch norm normalizes by its running statistics
            elif isinstance(one, _BatchNorm):
                one.track_running_stats = False
                one.running_mean = one.running_var = one.num_batches_tracked = None
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            yield


class TrainingStep(nn.Module):
    """Makes the training step a forward pass, so that `functional_call` can run it."""

    def __init__(self, module: pl.LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any, index: int) -> Tensor | None:
        """Return the loss of a batch; None: the step skips it."""
        step = self.module.training_step
        output: Any = step(batch, index) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
        loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        return loss


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _spread(groups: Sequence[Mapping[str, Tensor]], values: Sequence[float]) -> Tensor:
    """Return the flat vector [n] that repeats each group's value for all of its elements."""
    return _flat(
        [torch.full_like(t, value) for group, value in zip(groups, values, strict=True) for t in group.values()]
    )
