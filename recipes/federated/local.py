"""The training of one client in one round: a loop of its own under its own plan, a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import lrflow
from lrflow.data.order import epoch_order, seed_words
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Duration, Horizon

from .data import Client


class Update(NamedTuple):
    """What a client sends back.

    Args:
        client: its number.
        change: its weights after its training minus those that it was given, by name; None for a frozen parameter.
        loss: mean of its training losses.
        examples: number of its examples.
        rates: its LRs at its first and at its last step; of its first parameter group.
    """

    client: int
    change: dict[str, Tensor]
    loss: float
    examples: int
    rates: tuple[float, float]


class LocalTraining:
    """Trains clients, one after the other. The same arguments give the same update, in any process.

    A client has no state between rounds: its optimizer, its batches and its random numbers begin anew in each.

    Args:
        network: maps pictures to logits; changed in place.
        length: duration of a client's training in a round: `1 epochs` of its own examples, or `10 steps`.
        batch_size: examples per step of a client; the last batch of an epoch may be smaller.
        settings: arguments of `lrflow.plan`: `optimizer`, `schedule`, `warmup`, `layers`, settings of the optimizer.

    Raises:
        ConfigError: every problem of these, by its key in the config.
    """

    def __init__(self, network: nn.Module, length: str | int, batch_size: int, settings: Mapping[str, Any]) -> None:
        self._network, self._batch_size = network, batch_size
        self._settings = {"optimizer": "sgd", "schedule": "constant", "layers": "uniform", **settings}
        self._plans: dict[int, lrflow.ModulePlan] = {}
        problems = []
        try:
            self._length = Duration.parse(length)
            if self._length.unit == "fraction" or not self._length.value:
                raise ValueError("expected epochs or steps above 0")
        except ValueError as error:
            problems.append(Problem("model.local", str(error), length, "model.local=1 epochs"))
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            problems.append(Problem("model.batch_size", "expected a whole number, at least 1", batch_size))
        for name in sorted({"lr", "steps", "steps_per_epoch", "module"} & {*self._settings}):
            hint = {"lr": "scalars.client_lr=0.1", "steps": "model.local=10 steps"}.get(name, "leave it out")
            problems.append(Problem(f"model.client.{name}", "is not set here", self._settings[name], hint))
        if next(network.buffers(), None) is not None:
            message = "has buffers, such as the statistics of BatchNorm, which clients cannot average as weights"
            problems.append(Problem("model.network", message, ..., "take a network with LayerNorm, GroupNorm or none"))
        if not problems:
            try:
                self._plan(examples=batch_size)
            except ConfigError as error:
                problems = [
                    replace(one, key=f"model.client.{one.key.removeprefix('optimizer.')}") for one in error.problems
                ]
        if problems:
            raise ConfigError(problems)

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalTraining:
        return self  # its network holds nothing between two calls

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self._settings}

    def __call__(self, weights: Mapping[str, Tensor], client: Client, lr: float, seed: int) -> Update:
        """Return what the client makes of the weights.

        Args:
            weights: of the server, by name; those that require no gradient stay.
            client: with its examples.
            lr: peak LR of its plan.
            seed: of the round.
        """
        network, (number, inputs, targets) = self._network, client
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.data = weights[name].detach().clone()
                parameter.requires_grad_(weights[name].requires_grad)
        plan = self._plan(len(targets))
        optimizer, scheduler = plan.build()
        scheduler.multiply("client_lr", lambda steps: np.full(len(steps), lr))
        own_seed, device = seed_words(seed, number)[0], inputs.device
        rates, losses = [], []
        with (
            torch.random.fork_rng([] if device.type == "cpu" else [device]),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            torch.manual_seed(own_seed)
            network.train()
            for rows in self._batches(len(targets), plan.horizon.steps, own_seed):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.zero_grad()
                loss = cross_entropy(network(inputs[rows]), targets[rows])
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.detach())
        change = {
            name: parameter.detach() - weights[name].detach()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        return Update(number, change, float(torch.stack(losses).mean()), len(targets), (rates[0], rates[-1]))

    def _plan(self, examples: int) -> lrflow.ModulePlan:
        """Return the plan of a client with this many examples, at a peak LR of 1."""
        per_epoch = -(-examples // self._batch_size)
        steps = max(1, self._length.steps(Horizon(1, per_epoch, self._batch_size)))
        if steps not in self._plans:
            self._plans[steps] = lrflow.plan(
                self._network, steps=steps, steps_per_epoch=per_epoch, lr=1.0, **self._settings
            )
        return self._plans[steps]

    def _batches(self, examples: int, steps: int, seed: int) -> list[Tensor]:
        batches: list[Tensor] = []
        while len(batches) < steps:
            order = torch.from_numpy(epoch_order(examples, seed, len(batches)))
            batches += order.split(self._batch_size)
        return batches[:steps]
