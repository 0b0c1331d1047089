"""What an unknown key was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from lrflow.config import schema, settings
from lrflow.config.config import Config
from lrflow.config.interpolation import leaves
from lrflow.errors import Problem

SYNONYMS = {
    "learning_rate": "lr",
    "max_lr": "lr",
    "wd": "weight_decay",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "steps": "max_steps",
    "bs": "batch_size",
    "optim": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup_steps": "warmup",
    "num_warmup_steps": "warmup",
    "grad_clip": "gradient_clip_val",
    "accumulate": "accumulate_grad_batches",
    "gpus": "devices",
    "workers": "num_workers",
    "dataset": "data",
}
"""Names of other frameworks, and what lrflow calls it."""

SECTIONS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "": (Config,),
    "optimizer": (schema.Optimizer,),
    "schedule": (schema.Schedule,),
    "feedback": (schema.Feedback,),
    "trainer": (settings.Trainer,),
    "trainer.checkpoint": (settings.Checkpoint,),
    "data": (schema.Data,),
    "model": (schema.Model,),
    "logger": (settings.Logger,),
    "logger.wandb": (settings.Wandb,),
    "scaling": (settings.Scaling,),
    "health": (settings.Health,),
    "health.nonfinite": (settings.NonFinite,),
    "health.sharpness": (settings.Sharpness,),
    "sharpness": (settings.Probing,),
    "resume": (settings.Resume,),
    "horizon": (settings.HorizonOverride,),
    "find": (settings.RangeFind, settings.StabilityFind),
    "task": (settings.Train, settings.PlanTask, settings.FindTask, settings.Evaluate),
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one was surely meant to be; None when none is near enough."""
    known, meant = list(known), SYNONYMS.get(word, word)
    if meant in known:
        return meant
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    close = close or [name for name in known if sorted(name) == sorted(word)]  # two letters of a short word, swapped
    return close[0] if close else None


def unknown_key(key: str, value: Any, content: dict[str, Any]) -> Problem:
    """The problem of a key that no schema knows, with the one that was probably meant.

    Args:
        key: dotted, as it was given.
        value: what was given to it.
        content: the whole config, whose other keys may have been meant.
    """
    parent, _, name = key.rpartition(".")
    if key == "trust":
        hint = "trust=my_pkg on the command line, or [tool.lrflow] trust in ./pyproject.toml"
        return Problem(key, "cannot stand in a config: no config may vouch for itself", value, hint)
    if key == "recipe":
        return Problem(key, "there are no keys of this group", hint="a recipe starts with the line # @package _global_")
    if parent == "feedback" and "_target_" not in content.get(parent, {}):
        return Problem(key, "there is no feedback to give it to", value, "choose one: feedback=plateau, for example")
    sections = _sections(parent)
    known = list(dict.fromkeys(other for section in sections for other in names_of(section) if other != name))
    message = "there is no such key" if parent else "there is no such group or key"
    if close := closest(name, known):
        return Problem(key, message, value, f"did you mean {f'{parent}.{close}' if parent else close}?")
    if elsewhere := _elsewhere(key, content):
        return Problem(key, message, value, f"did you mean {elsewhere}?")
    if parent:
        return Problem(key, message, value, f"{parent} has {', '.join(known)}" if known else None)
    return Problem(key, message, value, f"the groups are {', '.join(Config.groups)}")


def names_of(section: type[BaseModel]) -> list[str]:
    """The keys of a section as they stand in a config."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(parent: str) -> tuple[type[BaseModel], ...]:
    if re.search(r"schedule\.also\.\w+$", parent):
        return (schema.AlsoSetting,)
    return (schema.Rule,) if parent.endswith("]") else SECTIONS.get(parent, ())


def _elsewhere(unknown: str, content: dict[str, Any]) -> str | None:
    """The key of this name, or nearly, in another place of the config."""
    keys = [
        key
        for key, _ in leaves(content)
        if "." in key and "[" not in key and not key.startswith("data.facts") and key != unknown
    ]
    name = unknown.rpartition(".")[2]
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    close = closest(name, by_name)
    return by_name[close] if close else None
