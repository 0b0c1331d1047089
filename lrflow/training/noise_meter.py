"""Measures the noise of gradients during a run: those of the parts of a step's batch against that of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lrflow.training.curvature import TrainingStep
from lrflow.training.isolation import isolated
from lrflow.training.noise_scale import GradientNoise, estimate_noise

MEMORY = 20
"""Measurements over which the two estimates are averaged, exponentially."""


class NoiseMeter:
    """Measures the gradients of the parts of a step's batch: accumulated batches, those of devices, or its halves.

    Parts that are computed anyway cost a norm each: a hook on each parameter sees its gradient before it is added to
    those of other batches and exchanged between devices. A step that has no parts can be measured with the halves of
    its batch, which takes a forward and backward pass more.

    Args:
        trainer: of the run.
        module: that trains.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        strategy = trainer.strategy
        known = type(strategy) is DDPStrategy or isinstance(strategy, SingleDeviceStrategy)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # of gradients in half precision
        self.can_measure = known and not scaled and module.automatic_optimization
        self._devices, self._trainer = trainer.world_size, trainer
        self._hooks: list[Any] = []
        self._norms: list[Tensor] = []  # of each parameter's gradient in each part of this step
        self._examples: int | None = None  # in the batch that was fetched last
        self._sizes: list[int] = []  # of this step's parts on this device
        self._half: float | None = None  # how many times as large as a half the batch is
        self._measured: dict[int, tuple[float, float]] = {}  # by row: how many parts, and the examples in one
        self._trace = self._squared = 0.0  # averages

    @property
    def has_parts(self) -> bool:
        """Whether the batch of the present step has parts."""
        return self._devices * self._trainer.accumulate_grad_batches > 1

    def see(self, batch: Any) -> None:
        """Note the number of examples in the next batch."""
        self._examples = count_examples(batch)

    def begin(self, parameters: Sequence[nn.Parameter]) -> None:
        """Watch the backward pass of the next part."""
        if self._examples is None:
            return
        self._sizes.append(self._examples)
        self._hooks = [one.register_hook(self._add) for one in parameters if one.requires_grad]

    def end(self) -> None:
        """End the backward pass: derivatives that a training step itself computes are no part."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def measure_half(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Compute the gradients of the two halves of a batch, with no other effect.

        With both of them, |G|^2 is estimated by their inner product. One of them and the whole batch would be enough,
        but then half the difference of their squared norms is added to it, which is noise.
        """
        whole = count_examples(batch)
        if whole is None or whole < 2:
            return
        count = whole // 2
        parameters = [one for one in module.parameters() if one.requires_grad]
        norms: list[Tensor] = []
        for places in (slice(count), slice(whole - count, whole)):
            half = _part(batch, whole, places)
            with isolated(module), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
                with trainer.precision_plugin.train_step_context():
                    loss = TrainingStep(module)(half, index)
                if loss is None:
                    return
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms += [_norm(gradient) for gradient in gradients if gradient is not None]
        self._norms, self._sizes, self._half = norms, [count, count], whole / count

    def finish(self, row: int) -> Tensor | None:
        """End the parts of a step, whose gradient is complete.

        Args:
            row: its position in the block that the next `take` belongs to.

        Returns:
            The mean of the parts' squared norms on this device; None: the step is not measured.
        """
        norms, sizes, half = self._norms, self._sizes, self._half
        self.drop()
        parts = half or len(sizes) * self._devices
        if not norms or parts < 2:
            return None
        self._measured[row] = parts, len(sizes) / sum(1 / size for size in sizes)
        # Lightning divides the loss of each batch by the length of a full window.
        return torch.stack(norms).square().sum() * (self._trainer.accumulate_grad_batches**2 / len(sizes))

    def drop(self) -> None:
        """Forget the parts of a step."""
        self._norms, self._sizes, self._half = [], [], None

    def take(self, small: np.ndarray, norm: np.ndarray) -> GradientNoise:
        """Return the estimates since the last call, and average them.

        Args:
            small: what `finish` returned, averaged over devices; meaningless for other steps; [n], float64.
            norm: the norm of each step's gradient; [n], float64.
        """
        rows = np.array(sorted(self._measured), dtype=int)
        parts, examples = np.array([self._measured[row] for row in rows.tolist()]).reshape(-1, 2).T
        self._measured.clear()
        with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverges
            trace, squared = estimate_noise(small[rows], norm[rows] ** 2, parts, examples)
        scale = np.full(len(rows), math.nan)
        for index in np.flatnonzero(np.isfinite(trace) & np.isfinite(squared)):
            self._trace += (trace[index] - self._trace) / MEMORY
            self._squared += (squared[index] - self._squared) / MEMORY
            if self._trace > 0 and self._squared > 0:
                scale[index] = self._trace / self._squared
        return GradientNoise(rows, trace, squared, scale)

    def state_dict(self) -> dict[str, float]:
        """Return the averages."""
        return {"trace": float(self._trace), "squared": float(self._squared)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the averages."""
        self._trace, self._squared = state.get("trace", 0.0), state.get("squared", 0.0)

    def _add(self, gradient: Tensor) -> None:
        self._norms.append(_norm(gradient))


def count_examples(batch: Any) -> int | None:
    """Return the length of the first tensor in a batch; None: it has none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    if isinstance(batch, Mapping):
        values: Any = batch.values()
    elif isinstance(batch, list | tuple):
        values = batch
    else:
        values = vars(batch).values() if is_dataclass(batch) else ()
    return next((count for value in values if (count := count_examples(value)) is not None), None)


def _part(batch: Any, whole: int, places: slice) -> Any:
    """Return some examples of a batch: of all tensors in it that are as long as the whole."""
    return tree_map_only(Tensor, lambda one: one[places] if one.ndim and len(one) == whole else one, batch)


def _norm(gradient: Tensor) -> Tensor:
    """Return the norm of a gradient, in single precision or better."""
    values = gradient.detach()
    values = values.coalesce().values() if values.is_sparse else values
    return torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))
