"""FashionMNIST in the hands of many clients, of whom some take part in each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lrflow.data import FashionMNIST
from lrflow.data.order import EpochOrder, seed_words
from lrflow.errors import ConfigError, Problem

from .partition import Rows, by_dirichlet, by_shards, equal


class Client(NamedTuple):
    """A client and its examples.

    Args:
        number: from 0.
        inputs: normalised pictures; [examples, 1, 28, 28].
        targets: their classes; [examples].
    """

    number: int
    inputs: Tensor
    targets: Tensor


class Cohorts(EpochOrder):
    """Who takes part in the rounds of an epoch: in each round clients drawn at random, each at most once.

    Args:
        clients: number of all clients.
        per_round: number of clients that take part in a round.
    """

    def __init__(self, clients: int, per_round: int) -> None:
        self.clients, self.per_round = clients, per_round

    def __call__(self, seed: int, epoch: int, world: int) -> np.ndarray:
        """Return the clients of all rounds of an epoch, one round after the other; [clients]."""
        rounds = -(-self.clients // self.per_round)
        drawn = [
            np.random.RandomState(seed_words(seed, epoch, number)).permutation(self.clients)[: self.per_round]
            for number in range(rounds)
        ]
        return np.concatenate(drawn)[: self.clients]


class Members(Dataset[Client]):
    """All clients, with the order in which they take part.

    Args:
        inputs: of all examples; [examples, 1, 28, 28].
        targets: [examples].
        rows: the examples of each client.
        per_round: number of clients that take part in a round.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, rows: Rows, per_round: int) -> None:
        self._inputs, self._targets = inputs, targets
        self.rows = [torch.from_numpy(each) for each in rows]
        self.epoch_order = Cohorts(len(rows), per_round)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Client:
        rows = self.rows[number]
        return Client(number, self._inputs[rows], self._targets[rows])


class Clients(FashionMNIST):
    """FashionMNIST divided among clients. A batch is the clients of a round, an epoch `clients / per_round` rounds.

    Validation and test are those of the whole data set, by the server.

    Args:
        clients: number of clients.
        per_round: number of clients that take part in a round.
        partition: who has what: `dirichlet` (unequal classes), `shards` (a few classes each) or `iid`.
        alpha: concentration of `dirichlet`.
        shards: shards per client of `shards`.
        root: a folder with the files; see `FashionMNIST`.
        download: whether missing files are downloaded.
        eval_batch_size: examples per batch in validation and test.
        val_size: examples held out for validation.
        split_seed: seed of the partition and of the examples held out; other clients than those of the run's seed.
        facts: properties of the data that the config states.

    Raises:
        ConfigError: lists all invalid options; in `setup`, several devices, or more clients than examples.
    """

    def __init__(
        self,
        clients: int = 100,
        per_round: int = 10,
        partition: Literal["dirichlet", "shards", "iid"] = "dirichlet",
        alpha: float = 0.1,
        shards: int = 2,
        root: str | Path | None = None,
        download: bool = True,
        eval_batch_size: int = 1000,
        val_size: int | float | str = 5000,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if problems := _problems({"clients": clients, "per_round": per_round, "shards": shards}, alpha):
            raise ConfigError(problems)
        super().__init__(
            root=root,
            download=download,
            batch_size=per_round,
            eval_batch_size=eval_batch_size,
            val_size=val_size,
            split_seed=split_seed,
            facts=facts,
        )
        self.clients, self.per_round = clients, per_round
        self.partition, self.alpha, self.shards = partition, alpha, shards
        self._members: Members | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the data and divide it."""
        if self.trainer is not None and self.trainer.world_size > 1:
            message = "expected 1: one process trains the clients of a round"
            raise ConfigError([Problem("trainer.devices", message, self.trainer.world_size)])
        super().setup(stage)

    @property
    def members(self) -> Members:
        """All clients with their examples; after `setup`."""
        if self._members is None:
            assert self.train_set is not None
            inputs, targets = self.train_set.tensors
            self._members = Members(inputs, targets, self._rows(targets.numpy()), self.per_round)
        return self._members

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the clients of each round: a list of `Client`."""
        return DataLoader(self.members, self.per_round, shuffle=True, drop_last=True, collate_fn=list)

    def _rows(self, classes: np.ndarray) -> Rows:
        parts = self.clients * (self.shards if self.partition == "shards" else 1)
        if parts > len(classes):
            message = f"the {len(classes):,} training examples do not give {parts:,} parts one each"
            raise ConfigError([Problem("data.clients", message, self.clients)])
        if self.partition == "dirichlet":
            return by_dirichlet(classes, self.clients, self.split_seed, self.alpha)
        if self.partition == "shards":
            return by_shards(classes, self.clients, self.split_seed, self.shards)
        return equal(classes, self.clients, self.split_seed)


def _problems(counts: Mapping[str, int], alpha: float) -> list[Problem]:
    problems = [
        Problem(f"data.{name}", "expected a whole number, at least 1", value)
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        problems.append(Problem("data.alpha", "expected a number above 0", alpha))
    if not problems and counts["per_round"] > counts["clients"]:
        message = f"expected at most data.clients, {counts['clients']}"
        problems.append(Problem("data.per_round", message, counts["per_round"]))
    return problems
