"""Norms of each group's gradients, weights and updates, measured at some steps without device synchronization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrflow.columns import COSINE
from lrflow.config import Config
from lrflow.plan import Plan
from lrflow.schedules import Horizon

SAMPLE = 2**14
"""Largest number of elements of a tensor that are read: of a larger one, a regular sample of at most as many."""


@dataclass(frozen=True)
class GroupNorms:
    """Norms of the plan's trainable groups at some steps.

    Args:
        rows: positions of the steps in their block; [m], int.
        gradient: L2 norm of the group's gradients before clipping; [m, groups], float64.
        weight: L2 norm of its weights before the step; [m, groups], float64.
        update: L2 norm of the change of its weights; [m, groups], float64.
        cosine: cosine between the update of all groups and that of the previous step; NaN at the first step of each
            pair, and if one of the updates is zero; [m], float64.
    """

    rows: np.ndarray
    gradient: np.ndarray
    weight: np.ndarray
    update: np.ndarray
    cosine: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """The norm of each update divided by that of the weights; NaN for weights of zero; [m, groups], float64."""
        some = self.weight > 0
        with np.errstate(invalid="ignore", over="ignore"):  # weights of a run that diverged
            return np.divide(self.update, self.weight, out=np.full_like(self.update, np.nan), where=some)

    def part(self, start: int, stop: int) -> GroupNorms:
        """Return the measurements at these positions in the block, counted from `start`."""
        inside = (self.rows >= start) & (self.rows < stop)
        measured = (self.gradient, self.weight, self.update, self.cosine)
        return GroupNorms(self.rows[inside] - start, *(values[inside] for values in measured))

    def columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the logged series of groups with these names: [m] each, float64."""
        kinds = {"grad_norm": self.gradient, "weight_norm": self.weight, "update_norm": self.update}
        kinds["update_ratio"] = self.ratio
        found = {f"{kind}/{name}": values[:, n] for kind, values in kinds.items() for n, name in enumerate(names)}
        return {COSINE: self.cosine, **found}


def measuring_intervals(config: Config, length: Horizon) -> tuple[int | None, int | None]:
    """Return the steps between measurements of norms, and of half batches; None: never, as if devices share weights.

    Args:
        config: of the run.
        length: of the run without its cooldown.
    """
    if config.trainer.strategy_name.startswith(("fsdp", "deepspeed")):
        return None, None
    intervals = config.signals.every, config.signals.half_batches
    norms, halves = (None if every is None else max(1, every.steps(length)) for every in intervals)
    return norms, halves


