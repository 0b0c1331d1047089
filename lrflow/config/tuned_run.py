"""The run that gives a config its LR (`optimizer.lr=from:RUN`, `scaling=transfer`), as its folder describes it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.earlier import as_now
from lrflow.config.failures import one_line
from lrflow.config.origins import READ_ERRORS
from lrflow.errors import ConfigError, Problem
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.limits import FROM
from lrflow.runs import RunFolder

REFERENCE = 1e-3
"""Placeholder for an LR that is not known yet."""


@dataclass(frozen=True)
class TunedRun:
    """A run whose LR was tuned, as its folder describes it.

    Args:
        path: its folder, as typed.
        optimizer: its section `optimizer`, resolved.
        plan: content of its plan.json.
        model: its section `model`, with interpolations.
        status: how it ended; None: that is not recorded.
        key: the key that names it.
        kept: keys whose values are not those of the run but the config's.
    """

    path: str
    optimizer: Mapping[str, Any]
    plan: Mapping[str, Any] = field(repr=False)
    model: Mapping[str, Any]
    status: str | None = None
    key: str = "optimizer.lr"
    kept: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: str, key: str) -> TunedRun:
        """Read the facts of a run.

        Args:
            path: its folder.
            key: the key that names it, for messages.

        Raises:
            ConfigError: there is no such run, or it has no plan.
        """
        folder = RunFolder(Path(path))
        if not path or not is_folder(folder.path):
            near = did_you_mean_path(folder.path) if path else None
            raise _invalid(key, path, "expected the folder of a run, and there is none of this name", near)
        for name, hint in (("config.yaml", "only a run of task=train has one"), ("plan.json", None)):
            if not is_file(folder.path / name):
                raise _invalid(key, path, f"expected the folder of a run with a plan, and it has no {name}", hint)
        try:
            config, plan = OmegaConf.load(folder.config), json.loads((folder.path / "plan.json").read_text("utf-8"))
            optimizer: Any = OmegaConf.to_container(as_now(config).optimizer, resolve=True)  # type: ignore[arg-type]
            if not (isinstance(config, DictConfig) and plan["groups"] and plan["horizon"]["steps"]):
                raise ValueError("it has no groups and no length")
            float(optimizer["lr"]), str(optimizer["_target_"])
        except (*READ_ERRORS, OmegaConfBaseException, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid(key, path, f"its config.yaml or plan.json cannot be read: {one_line(error)}") from None
        model: Any = OmegaConf.to_container(config.model) if "model" in config else {}
        return cls(path, optimizer, plan, model, folder.read_summary().get("status"), key)

    @property
    def given(self) -> str:
        """The value of the key that names it."""
        return as_given(self.key, self.path)

    @property
    def routes(self) -> dict[str, Mapping[str, Any]]:
        """Its other optimizers, by route."""
        return dict(self.optimizer.get("routes") or {})

    def settings(self, route: str | None = None) -> Mapping[str, Any]:
        """Return the settings of its main optimizer, or of that of a route."""
        return self.optimizer if route is None else self.routes[route]

    def lr(self, route: str | None = None) -> float:
        """Return the peak LR of its main optimizer or of that of a route, as its batch scaling made it."""
        return float(self.settings(route)["lr"]) * float((self.plan.get("scaling") or {}).get("factor", 1.0))


def replace_lr_of_run(content: dict[str, Any], typed: Collection[str] = ()) -> tuple[TunedRun | None, list[Problem]]:
    """Replace `optimizer.lr=from:RUN`, or the LR under `scaling=transfer`, by the LR of that run.

    Args:
        content: resolved config, changed in place.
        typed: keys that the command line sets: under `scaling=transfer`, LRs and settings among them are not replaced.

    Returns:
        The run, or None if the config names none or it cannot be read; and the problems.
    """
    optimizer, scaling = content.get("optimizer"), content.get("scaling")
    if not isinstance(optimizer, dict):
        return None, []
    given = optimizer.get("lr")
    asked = scaling if isinstance(scaling, dict) and scaling.get("rule") == "transfer" else {}
    if isinstance(given, str) and given.startswith(FROM):
        if asked:
            optimizer["lr"] = REFERENCE
            message = "scaling=transfer takes the LR of a run already"
            return None, [Problem("optimizer.lr", message, given, "leave it out, or scaling=none")]
        path, key = given.removeprefix(FROM).strip(), "optimizer.lr"
        optimizer["lr"] = REFERENCE  # a run that cannot be read is the only problem
    elif isinstance(asked.get("from"), str) and not asked.get("found"):
        path, key = asked["from"], "scaling.from"
    else:
        return None, []
    try:
        tuned = TunedRun.read(path, key)
    except ConfigError as error:
        return None, error.problems
    if key == "optimizer.lr":
        optimizer["lr"] = tuned.lr()
        return tuned, []
    return replace(tuned, kept=frozenset(typed)), []


def as_given(key: str, path: str) -> str:
    """Return the value of a key that names a run by its folder."""
    return f"{FROM}{path}" if key == "optimizer.lr" else path


def _invalid(key: str, path: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem(key, message, as_given(key, path), hint)])
