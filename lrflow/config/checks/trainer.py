"""Checks of `trainer.lightning`: arguments of Lightning's Trainer that lrflow has no key for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lrflow.config.annotations import check_value
from lrflow.config.checks.nodes import annotated
from lrflow.config.diagnostics import closest
from lrflow.errors import Problem

SAME = frozenset({
    "accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs", "min_epochs", "max_steps",
    "min_steps", "max_time", "limit_train_batches", "limit_val_batches", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "deterministic", "benchmark", "profiler", "detect_anomaly", "plugins", "sync_batchnorm",
    "overfit_batches", "fast_dev_run",
})  # fmt: skip
"""Arguments that are keys of `trainer` with the same name."""

OWNED: Mapping[str, tuple[str, str | None]] = {
    "logger": ("lrflow builds the loggers", "logger=csv"),
    "callbacks": ("lrflow builds the callbacks", "callbacks=NAME, or callbacks.NAME._target_="),
    "val_check_interval": ("lrflow decides when to validate", "trainer.val_every"),
    "check_val_every_n_epoch": ("lrflow decides when to validate", "trainer.val_every"),
    "log_every_n_steps": ("lrflow decides when to log", "trainer.log_every"),
    "enable_checkpointing": ("lrflow saves checkpoints itself", "trainer.checkpoint"),
    "enable_progress_bar": ("lrflow shows the progress itself", "trainer.progress"),
    "default_root_dir": ("lrflow has a folder for each run", "output"),
    "num_sanity_val_steps": ("a validation before the first step would change the random numbers of the run", None),
    "use_distributed_sampler": ("lrflow divides the data among the processes itself", None),
    "reload_dataloaders_every_n_epochs": ("lrflow's order of the data needs the same loaders in every epoch", None),
    "enable_autolog_hparams": ("config.yaml has the settings of a run", None),
    "barebones": ("it leaves out what lrflow needs", None),
}
"""Arguments that lrflow sets itself or that do not go together with it: why, and which key to use."""


def check_lightning(content: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each key of `trainer.lightning` that Lightning's Trainer does not take, or that is lrflow's.

    Lightning is imported only if there is any.

    Args:
        content: resolved config; other checks report a key that is not a mapping.
    """
    trainer = content.get("trainer")
    given = trainer.get("lightning") if isinstance(trainer, Mapping) else None
    if not isinstance(given, Mapping) or not given:
        return []
    import pytorch_lightning as pl

    known = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    problems = []
    for name, value in given.items():
        key = f"trainer.lightning.{name}"
        if name in SAME:
            problems.append(Problem(key, "lrflow has a key for it", value, f"use trainer.{name}"))
        elif name in OWNED:
            reason, instead = OWNED[name]
            problems.append(Problem(key, reason, value, f"use {instead}" if instead else "leave it out"))
        elif name not in known:
            near = closest(str(name), known)
            free = [other for other in known if other not in SAME and other not in OWNED]
            hint = f"did you mean trainer.lightning.{near}?" if near else f"it takes {', '.join(free)}"
            problems.append(Problem(key, "Lightning's Trainer takes no such argument", value, hint))
        elif problem := check_value(annotated(pl.Trainer, str(name)), value, key):
            problems.append(problem)
    return problems
