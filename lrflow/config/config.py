"""`Config`: the typed and validated config of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig
from pydantic import Field, PrivateAttr

from lrflow.config import find_schema as find_schemas
from lrflow.config import run_schema, schema
from lrflow.config import types as f
from lrflow.config.sweep import Trial
from lrflow.metric import Directions
from lrflow.schedules.time import Duration


class Config(schema.Section):
    """A run as it was asked for. `validate` makes one; nothing in it changes afterwards."""

    groups: ClassVar[tuple[str, ...]] = (
        "optimizer", "schedule", "feedback", "layers", "scaling", "model", "data", "trainer", "logger", "health",
        "find", "task",
    )  # fmt: skip

    optimizer: schema.Optimizer
    schedule: schema.Schedule
    feedback: schema.AnyFeedback = schema.NoFeedback.model_construct()
    layers: schema.Layers
    scaling: run_schema.Scaling = run_schema.Scaling.model_construct()
    model: schema.Model
    data: schema.Data
    trainer: run_schema.Trainer
    logger: run_schema.Logger
    health: run_schema.Health
    sharpness: run_schema.Probing = run_schema.Probing.model_construct()
    """Short for `health.sharpness`: what is given here holds."""
    find: find_schemas.Find = find_schemas.RangeFind.model_construct(kind="range")
    task: run_schema.Task

    name: f.FolderName | None = None
    """What the run is called in its folder and on dashboards."""
    seed: f.Seed = 0
    """Seeds Python, NumPy and torch, and the order of the data."""
    output: f.FolderPath = "outputs"
    """Run folders are made here."""
    horizon: run_schema.HorizonOverride = run_schema.HorizonOverride.model_construct()
    against: f.Text | None = None
    """task=plan: a run folder, plan.json or config file to compare with, or `last`: the newest run that has a plan."""
    resume: run_schema.Resume = Field(default_factory=run_schema.Resume.model_construct)
    trial: Trial | None = None
    """Which trial of which sweep this is; the sweep fills it in."""

    _source: DictConfig = PrivateAttr()
    _choices: dict[str, str | None] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)
    _run_folder: Path | None = PrivateAttr(default=None)
    _finds_lr: bool = PrivateAttr(default=False)
    _directions: Directions = PrivateAttr(default=Directions())
    _remarks: list[str] = PrivateAttr(default_factory=list)

    def attach(
        self,
        source: DictConfig,
        choices: Mapping[str, str | None],
        overrides: Iterable[str],
        run_folder: Path | None,
        finds_lr: bool = False,
        directions: Directions = Directions(),  # noqa: B008  # frozen
    ) -> Config:
        """Notes where the config came from; `validate` calls it once."""
        self._source, self._choices = source, dict(choices)
        self._overrides, self._run_folder, self._finds_lr = list(overrides), run_folder, finds_lr
        self._directions = directions
        return self

    def in_folder(self, run_folder: Path) -> Config:
        """Note the folder that a sweep gives to this job, of a config that was checked before there was one."""
        self._run_folder = run_folder
        return self

    @property
    def source(self) -> DictConfig:
        """The config with its interpolations: what is saved, since it only names the variables that hold secrets."""
        return self._source

    @property
    def choices(self) -> dict[str, str | None]:
        """The option that was taken of each group, `{"optimizer": "adamw"}`."""
        return dict(self._choices)

    @property
    def overrides(self) -> list[str]:
        """The command line's overrides."""
        return list(self._overrides)

    @property
    def run_folder(self) -> Path | None:
        """The folder that a sweep gave to this job; None in a single run."""
        return self._run_folder

    @property
    def remarks(self) -> list[str]:
        """What a person should know of how it was composed, a line each: whoever runs the job prints it."""
        return self._remarks

    @property
    def directions(self) -> Directions:
        """The metrics that the config names, and which way of each is better."""
        return self._directions

    @property
    def finds_lr(self) -> bool:
        """Whether the LR is to be found before the training (`optimizer.lr=auto`); until then it is a stand-in."""
        return self._finds_lr

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that the run's sweep is judged by; none: it is no trial of one."""
        return tuple(each.name for each in self.trial.objectives) if self.trial else ()

    @property
    def monitors(self) -> dict[str, dict[str, Any]]:
        """`_target_` and arguments of each monitor of the run, by its name in `health`."""
        nodes = self.health.nodes()
        if short := {key: value for key, value in self.sharpness.plain().items() if value is not None}:
            nodes["sharpness"] = {"_target_": run_schema.Sharpness.default, **nodes.get("sharpness", {}), **short}
        return nodes

    @property
    def sharpness_every(self) -> Duration | None:
        """How often the sharpness is measured; None: never."""
        own = self.health.sharpness
        return self.sharpness.every or (own.every if own else None)

    @property
    def title(self) -> str:
        """The run's name, or one of its options: `mlp-digits-adamw-cosine`, or `charlm-muon-cosine` of a recipe."""
        if self.name is not None:
            return self.name
        recipe = self._choices.get("recipe")
        what = [recipe.replace("/", "-")] if recipe else [self._option("model"), self._option("data")]
        return "-".join([*what, self._option("optimizer"), self._option("schedule")])

    def _option(self, group: str) -> str:
        """The option that was taken of a group, or what stands there instead."""
        return self._choices.get(group) or _short(getattr(self, group))


def _build() -> None:
    """Builds the validators, without pydantic's search of all installed packages for plugins, which takes as long."""
    name = "PYDANTIC_DISABLE_PLUGINS"
    given = os.environ.get(name)
    os.environ[name] = "1"
    try:
        Config.model_rebuild()
    finally:
        del os.environ[name]
        if given is not None:
            os.environ[name] = given


_build()


def _short(section: Any) -> str:
    """What to call an object whose option is not known: its class."""
    return str(getattr(section, "target", "custom")).rpartition(".")[2].lower()
