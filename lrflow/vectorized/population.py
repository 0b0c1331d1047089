"""Networks of one architecture trained as one: stacked weights, buffers and optimizer state, one step for all."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer

from lrflow.vectorized.eligibility import Generators, replace_modules
from lrflow.vectorized.updates import Update

Loss = Callable[[Tensor, Tensor], Tensor]
Read = Callable[[Tensor, Tensor], object]
Clip = Callable[[Tensor, Tensor], Tensor]


class PopulationError(Exception):
    """Raised when runs cannot be trained as one population; the message is the reason."""

    @classmethod
    def of_vmap(cls, error: RuntimeError) -> PopulationError:
        """The first sentence of torch's message about a model that it cannot vectorise."""
        what = str(error).partition("\n")[0].partition(". ")[0].removeprefix("vmap: ").rstrip(".")
        return cls(f"the model cannot be vectorised: {what}")


class Population:
    """The stacked weights, buffers and optimizer state of networks that differ only in their values.

    All weights are one tensor of shape [members, weights], ordered by parameter group, so that the update of a group
    takes few operations for any number of layers and members. Modules stay in their mode (training or evaluation), as
    they do in Lightning's loop.

    A parameter without a gradient in the first step is neither decayed nor counted, as in torch. One that gets a
    gradient only in some steps would need its own step count; it raises `PopulationError`.

    Args:
        networks: the networks of the members; their values are copied.
        groups: the names of the parameters in each group; together, all parameters.
        loss: the mean over a batch: (output, target) to a scalar.
        update: the update rule of the optimizer.
        start: the step from which the rule has a state, `NEVER` where it has none; [members, groups].
        device: the device to train on.
        compiled: whether `torch.compile` compiles the step; the first step runs uncompiled.
        generators: draw the dropout masks of the members; None: dropout in training raises an error.

    Attributes:
        compiling: seconds that compiling took; 0 if nothing is compiled.
        idle: the names of the parameters without a gradient; known after the first step.
        sizes: the number of elements of each tensor, in the order of the weights.
        columns: the number of the group of each tensor.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        groups: Sequence[Sequence[str]],
        loss: Loss,
        update: Update,
        start: npt.NDArray[np.int64],
        device: torch.device,
        compiled: bool = False,
        generators: Generators | None = None,
    ) -> None:
        self.generators = generators
        self._network = replace_modules(copy.deepcopy(networks[0]), generators)
        self._modes = [(module, module.training) for module in self._network.modules()]
        shapes = {name: parameter.shape for name, parameter in self._network.named_parameters()}
        self._places = [(name, shapes[name]) for names in groups for name in names]
        self.sizes = [shape.numel() for _, shape in self._places]
        self._groups = [(group, len(names)) for group, names in enumerate(groups)]
        self.columns = [group for group, count in self._groups for _ in range(count)]
        self._start = start
        self._update = update
        rows = []
        for network in networks:
            parameters = dict(network.named_parameters())
            rows.append(parameters_to_vector([parameters[name].detach() for name, _ in self._places]))
        self.weights = torch.stack(rows).to(device)
        self.state = {name: torch.zeros_like(self.weights) for name in update.state_names(start)}
        buffers = [dict(network.named_buffers()) for network in networks]
        self.buffers = {name: torch.stack([own[name] for own in buffers]).to(device) for name in buffers[0]}
        trained = _Trained(self._network, loss)

        def member_loss(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            given = [{f"network.{name}": value for name, value in one.items()} for one in (parameters, buffers)]
            found: tuple[Tensor, dict[str, Tensor]] = functional_call(trained, tuple(given), (x, y))
            return found

        def member_output(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = functional_call(self._network, (parameters, buffers), (x,))
            return output

        # All random numbers are drawn through `generators`; others raise an error.
        self._losses = vmap(member_loss, randomness="error")
        self._outputs = vmap(member_output, in_dims=(0, 0, None), randomness="error")
        self._compiled = compiled
        self._shape: torch.Size | None = None  # of the batches that the step is compiled for
        self._segments: list[tuple[int, int, int]] | None = None  # group, first and last weight of each updated segment
        self.compiling = 0.0
        self.idle: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.weights)

    def step(
        self,
        inputs: Tensor,
        targets: Tensor,
        coefficients: Mapping[str, Tensor],
        clip: Clip | None = None,
        read: Read | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one optimizer step of every member.

        Args:
            inputs: a batch per member; [members, batch, ...].
            targets: the targets of the batches; [members, batch, ...].
            coefficients: the coefficients of the update, by name; [members, groups].
            clip: clips the gradients [members, weights] in place, given their norms [members]; returns the factor by
                which each norm became smaller [members].
            read: receives the same before they are clipped; such a step is not compiled.

        Returns:
            The losses before the step, the norms of the gradients before clipping, and the factors of the clipping, all
            [members].

        Raises:
            PopulationError: a parameter gets a gradient only in some steps.
        """
        changes = clip if read is None else _both(read, clip)
        given = (self.weights, self.state, self.buffers, inputs, targets, coefficients, changes)
        step: Callable[..., tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]] = self._make_step
        knows_idle = self._segments is not None  # after the first step
        if self._compiled and knows_idle and read is None:
            if self._shape is None:
                self._shape = inputs.shape
                torch.compiler.reset()  # torch compiles a function at most eight times, other shapes included
                # Not dynamic, since vmap does not support symbolic sizes.
                self._program = torch.compile(self._make_step, fullgraph=True, dynamic=False)
                started = time.perf_counter()
                losses, norms, factors, self.buffers = self._program(*given)
                self.compiling = time.perf_counter() - started
                return losses, norms, factors
            # The last batch of an epoch may be smaller: to compile the step for it would cost more than it saves.
            step = self._program if inputs.shape == self._shape else self._make_step
        losses, norms, factors, self.buffers = step(*given)
        return losses, norms, factors

    def _make_step(
        self,
        weights: Tensor,
        state: Mapping[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        coefficients: Mapping[str, Tensor],
        clip: Clip | None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Make a step: change weights and state in place, return losses, norms, factors and the new buffers."""
        losses, grad, buffers = self._gradients(weights, buffers, inputs, targets)
        with torch.no_grad():
            norms = torch.linalg.vector_norm(grad, dim=1)
            factors = torch.ones_like(norms) if clip is None else clip(grad, norms)
            assert self._segments is not None
            for group, first, last in self._segments:
                own = {name: kept[:, first:last] for name, kept in state.items()}
                own_coefficients = {name: values[:, group : group + 1] for name, values in coefficients.items()}
                self._update(weights[:, first:last], grad[:, first:last], own, own_coefficients)
        return losses, norms, factors, buffers

    def _gradients(
        self, weights: Tensor, buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The losses [members], the gradients by each member's own weights [members, weights], the new buffers."""
        if torch.compiler.is_compiling():  # it cannot trace torch.autograd.grad

            def total(weights: Tensor) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
                losses, after = self._losses(self._named(weights), buffers, inputs, targets)
                return losses.sum(), (losses, after)

            grad, (_, (losses, after)) = grad_and_value(total, has_aux=True)(weights)
            return losses, grad, after
        leaves = {name: part.detach().requires_grad_() for name, part in self._named(weights).items()}
        losses, after = self._losses(leaves, buffers, inputs, targets)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        self._record_idle(name for name, grad in zip(leaves, grads, strict=True) if grad is None)
        members = len(weights)
        flat = [
            weights.new_zeros(members, size) if grad is None else grad.reshape(members, size)
            for grad, size in zip(grads, self.sizes, strict=True)
        ]
        return losses.detach(), torch.cat(flat, dim=1), {name: value.detach() for name, value in after.items()}

    def _record_idle(self, names: Iterable[str]) -> None:
        """Record at the first step which parameters have no gradient; raise if others have none at a later one."""
        idle = frozenset(names)
        if self._segments is None:
            self.idle = idle
            self._segments = self._trained_segments()
        elif idle != self.idle:
            raise PopulationError(f"{min(idle ^ self.idle)} gets a gradient only in some steps")

    def _trained_segments(self) -> list[tuple[int, int, int]]:
        """The weights that are updated, as the fewest contiguous segments per group."""
        segments: list[tuple[int, int, int]] = []
        ends = [0, *np.cumsum(self.sizes).tolist()]
        for (name, _), group, (first, last) in zip(self._places, self.columns, pairwise(ends), strict=True):
            if name in self.idle:
                continue
            if segments and segments[-1][0] == group and segments[-1][2] == first:
                segments[-1] = (group, segments[-1][1], last)
            else:
                segments.append((group, first, last))
        return segments

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """The outputs of all members in evaluation mode for one batch [batch, ...]; [members, batch, ...]."""
        self._network.eval()
        buffers = {name: stacked.clone() for name, stacked in self.buffers.items()}  # evaluation changes nothing
        try:
            return self._outputs(self._named(self.weights), buffers, inputs)
        finally:
            for module, training in self._modes:
                module.training = training

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these members, in this order; a compiled step is compiled again."""
        self._shape = None
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights.device)
        self.weights = self.weights[index]
        self.state = {name: kept[index] for name, kept in self.state.items()}
        self.buffers = {name: stacked[index] for name, stacked in self.buffers.items()}
        self._start = self._start[list(rows)]
        if self.generators is not None:
            self.generators.keep(rows)

    def member_states(self, rows: Sequence[int]) -> list[MemberState]:
        """Copies of the current states of these members, on the CPU."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights.device)
        weights = self.weights[index].cpu()
        state = {name: kept[index].cpu() for name, kept in self.state.items()}
        buffers = {name: stacked[index].cpu() for name, stacked in self.buffers.items()}
        found = []
        for at, row in enumerate(rows):
            starts = [int(self._start[row, group]) for group in self.columns]
            names = [name for name, _ in self._places]
            found.append(
                MemberState(
                    dict(self._places),
                    weights[at],
                    {name: kept[at] for name, kept in state.items()},
                    {name: start for name, start in zip(names, starts, strict=True) if name not in self.idle},
                    {name: stacked[at] for name, stacked in buffers.items()},
                    self._update,
                    None if self.generators is None else self.generators.state(row),
                )
            )
        return found

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        parts = zip(self._places, weights.split(self.sizes, dim=1), strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in parts}


def _both(read: Read, clip: Clip | None) -> Clip:
    """Return a function that passes gradients and their norms to `read`, then to `clip`."""

    def call(grad: Tensor, norms: Tensor) -> Tensor:
        read(grad, norms)
        return torch.ones_like(norms) if clip is None else clip(grad, norms)

    return call


class _Trained(nn.Module):
    """A network with its loss; also returns the buffers after the forward pass, since some modules assign new ones."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.loss(self.network(inputs), targets)
        return loss, dict(self.network.named_buffers())


@dataclass(frozen=True)
class MemberState:
    """The state of one member at one step.

    Args:
        shapes: the shapes of the parameters, by name in the order of `weights`.
        weights: all weights; [weights].
        state: the state of the update, by name; [weights].
        starts: the step from which the state exists, for each parameter that is trained.
        buffers: the buffers of the network, by name.
        update: the update rule of the optimizer.
        random: the state of torch's generator; None: nothing was drawn from it.
    """

    shapes: Mapping[str, torch.Size]
    weights: Tensor
    state: Mapping[str, Tensor]
    starts: Mapping[str, int]
    buffers: Mapping[str, Tensor]
    update: Update
    random: Tensor | None = None

    @torch.no_grad()
    def write(self, network: nn.Module, optimizer: Optimizer, steps: int) -> None:
        """Copy the state into a network and its torch optimizer.

        Args:
            network: a network of the member's architecture.
            optimizer: the optimizer of the network's parameters.
            steps: optimizer steps that the member has made.
        """
        own = dict(network.named_buffers())
        for name, value in self.buffers.items():
            own[name].copy_(value)
        parameters = dict(network.named_parameters())
        named = {buffer: self._named(values) for buffer, values in self.state.items()}
        for name, value in self._named(self.weights).items():
            parameter = parameters[name]
            parameter.copy_(value)
            if self.starts.get(name, steps) < steps:
                state = {buffer: values[name].clone() for buffer, values in named.items()}
                optimizer.state[parameter] = self.update.torch_state(state, steps)

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
