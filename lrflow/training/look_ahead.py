"""Training loaders whose length is only nominal: a batch is fetched ahead, which shows where an epoch really ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.data import is_ordered


class LookAhead(CombinedLoader):
    """Loaders without a reliable length: hides it, so that Lightning fetches one batch ahead and detects the last one.

    Lightning (2.6.6) trusts a known length: it cuts the epoch there, and if the loader ends earlier, the epoch ends
    without its validation and without the last step of an accumulation window.

    With several processes the epoch ends for all of them when the first loader ends; otherwise the others would wait
    forever for its gradients.

    Args:
        loaders: the loaders, as in `CombinedLoader`; they keep their lengths.
        mode: as in `CombinedLoader`.
        limit: maximum number of batches per epoch; None for no limit.
        all_have: returns whether a condition holds in all processes, which call it together; None: a single process.
    """

    def __init__(
        self, loaders: Any, mode: Any, limit: int | None = None, all_have: Callable[[bool], bool] | None = None
    ) -> None:
        super().__init__(loaders, mode)
        self._limit, self._count, self._all_have = limit, 0, all_have

    def __len__(self) -> int:
        raise TypeError("the length of the training data is only nominal")

    def __iter__(self) -> LookAhead:
        self._count = 0
        super().__iter__()
        return self

    def __next__(self) -> Any:
        if self._count == self._limit:
            raise StopIteration
        try:
            batch, exists = super().__next__(), True
        except StopIteration:
            batch, exists = None, False
        if not (exists if self._all_have is None else self._all_have(exists)):
            raise StopIteration
        self._count += 1
        return batch


class LoaderSource(_DataLoaderSource):
    """The source of the training loaders; those without a reliable length are wrapped in `LookAhead`."""

    def dataloader(self) -> Any:
        """Return the loaders."""
        loaders, data = super().dataloader(), self.instance
        if (
            not isinstance(data, pl.LightningDataModule)
            or data.trainer is None
            or not has_nominal_length(loaders, data)
        ):
            return loaders
        limit = data.trainer.limit_train_batches
        combined, strategy = combine(loaders), data.trainer.strategy
        return LookAhead(
            combined.iterables,
            combined._mode,
            limit if isinstance(limit, int) else None,
            strategy.reduce_boolean_decision if data.trainer.world_size > 1 else None,
        )


def combine(loaders: Any) -> CombinedLoader:
    """Return the loaders as Lightning iterates over them: until the longest ends."""
    return loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")


def has_nominal_length(loaders: Any, data: pl.LightningDataModule) -> bool:
    """Whether an epoch may have another number of batches than the length of its loaders, so that we look ahead.

    The length is exact if lrflow defines the order. It is trusted if the data save their own state, because looking
    ahead would save the state of one batch too many.
    """
    leaves = combine(loaders).flattened
    stateful = is_overridden("load_state_dict", data) or any(hasattr(loader, "state_dict") for loader in leaves)
    return not stateful and not all(is_ordered(loader) for loader in leaves)
