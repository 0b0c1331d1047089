"""Names plain state that changes as a model trains and is in no checkpoint, so that a resumed run loses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from lrflow.training.plain_state import digest, names, of_library, shared

log = logging.getLogger("lrflow")

_BOOKKEEPING = {*vars(pl.LightningModule()), "_trainer", "_fabric", "_current_fx_name", "_compiled_call_impl"}
_OUTSIDE = (pl.Trainer, pl.LightningDataModule, Callback, Logger, Optimizer, Dataset, DataLoader, nn.Module)
_WATCHED_BATCHES = 2


class Unsaved:
    """Compares the state at the first save with that before and after the first batch, once per run.

    What is as it was before the first batch was emptied since, such as a list of an epoch's losses. What is as it was
    after it was made by it, such as a table that is computed when it is needed first. Whatever else differs is named
    in one line. A LightningModule with an `on_save_checkpoint` of its own, and modules with a `get_extra_state`, are
    taken to save what they need.
    """

    def __init__(self) -> None:
        self._batches: int | None = None  # None: there is nothing to compare with, or it was compared already
        self._before: dict[str, str] = {}
        self._after: dict[str, str] = {}

    def begin(self, module: pl.LightningModule) -> None:
        """Note the state before the first batch."""
        if not is_overridden("on_save_checkpoint", module):
            self._batches, self._before = 0, _state(module)

    def after_batch(self, module: pl.LightningModule) -> None:
        """Note the state after the first batch."""
        if self._batches is None or self._batches >= _WATCHED_BATCHES:
            return
        self._batches += 1
        if self._batches == 1:
            self._after = _state(module)

    def at_save(self, module: pl.LightningModule) -> None:
        """Compare, where there was a second batch, and warn of what has changed."""
        if self._batches is None or self._batches < _WATCHED_BATCHES:
            return
        self._batches, now = None, _state(module)
        changed = sorted(name for name in now if now[name] not in (self._before.get(name), self._after.get(name)))
        if changed:
            shown = ", ".join([*changed[:5], *(["..."] if len(changed) > 5 else [])])
            verbs = ("changes", "is") if len(changed) == 1 else ("change", "are")
            log.warning(
                "%s %s as the model trains and %s in no checkpoint: a resumed run starts anew with it; "
                "if the training depends on it, make it a buffer, or save it by get_extra_state",
                shown,
                *verbs,
            )


def _state(module: pl.LightningModule) -> dict[str, str]:
    """Digests of what a user's modules hold and no checkpoint does; without what cannot be compared."""
    found = dict(shared(module))
    known = names(module)
    for path, one in module.named_modules():
        for name, value in _plain(one):
            full = f"{path}.{name}" if path else name
            try:
                found[full.replace("_orig_mod.", "")] = digest(value, known, full)
            except ValueError:
                continue
    return found


def _plain(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module of a user's own that may be state, by name."""
    kind = type(module)
    if isinstance(module, Metric) or kind.get_extra_state is not nn.Module.get_extra_state:
        return
    if of_library(kind.__module__) and not kind.__module__.startswith("lrflow."):
        return
    for name, value in vars(module).items():
        graph = isinstance(value, Tensor) and value.grad_fn is not None  # of this step alone
        # What takes the place of a method, as callbacks that wrap it put there; and functions of lrflow's.
        method = callable(value) and (hasattr(kind, name) or of_library(getattr(value, "__module__", None) or ""))
        if name not in _BOOKKEEPING and not graph and not method and not isinstance(value, _OUTSIDE):
            yield name, value