class NormMeter:
    """Measures the norms of each group at pairs of consecutive steps, of which the first is a multiple of `every`.

    A pair yields the cosine between two consecutive updates: near -1, the weights jump to and fro. The weights before
    a step are kept until after it: of a tensor with more than `SAMPLE` elements, only every n-th element. Norms and
    products of a sample are scaled to the whole tensor.

    Args:
        every: number of steps from one pair to the next; 1 measures each step.
        sizes: the number of elements of each tensor.
        columns: the number of the group of each tensor.
        groups: the number of groups.
        rows: the most measurements between two calls of `take`.
        device: of the tensors.
        members: the number of runs that are measured at once.

    Attributes:
        strides: of each tensor, every how many elements are read.
    """

    def __init__(
        self,
        every: int,
        sizes: Sequence[int],
        columns: Sequence[int],
        groups: int,
        rows: int,
        device: torch.device,
        members: int = 1,
    ) -> None:
        self._every, self._groups = every, groups
        self._columns = torch.tensor(columns, device=device)
        self.strides = [_stride(size) for size in sizes]
        self._read_sizes = [-(-size // stride) for size, stride in zip(sizes, self.strides, strict=True)]
        scales = [size / max(read, 1) for size, read in zip(sizes, self._read_sizes, strict=True)]
        self._scales = torch.tensor(scales, device=device)
        self._roots: Tensor | None = None  # by which an update is multiplied so that it is as long as the whole
        if max(self.strides, default=1) > 1:
            read = torch.tensor(self._read_sizes, device=device)
            self._roots = self._scales.sqrt().repeat_interleave(read)
        self._buffer = torch.zeros(rows, members, 3 * groups + 1, device=device)
        self._rows: list[int] = []
        self._step = -1  # the step that is being measured
        self._before: Tensor | None = None  # the weights before it
        self._update: Tensor | None = None  # the update of the step before it, as long as that of the whole tensors
        self._updated = -1  # that step

    def is_due(self, step: int) -> bool:
        """Whether a step is measured."""
        return step % self._every < 2

    def is_begun(self, step: int) -> bool:
        """Whether `begin` was called for a step."""
        return step == self._step and self._before is not None

    def begin(self, step: int, weights: Tensor) -> None:
        """Keep the weights before a step, the parts that are read; [members, elements]."""
        self._step, self._before = step, weights
        self._buffer[len(self._rows)].zero_()

    def add_gradients(self, squares: Tensor, tensors: Sequence[int] | None = None, fresh: bool = True) -> None:
        """Record the squared norms of the gradients of the step that is being measured.

        Args:
            squares: [members, tensors].
            tensors: the numbers of these tensors; None: all of them.
            fresh: whether they replace what was recorded; otherwise they are of further tensors.
        """
        own = self._buffer[len(self._rows), :, : self._groups]
        if fresh:
            own.zero_()
        own.index_add_(1, self._columns if tensors is None else self._columns[list(tensors)], squares.float())

    def finish(self, row: int, weights: Tensor) -> None:
        """Measure the update of the step that was begun.

        Args:
            row: the position of the step in the block that the next `take` belongs to.
            weights: after the step; [members, elements].
        """
        assert self._before is not None
        update, out = weights - self._before, self._buffer[len(self._rows)]
        if self._roots is not None:
            update *= self._roots
        weight = self._squares(self._before) * self._scales
        for squares, first in ((weight, self._groups), (self._squares(update), 2 * self._groups)):
            out[:, first : first + self._groups].index_add_(1, self._columns, squares)
        if self._update is None or self._updated != self._step - 1:
            out[:, -1] = torch.nan
        else:
            lengths = self._update.norm(dim=1) * update.norm(dim=1)
            out[:, -1] = (self._update * update).sum(dim=1) / lengths
        self._before = None
        self._update, self._updated = (update, self._step) if self.is_due(self._step + 1) else (None, -1)
        self._rows.append(row)

    def take(self) -> list[GroupNorms]:
        """Return the measurements since the last call, of each member."""
        values = self._buffer[: len(self._rows)].double().cpu().numpy()
        rows = np.array(self._rows, dtype=int)
        self._rows.clear()
        gradient, weight, update = np.split(np.sqrt(values[:, :, :-1]), 3, axis=2)
        return [
            GroupNorms(rows, gradient[:, one], weight[:, one], update[:, one], values[:, one, -1])
            for one in range(values.shape[1])
        ]

    def keep(self, members: Sequence[int]) -> None:
        """Keep only these members, in this order."""
        self._buffer = self._buffer[:, list(members)]
        if self._update is not None:
            self._update = self._update[list(members)]

    def state_dict(self) -> dict[str, Any]:
        """Return the previous update, if the next step needs it."""
        return {} if self._update is None else {"update": self._update, "step": self._updated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the previous update; one of other tensors is ignored."""
        if "update" in state and state["update"].shape == (self._buffer.shape[1], sum(self._read_sizes)):
            self._update, self._updated = state["update"].to(self._buffer.device), state["step"]

    def _squares(self, values: Tensor) -> Tensor:
        """Return the squared norm of each tensor's part of [members, elements]; [members, tensors]."""
        if len(values) == 1:  # one operation for all tensors
            return torch.stack(torch._foreach_norm(values[0].split(self._read_sizes))).square_()[None]
        return torch.stack([part.sum(dim=1) for part in values.square().split(self._read_sizes, dim=1)], dim=1)


def _stride(size: int) -> int:
    """Return every how many elements of a tensor of this size are read.

    It shares no factor with the size, and so none with the length of a row: otherwise only some columns would be read.
    """
    stride = max(1, -(-size // SAMPLE))
    while stride > 1 and math.gcd(stride, size) > 1:
        stride += 1
    return stride


class RunMeter(NormMeter):
    """Measures the parameters of a run.

    Args:
        every: number of steps from one pair to the next.
        groups: the optimizer's groups, whose `members` name the plan's groups that they are made of.
        plan: of the run.
        rows: the most measurements between two calls of `take`.
    """

    def __init__(self, every: int, groups: Sequence[Mapping[str, Any]], plan: Plan, rows: int) -> None:
        tensors = {group.name: group.tensors for group in plan.trainable}
        self._weights: list[nn.Parameter] = []
        columns: list[int] = []
        for group in groups:
            parameters = iter(group["params"])
            for name in group["members"]:
                self._weights += (own := list(islice(parameters, tensors[name])))
                columns += [plan.names.index(name)] * len(own)
        sizes = [weight.numel() for weight in self._weights]
        super().__init__(every, sizes, columns, len(plan.names), rows, self._weights[0].device)
        self._position = {id(weight): position for position, weight in enumerate(self._weights)}

    def read_gradients(self, step: int, parameters: Sequence[nn.Parameter], norms: Tensor, all_at_once: bool) -> None:
        """Keep the weights before the optimizer changes them, and the norms of gradients.

        Args:
            step: the step, which is due.
            parameters: those that have a gradient.
            norms: the norm of the gradient of each; [parameters].
            all_at_once: whether one optimizer makes the whole step, with these; otherwise several calls belong to it.
        """
        if not self.is_begun(step):
            self.begin(step, self._read())
        whole = len(parameters) == len(self._weights)
        positions = None if whole else [self._position[id(parameter)] for parameter in parameters]
        # An optimizer may evaluate a step several times; the last evaluation counts.
        self.add_gradients(norms.float().square()[None], positions, fresh=all_at_once)

    def read_update(self, step: int, row: int) -> None:
        """Measure the update of a step, after it was made; nothing for a step without gradients.

        Args:
            step: the step.
            row: its position in the block that the next `take` belongs to.
        """
        if self.is_begun(step):
            self.finish(row, self._read())

    @torch.no_grad()
    def _read(self) -> Tensor:
        """Return the weights, or a sample of them, in single precision; [1, elements]."""
        flat = [weight.detach().reshape(-1) for weight in self._weights]
        parts = [part if stride == 1 else part[::stride] for part, stride in zip(flat, self.strides, strict=True)]
        return torch.cat(parts).float()[None]
