"""Federated training: a step of the run is a round, and its gradient is minus the mean change of the clients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lrflow.data.order import seed_words
from lrflow.errors import ConfigError, Problem
from lrflow.health.sharpness import Sharpness
from lrflow.optimizers import traits_of
from lrflow.optimizers.routed import member_optimizers
from lrflow.training.module import Supervised

from .data import Client
from .local import LocalTraining, Update


class Round(NamedTuple):
    """What the clients of a round are given.

    Args:
        number: of the round, from 0.
        weights: of the server, by name.
        clients: who takes part.
        lr: peak LR of the clients.
        seed: of the round.
    """

    number: int
    weights: Mapping[str, Tensor]
    clients: Sequence[Client]
    lr: float
    seed: int


Carrier = Callable[[Round], Sequence[Update]]
"""Brings a round to its clients and their updates back, in any order."""

_CARRIER: ContextVar[Carrier | None] = ContextVar("carrier", default=None)


@contextmanager
def carried_by(carrier: Carrier) -> Iterator[None]:
    """Let rounds go to clients elsewhere; without it this process trains the clients, one after the other."""
    token = _CARRIER.set(carrier)
    try:
        yield
    finally:
        _CARRIER.reset(token)


class FedOpt(Supervised):
    """Adaptive federated optimization (FedOpt; Reddi et al., 2021, arXiv 2003.00295, algorithm 1).

    A training step sends the weights to the clients of the round, each of which trains them on its own examples, and
    gives the mean of their changes, with its sign reversed, to the run's optimizer as its gradient. The plan of the run
    therefore is the server's: SGD at an LR of 1 is FedAvg, with momentum FedAvgM, Adam is FedAdam.

    `scalars.client_lr` is the peak LR of the clients in each round. `train/loss` is the mean of the clients' losses in
    their training. Logs `train/clients`, `train/client_lr_first` and `train/client_lr_last`: the LR at a client's
    first and last step.

    Args:
        network: maps pictures to logits.
        local: duration of a client's training in a round: `1 epochs` of its own examples, or `10 steps`.
        batch_size: examples per step of a client.
        client: arguments of `lrflow.plan` for the clients: `optimizer`, `schedule`, settings of the optimizer.
        weighting: weights of the clients in the mean: their numbers of `examples`, or `uniform`.
        seed: seed of the clients' batches.

    Raises:
        ConfigError: lists all invalid options.
    """

    local: LocalTraining
    planned: Callable[[str], float]  # which lrflow gives to the module of a run

    def __init__(
        self,
        network: nn.Module,
        local: str | int = "1 epochs",
        batch_size: int = 20,
        client: Mapping[str, Any] | None = None,
        weighting: Literal["examples", "uniform"] = "examples",
        seed: int = 0,
    ) -> None:
        super().__init__(network, "cross_entropy")
        self.weighting, self.seed = weighting, seed
        self.local = LocalTraining(copy.deepcopy(network), local, batch_size, client or {})

    def on_train_start(self) -> None:
        """Check the LR of the clients over all rounds, and what would differentiate the gradient of a round.

        Raises:
            ConfigError: lists what cannot be.
        """
        problems = []
        for scalar in self.trainer.lr_scheduler_configs[0].scheduler.plan.scalars:  # type: ignore[union-attr]
            if scalar.name == "client_lr" and (scalar.low < 0 or scalar.high <= 0):
                wrong = scalar.low if scalar.low < 0 else scalar.high
                problems.append(Problem("scalars.client_lr", "expected LRs above 0, which may end at 0", wrong))
        message = "differentiates the gradient, and that of a round is the clients' change, which has no derivative"
        for optimizer in member_optimizers(self.trainer.optimizers[0]).values():
            if traits_of(type(optimizer)).second_order:
                problems.append(Problem("optimizer", message, type(optimizer).__name__, "optimizer=adam"))
        if any(isinstance(one, Sharpness) and one.active for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            problems.append(Problem("sharpness.every", message, ..., "leave it out"))
        if problems:
            raise ConfigError(problems)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Make a round with a list of `Client`; return their loss, whose gradient is that of the round."""
        number = 0 if self._trainer is None else self.trainer.global_step
        weights = dict(self.model.named_parameters())
        made = Round(number, weights, batch, self.planned("client_lr"), seed_words(self.seed, number)[0])
        carry = _CARRIER.get() or self.simulate
        order = {client.number: place for place, client in enumerate(batch)}
        updates = sorted(carry(made), key=lambda update: order[update.client])
        shares = self._shares(updates)
        gradients = pseudo_gradient(updates, shares)
        loss = torch.tensor(sum(share * update.loss for share, update in zip(shares, updates, strict=True)))
        if self._trainer is not None:
            first, last = updates[0].rates
            logged = {"train/clients": float(len(updates)), "train/client_lr_first": first}
            self.log_dict(logged | {"train/client_lr_last": last}, on_step=True, on_epoch=False, batch_size=1)
        names = [name for name in weights if name in gradients]
        given = tuple(gradients[name].to(self.device) for name in names)
        return WithGradients.apply(loss.to(self.device), given, *(weights[name] for name in names))

    def simulate(self, made: Round) -> list[Update]:
        """Train the clients of a round in this process, one after the other."""
        return [self.local(made.weights, client, made.lr, made.seed) for client in made.clients]

    def _shares(self, updates: Sequence[Update]) -> list[float]:
        counts = [update.examples if self.weighting == "examples" else 1 for update in updates]
        return [count / sum(counts) for count in counts]


def pseudo_gradient(updates: Sequence[Update], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the clients' mean change with its sign reversed, by the names of the parameters.

    Args:
        updates: of the clients.
        shares: weights of the clients in the mean, which add up to 1.
    """
    mean = {name: torch.zeros_like(change) for name, change in updates[0].change.items()}
    for update, share in zip(updates, shares, strict=True):
        for name, change in update.change.items():
            mean[name].sub_(change, alpha=share)
    return mean


class WithGradients(torch.autograd.Function):
    """A loss whose gradients are given: `WithGradients.apply(loss, gradients, *parameters)` returns the loss."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        """Return the loss, and keep the gradients."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that were given, times that of the loss."""
        return (None, None, *(outer[0] * gradient for gradient in ctx.gradients))
