"""The base class of data modules that infer from files what their examples are, once and before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from lrflow.data.module import DataModule, Examples
from lrflow.data.splits import PARTS
from lrflow.errors import Problem


class Prepared(Protocol):
    """What was inferred from files."""

    @property
    def layout(self) -> dict[str, Any]:
        """What was fitted to the training part, as plain data."""

    @property
    def rows(self) -> Mapping[str, np.ndarray]:
        """The examples of each part."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts of the data."""


P = TypeVar("P", bound=Prepared)


class PreparedModule(DataModule, Generic[P]):
    """Examples from files; what is fitted to the training part is kept as `layout`, with checkpoints and exports.

    Attributes:
        compared: facts that have to be those that the config states, if it states them.
        layout: plain data with the classes as `target.classes`; None before `setup`, unless a run restored it.
    """

    compared: tuple[str, ...] = ("examples", "shape", "outputs")
    layout: dict[str, Any] | None = None
    _prepared: P | None = None

    def _take(self, prepared: P) -> P:
        """Keep what was inferred, take the sizes of the parts from it, and return it."""
        self._prepared = prepared
        self.val_size, self.test_size = (len(prepared.rows[part]) for part in PARTS[1:])
        return prepared

    def fit_normalisation(self, inputs: Tensor) -> None:
        """Keep what was fitted to the training part, as `layout`."""
        assert self._prepared is not None
        self.layout = self._prepared.layout

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes; empty if the target is no class."""
        return tuple(self._layout["target"]["classes"])

    def _fact_problems(self, pool: Examples) -> list[Problem]:
        assert self._prepared is not None
        known = self._prepared.facts
        return self._differences({name: known[name] for name in self.compared if name in known})

    @property
    def _layout(self) -> dict[str, Any]:
        if self.layout is None:
            raise RuntimeError("the data need setup() first")
        return self.layout


def scaled(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return inputs times `scale`, minus `shift`; float32."""
    return (inputs * scale).sub_(shift).float()
