"""Many networks of one architecture, trained as one: their weights stacked, their steps made at once."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer

from lrflow.vectorized.updates import Update

Loss = Callable[[Tensor, Tensor], Tensor]
Clip = Callable[[Tensor, Tensor], object]


class UnfitError(Exception):
    """Why runs cannot be trained together."""


class Population:
    """The stacked weights, buffers and optimizer state of networks that differ in their values alone.

    All weights are one leaf of shape [members, weights], ordered by parameter group and split into views, so that
    the backward pass fills one gradient and the update of a group is a handful of operations whatever the number of
    layers and members.

    Args:
        networks: one a member; their values are copied.
        groups: the names of the parameters of each group; together all that there are.
        loss: mean of a batch: (output, target) to a scalar.
        update: the rule of the optimizer.
        kept: what the rule keeps for each weight.
        device: where to train.
        compiled: whether `torch.compile` makes one program of the whole step.

    Attributes:
        compiling: seconds that compiling took; 0 where nothing is compiled.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        groups: Sequence[Sequence[str]],
        loss: Loss,
        update: Update,
        kept: Sequence[str],
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self._network = copy.deepcopy(networks[0])
        shapes = {name: parameter.shape for name, parameter in self._network.named_parameters()}
        self._places = [(name, shapes[name]) for names in groups for name in names]
        self._sizes = [shape.numel() for _, shape in self._places]
        self._group_sizes = [sum(shapes[name].numel() for name in names) for names in groups]
        self._update = update
        rows = []
        for network in networks:
            parameters = dict(network.named_parameters())
            rows.append(parameters_to_vector([parameters[name].detach() for name, _ in self._places]))
        self.weights = torch.stack(rows).to(device)
        self.state = {name: torch.zeros_like(self.weights) for name in kept}
        buffers = [dict(network.named_buffers()) for network in networks]
        self.buffers = {name: torch.stack([own[name] for own in buffers]).to(device) for name in buffers[0]}

        def member_loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(self._network, (parameters, buffers), (x,)), y)

        def member_output(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = functional_call(self._network, (parameters, buffers), (x,))
            return output

        self._losses = vmap(member_loss, randomness="different")
        self._outputs = vmap(member_output, in_dims=(0, 0, None), randomness="error")
        self._compiled = compiled
        self._shape: torch.Size | None = None  # of the batches that there is a program for
        self.compiling = 0.0

    def __len__(self) -> int:
        return len(self.weights)

    def step(
        self, inputs: Tensor, targets: Tensor, coefficients: Mapping[str, Tensor], clip: Clip | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make one optimizer step of every member.

        Args:
            inputs: a batch for each; [members, batch, ...].
            targets: [members, batch, ...].
            coefficients: of the update; [members, groups].
            clip: changes the gradients [members, weights] in place, given their norms [members].

        Returns:
            The losses before the step and the norms of the gradients before they are clipped, both [members].
        """
        self._network.train()
        given = (self.weights, self.state, self.buffers, inputs, targets, coefficients, clip)
        if not self._compiled:
            return self._make_step(*given)
        if self._shape is None:
            self._shape = inputs.shape
            torch.compiler.reset()  # programs of other shapes would count: torch makes eight of a function at most
            # Not dynamic, since vmap takes no symbolic sizes.
            self._program = torch.compile(self._make_step, fullgraph=True, dynamic=False)
            started = time.perf_counter()
            found = self._program(*given)
            self.compiling = time.perf_counter() - started
            return found
        # The last batch of an epoch may be smaller: a program for it alone would not pay.
        return self._program(*given) if inputs.shape == self._shape else self._make_step(*given)

    def _make_step(
        self,
        weights: Tensor,
        state: Mapping[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        coefficients: Mapping[str, Tensor],
        clip: Clip | None,
    ) -> tuple[Tensor, Tensor]:
        """The step itself, of what changes from step to step: weights, state and buffers in place."""
        losses, grad = self._gradients(weights, buffers, inputs, targets)
        with torch.no_grad():
            norms = torch.linalg.vector_norm(grad, dim=1)
            if clip is not None:
                clip(grad, norms)
            split = {name: kept.split(self._group_sizes, dim=1) for name, kept in state.items()}
            parts = zip(weights.split(self._group_sizes, 1), grad.split(self._group_sizes, 1), strict=True)
            for group, (own_weights, own_grad) in enumerate(parts):
                own = {name: kept[group] for name, kept in split.items()}
                by = {name: values[:, group : group + 1] for name, values in coefficients.items()}
                self._update(own_weights, own_grad, own, by)
        return losses, norms

    def _gradients(
        self, weights: Tensor, buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses [members] and the gradient of each [members, weights]: none depends on another's weights."""
        if torch.compiler.is_compiling():  # which traces no torch.autograd.grad

            def total(weights: Tensor) -> tuple[Tensor, Tensor]:
                losses = self._losses(self._named(weights), buffers, inputs, targets)
                return losses.sum(), losses

            grad, (_, losses) = grad_and_value(total, has_aux=True)(weights)
            return losses, grad
        leaf = weights.detach().requires_grad_()  # uncompiled, grad_and_value takes half as long again
        losses = self._losses(self._named(leaf), buffers, inputs, targets)
        (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), grad

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """What every member in evaluation makes of one batch [batch, ...]: [members, batch, ...]."""
        self._network.eval()
        return self._outputs(self._named(self.weights), self.buffers, inputs)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone, in this order; a compiled step is compiled anew."""
        self._shape = None
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights.device)
        self.weights = self.weights[index]
        self.state = {name: kept[index] for name, kept in self.state.items()}
        self.buffers = {name: stacked[index] for name, stacked in self.buffers.items()}

    def snapshots(self, rows: Sequence[int]) -> list[Snapshot]:
        """Copies of what these members are, on the CPU."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights.device)
        weights = self.weights[index].cpu()
        state = {name: kept[index].cpu() for name, kept in self.state.items()}
        buffers = {name: stacked[index].cpu() for name, stacked in self.buffers.items()}
        return [
            Snapshot(
                dict(self._places),
                weights[row],
                {name: kept[row] for name, kept in state.items()},
                {name: stacked[row] for name, stacked in buffers.items()},
                self._update,
            )
            for row in range(len(rows))
        ]

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        parts = zip(self._places, weights.split(self._sizes, dim=1), strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in parts}


@dataclass(frozen=True)
class Snapshot:
    """One member at one step.

    Args:
        shapes: of the parameters, by name in the order of `weights`.
        weights: [weights].
        state: what the update keeps, by name; [weights].
        buffers: of the network, by name.
        update: the rule of the optimizer.
    """

    shapes: Mapping[str, torch.Size]
    weights: Tensor
    state: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    update: Update

    @torch.no_grad()
    def write(self, network: nn.Module, optimizer: Optimizer, steps: int) -> None:
        """Bring an ordinary network and its torch optimizer to where the member is.

        Args:
            network: of the member's architecture.
            optimizer: of the network's parameters.
            steps: optimizer steps that the member has made.
        """
        own = dict(network.named_buffers())
        for name, value in self.buffers.items():
            own[name].copy_(value)
        parameters = dict(network.named_parameters())
        owner = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
        named = {buffer: self._named(values) for buffer, values in self.state.items()}
        for name, value in self._named(self.weights).items():
            parameter = parameters[name]
            parameter.copy_(value)
            state = {buffer: values[name].clone() for buffer, values in named.items()}
            if kept := self.update.torch_state(state, steps, owner[parameter]):
                optimizer.state[parameter] = kept

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
