"""The sharpness of a module's loss as its optimizer sees it at the present weights."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor

from lrflow.optimizers.traits import traits_of
from lrflow.tuning.sharpness import Loss, MeasuredSharpness, measure_sharpness, preconditioner, stability_limit


def present_sharpness(
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    products: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> MeasuredSharpness:
    """The sharpness at the present weights, under the optimizer's present LRs, settings and statistics.

    Parameters that do not move are left out: frozen ones, and those of which Adam and its kin have seen no gradient.

    Args:
        module: whose weights they are.
        optimizer: one whose stability bound is known.
        loss: of the module, within `as_a_function`.
        products: Hessian-vector products at most.
        tolerance: of the relative error; enough then.
        seed: of the random direction that Lanczos starts from.

    Raises:
        ValueError: the curvature is not finite, or nothing moves.
    """
    traits = traits_of(type(optimizer))
    if (bound := traits.bound) is None:
        raise ValueError(f"no stability bound is known of {type(optimizer).__name__}")
    limit = stability_limit(bound, optimizer.param_groups[0])
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups: list[dict[str, Tensor]] = []
    divided: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.requires_grad and (bound == "sgd" or optimizer.state[p])]
        groups.append({names[p]: p.detach() for p in moving})
        found = {names[p]: preconditioner(bound, group, optimizer.state[p]) for p in moving}
        divided |= {name: divisor for name, divisor in found.items() if divisor is not None}
    if not any(groups):
        raise ValueError("no parameter moves")
    return measure_sharpness(
        loss,
        groups,
        rates=[float(group["lr"]) for group in optimizer.param_groups],
        limit=limit,
        preconditioners=divided or None,
        # Decay that passes through the gradient is part of the loss; what is taken off the weights is not.
        decay=[
            0.0 if traits.is_decoupled(group) else float(group.get("weight_decay", 0.0))
            for group in optimizer.param_groups
        ],
        products=products,
        tolerance=tolerance,
        seed=seed,
    )
