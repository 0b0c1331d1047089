"""Which hooks of a callback are called at each step: those that do nothing any more cost nothing."""

from __future__ import annotations

import pytorch_lightning as pl


def switch_hooks(trainer: pl.Trainer, callback: pl.Callback, **called: bool) -> None:
    """Let hooks of a callback be called from now on, or not; both loops over the batches skip those that are None.

    Args:
        trainer: of the run.
        callback: it has these hooks.
        called: by the name of the hook, whether it is called.
    """
    for name, is_called in called.items():
        vars(callback).pop(name, None)
        if not is_called:
            setattr(callback, name, None)
    trainer.fit_loop.epoch_loop.have_hooks_changed = True  # type: ignore[attr-defined]
