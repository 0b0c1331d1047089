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
from lrflow.layers.rules import as_tuple
from lrflow.limits import FROM
from lrflow.runs import RunFolder

MUP_TARGET = "lrflow.layers.MuP"

RESIDUAL_MULTIPLIER = "residual_multiplier"
"""The argument by which a model offers a factor on its residual branches, as muP needs for another depth."""

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
        base: arguments of the narrower model for which its LR holds (`layers.base`); None: it had no muP.
    """

    path: str
    optimizer: Mapping[str, Any]
    plan: Mapping[str, Any] = field(repr=False)
    model: Mapping[str, Any]
    status: str | None = None
    key: str = "optimizer.lr"
    kept: frozenset[str] = frozenset()
    base: Mapping[str, Any] | None = None

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
        base = base_of(OmegaConf.to_container(config.layers) if "layers" in config else {})
        return cls(path, optimizer, plan, model, folder.read_summary().get("status"), key, base=base)

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

    def base_for(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the base of muP for a model of other widths or depth, so that the LR of this run holds for it.

        It is that of this run; or else this run's own model, by the numbers in which the two differ.
        """
        if self.base is not None:
            return dict(self.base)
        theirs = self.model
        base = {name: theirs[name] for name in model if name in theirs and _is_size(theirs[name])
                and theirs[name] != model[name]}  # fmt: skip
        if base and theirs.get(RESIDUAL_MULTIPLIER, 1) != 1:
            base[RESIDUAL_MULTIPLIER] = theirs[RESIDUAL_MULTIPLIER]
        return base


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


def fill_base(source: DictConfig) -> None:
    """Set the base of muP that is left out under `scaling=transfer` to that of the tuned run, or to its model.

    Args:
        source: config with interpolations unresolved, changed in place.
    """
    scaling, layers, model = (source.get(name) for name in ("scaling", "layers", "model"))
    if not all(isinstance(one, DictConfig) for one in (scaling, layers, model)) or scaling.get("rule") != "transfer":
        return
    if layers.get("_target_") == MUP_TARGET and OmegaConf.is_missing(layers, "base") and "from" in scaling:
        try:
            tuned = TunedRun.read(str(scaling["from"]), "scaling.from")
        except (ConfigError, OmegaConfBaseException):  # told as a problem of scaling.from
            return
        if base := tuned.base_for(OmegaConf.to_container(model)):  # type: ignore[arg-type]
            OmegaConf.update(source, "layers.base", base)


def base_of(layers: Any) -> Mapping[str, Any] | None:
    """Return the base of `layers=mup`; None: the layers are others, or it has none."""
    if not isinstance(layers, Mapping) or layers.get("_target_") != MUP_TARGET:
        return None
    base = layers.get("base")
    return base if isinstance(base, Mapping) else None


def _is_size(value: Any) -> bool:
    """Whether it is a whole number, or a list of them."""
    sizes = as_tuple(value)
    return bool(sizes) and all(isinstance(one, int) and not isinstance(one, bool) for one in sizes)


def _invalid(key: str, path: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem(key, message, as_given(key, path), hint)])
