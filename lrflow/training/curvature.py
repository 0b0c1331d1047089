"""Sharpness: the top eigenvalue of the Hessian as the optimizer sees it, against the learning rate it can take.

Extreme eigenvalues of a symmetric operator from its products with vectors.

A Lightning module's training loss as a pure function of its parameters.
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


@dataclass(frozen=True)
class ExtremeEigenvalues:
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
) -> ExtremeEigenvalues:
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
    return ExtremeEigenvalues(largest, float(values[0]), error, size, vector / torch.linalg.vector_norm(vector))


LossFunction = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class MeasuredSharpness:
    """How curved the loss is in the steepest direction, in units of the steps that an optimizer takes.

    On a quadratic a step of gradient descent shrinks the error along an eigenvector of the Hessian while
    `lr * eigenvalue` stays below 2. With one LR a parameter group, a preconditioner (Adam's) and momentum the same
    holds for the largest eigenvalue of `diag(lr) P^-1 H`, and another limit than 2 (Cohen et al., 2021, 2103.00065;
    Cohen et al., 2022, 2207.14484).

    Args:
        top: largest eigenvalue of P^-1 H, with weight decay where it goes through the gradient; 1 / loss units of LR.
        scaled: largest eigenvalue of `diag(lr) P^-1 H`.
        limit: of `scaled`, above which steps along its eigenvector grow: 2 for plain gradient descent.
        error: relative, of `scaled`.
        products: Hessian-vector products that were spent; one costs about two gradients.
    """

    top: float
    scaled: float
    limit: float
    error: float
    products: int

    @property
    def share(self) -> float:
        """Of the stable range that the present LRs use; above 1 the steps along the sharpest direction grow."""
        return max(self.scaled, 0.0) / self.limit

    def ceiling(self, lr: float) -> float:
        """The LR that is just stable, where the present one is `lr` and all groups keep their ratios; inf: any."""
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
    """The sharpness of a loss at the present parameters.

    Args:
        loss: from all parameters by name to a scalar; pure, and twice differentiable.
        groups: the parameters by name, as the optimizer has them grouped.
        rates: the LR of each group.
        limit: of the scaled sharpness; `stability_limit` tells it of an optimizer.
        preconditioners: by name, the P that a parameter's gradient is divided by, shaped as the parameter; None: 1.
        decay: of each group, weight decay that goes through the gradient; None: none.
        products: Hessian-vector products at most.
        tolerance: of the relative error; enough then.
        seed: of the random direction that Lanczos starts from.

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
    if steps is None:  # one LR: it only scales the eigenvalue
        found, scaled = plain, plain.largest * rates[0]
    else:
        found = top(steps if inverse is None else steps * inverse)
        scaled = found.largest
    error = found.error / abs(found.largest) if found.largest else 0.0
    spent = found.products + (0 if found is plain else plain.products)
    return MeasuredSharpness(plain.largest, scaled, limit, error, spent)


def hessian_product(loss: LossFunction, parameters: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The Hessian of a loss as a function from a flat vector [n] to its product with it [n].

    The gradient is taken once, and differentiated again for each product. Forward-over-reverse (`jvp` of `grad`) would
    keep no graph, but takes 1.4 to 1.7 times as long on a CPU, and torch 2.13 has no forward mode for `mse_loss` in it,
    `huber_loss` and LSTMs.

    Args:
        loss: from parameters by name to a scalar.
        parameters: where the Hessian is taken; the flat vectors have their order.
    """
    point = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    inputs = list(point.values())
    sizes = [tensor.numel() for tensor in inputs]
    gradients = torch.autograd.grad(loss(point), inputs, create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        parts = [part.view_as(tensor) for part, tensor in zip(vector.split(sizes), inputs, strict=True)]
        # A gradient that does not depend on any parameter, as of a linear loss, has nothing to be differentiated.
        pairs = [pair for pair in zip(gradients, parts, strict=True) if pair[0].requires_grad]
        if not pairs:
            return torch.zeros_like(vector)
        outputs, along = zip(*pairs, strict=True)
        images = torch.autograd.grad(outputs, inputs, along, retain_graph=True, materialize_grads=True)
        return _flat(images)

    return product


def check_twice_differentiable(loss: LossFunction, parameters: Mapping[str, Tensor]) -> None:
    """See that a loss has the second derivatives that `hessian_product` takes: torch counts some that lack as zero.

    Args:
        loss: from parameters by name to a scalar.
        parameters: where it is looked at.

    Raises:
        ValueError: a part of it can be differentiated only once, or no parameter is seen.
        RuntimeError: torch itself refuses.
    """
    point = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    gradients = torch.autograd.grad(loss(point), list(point.values()), create_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError("the loss depends on no parameter (or checkpointing with use_reentrant=True hides them)")
    seen, ahead = set(), [gradient.grad_fn for gradient in gradients if gradient is not None]
    while ahead:
        if (node := ahead.pop()) is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise ValueError("a part of the loss can be differentiated only once")
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
    hessian_product(loss, parameters)(torch.cat([tensor.detach().reshape(-1) for tensor in parameters.values()]))


def stability_limit(bound: Bound, settings: Mapping[str, Any]) -> float:
    """What the largest eigenvalue of `lr P^-1 H` may be before an optimizer's steps grow.

    Gradient descent 2; with heavy-ball momentum b (2 + 2b) / (1 - dampening); Nesterov's (2 + 2b) / (1 + 2b) (Cohen et
    al., 2021); Adam's running mean (2 + 2 b1) / (1 - b1), which is 38 at 0.9 (Cohen et al., 2022).

    Args:
        bound: which formula holds, as the optimizer's traits have it.
        settings: of a parameter group: `momentum`, `dampening`, `nesterov`, `betas`.
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
    """The diagonal that an optimizer divides a parameter's gradient by; None where it divides by nothing.

    Args:
        bound: as in `stability_limit`.
        settings: of the parameter group.
        state: of the parameter.

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
    # With the bias correction of the first moment, as Cohen et al. have it: early steps are longer.
    return (1 - first**step) * ((square / (1 - second**step)).sqrt() + eps)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _spread(groups: Sequence[Mapping[str, Tensor]], values: Sequence[float]) -> Tensor:
    """A group's value for each of its numbers; [n]."""
    return _flat(
        [torch.full_like(t, value) for group, value in zip(groups, values, strict=True) for t in group.values()]
    )


class _TrainingStep(nn.Module):
    """Calls the training step as a forward pass, which is what `functional_call` can call."""

    def __init__(self, module: pl.LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any, index: int) -> Tensor | None:
        step = self.module.training_step
        found: Any = step(batch, index) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
        loss: Tensor | None = found["loss"] if isinstance(found, Mapping) else found
        return loss


def module_loss(module: pl.LightningModule, batches: Sequence[Any]) -> Callable[[dict[str, Tensor]], Tensor]:
    """The mean training loss of some batches at given parameters; call it within `as_pure_function`.

    Args:
        module: its own parameters stay as they are.
        batches: on the module's device; each counts the same, but for those that the step skips by returning None.

    Returns:
        From parameters by their names in the module to a scalar; it raises a ValueError where every batch is skipped.
    """
    step = _TrainingStep(module)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        named = {f"module.{name}": tensor for name, tensor in parameters.items()}
        buffers = {f"module.{name}": buffer for name, buffer in module.named_buffers()}

        def one(batch: Any, index: int) -> Tensor | None:
            # Each call has buffers of its own, since the graph of an earlier one may still need theirs.
            copies = {name: buffer.clone() for name, buffer in buffers.items()}
            result: Tensor | None = functional_call(step, named | copies, (batch, index))
            return result

        found = [one(batch, index) for index, batch in enumerate(batches)]
        losses = [value for value in found if value is not None]
        if not losses:
            raise ValueError("the training step skips every batch")
        return torch.stack(losses).mean()

    return loss


@contextmanager
def as_pure_function(module: pl.LightningModule) -> Iterator[None]:
    """Let the training step be a function of its parameters, and leave no trace of its calls.

    Dropout is off, and batch norms use the statistics of the batch and keep none. The function can be differentiated
    twice, which a compiled model and the fused kernels of attention cannot.
    """
    with isolated(module):
        frozen = [one for one in module.modules() if isinstance(one, _BatchNorm) and not one.training]
        module.train()
        for one in module.modules():
            if isinstance(one, _DropoutNd) or one in frozen:
                one.eval()  # a frozen batch norm normalises by what it has
            elif isinstance(one, _BatchNorm):
                one.track_running_stats = False
                one.running_mean = one.running_var = one.num_batches_tracked = None
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            yield
