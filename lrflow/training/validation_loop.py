"""The validation loop of a fit, and hooks of callbacks that run after those of the module."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops import _EvaluationLoop
from pytorch_lightning.trainer.states import RunningStage, TrainerFn


class AfterModuleHooks:
    """A hook of callbacks that runs after the module's own `on_validation_end`, in each validation of a fit.

    Lightning calls the hooks of all callbacks before those of the module.
    """

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run after all other hooks of a validation; the module is still in evaluation mode."""


class ValidationLoop(_EvaluationLoop):
    """The validation loop of a fit; at its end it calls each `AfterModuleHooks`, in the order of the callbacks."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        super()._on_evaluation_end(*args, **kwargs)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AfterModuleHooks):
                callback.after_validation_end(self.trainer, self.trainer.lightning_module)
