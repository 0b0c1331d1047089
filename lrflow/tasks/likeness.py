"""Which runs of a sweep can train together, as far as their configs tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lrflow.config import Config, locate
from lrflow.config.schema import NoFeedback
from lrflow.config.settings import NonFinite, Sharpness, Train
from lrflow.config.targets import optimizer_traits
from lrflow.data import DataModule

_NUMBERS = ("lr", "momentum", "dampening", "betas", "eps", "weight_decay")  # in which members may differ


def ineligible_because(config: Config) -> str | None:
    """Why a run cannot be a member of a population, as far as its config tells; None: nothing speaks against it."""
    trainer, optimizer = config.trainer, config.optimizer
    node, kind = optimizer.node(), optimizer.target.rpartition(".")[2]
    annealed = (
        config.trial is not None and config.trial.pruner != "none" and config.trial.pruning.rungs != "validations"
    )
    ours = (NonFinite.default, Sharpness.default)
    own = [f"health.{name}" for name, monitor in config.monitors.items() if monitor["_target_"] not in ours]
    reasons = {
        f"task={config.task.name} trains nothing": not isinstance(config.task, Train),
        "a run that is resumed goes on by itself": config.resume.source is not None,
        "the LR is looked for before the run": config.finds_lr or config.find.check,
        "feedback moves the LR as the run goes": not isinstance(config.feedback, NoFeedback),
        "the sharpness is measured as the run goes": config.sharpness_every is not None,
        f"{', '.join(own)} may watch each step as it is made": bool(own),
        f"{kind} is not one of SGD, Adam and AdamW": optimizer_traits(optimizer.target).update is None,
        "the optimizer is routed": bool(optimizer.routes),
        f"{kind} maximizes": node.get("maximize", False),
        "gradients are accumulated": trainer.accumulate_grad_batches > 1,
        "trainer.channels_last is of one model's images": trainer.channels_last,
        f"trainer.precision={trainer.precision}": str(trainer.precision) not in ("32-true", "32"),
        "it is distributed": trainer.beyond_one_process() is not None,
        "W&B has one run at a time in a process": config.logger.wandb is not None,
        "its sweep compares short annealed runs": annealed,
        "task.test=best tests weights of its own": isinstance(config.task, Train) and config.task.test == "best",
    }  # fmt: skip
    return next((reason for reason, holds in reasons.items() if holds), None)


def population_key(config: Config) -> str:
    """What the members of a population have in common: everything but numbers of the optimizer, schedule and seed."""
    same = config.plain()
    for beside in ("schedule", "name", "output", "find", "against", "horizon", "seed", "resume", "trial"):
        same.pop(beside, None)
    same["optimizer"] = {key: value for key, value in same["optimizer"].items() if key not in _NUMBERS}
    same["layers"] = _without_numbers(same["layers"])
    if not shares_data(config):
        same["seed"] = config.seed
    return json.dumps(same, sort_keys=True, default=str)


def shares_data(config: Config) -> bool:
    """Whether the data may be the same for every seed: those of a `DataModule` are, unless its `load` draws numbers."""
    made = locate(config.data.target)
    return isinstance(made, type) and issubclass(made, DataModule)


def _without_numbers(value: Any) -> Any:
    """The structure of plain data."""
    if isinstance(value, Mapping):
        return {key: ... if key == "lr" else _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numbers(item) for item in value]
    return ... if isinstance(value, int | float) and not isinstance(value, bool) else value
