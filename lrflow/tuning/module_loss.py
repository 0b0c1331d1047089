"""A Lightning module's training loss as a pure function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lrflow.training.isolation import isolated


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
    """The mean training loss of some batches at given parameters; call it within `as_a_function`.

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
def as_a_function(module: pl.LightningModule) -> Iterator[None]:
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
