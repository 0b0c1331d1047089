"""`Config`: the typed and validated config of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from omegaconf import DictConfig
from pydantic import Field, PrivateAttr

from lrflow.config.schemas import average as average_schema
from lrflow.config.schemas import callbacks as callback_schema
from lrflow.config.schemas import clip as clip_schema
from lrflow.config.schemas import find as find_schemas
from lrflow.config.schemas import health as health_schema
from lrflow.config.schemas import layers as layer_schema
from lrflow.config.schemas import loggers as logger_schema
from lrflow.config.schemas import objects as schema
from lrflow.config.schemas import run as run_schema
from lrflow.config.schemas import task as task_schema
from lrflow.config.schemas import types as f
from lrflow.config.schemas.named import Augmentations
from lrflow.config.schemas.scalars import Scalar, Scalars
from lrflow.config.schemas.sweep import Trial
from lrflow.config.tuned_run import TunedRun
from lrflow.metric import Directions
from lrflow.plan.scalars import PlanScalar
from lrflow.runs import OUTPUT
from lrflow.schedules.time import Duration


class Config(schema.Section):
    """The typed and validated config of a run, as `validate` returns it; immutable."""

    groups: ClassVar[tuple[str, ...]] = (
        "optimizer", "schedule", "feedback", "clip", "average", "layers", "scaling", "model", "data", "augment",
        "trainer", "logger", "signals", "health", "callbacks", "find", "task",
    )  # fmt: skip

    optimizer: schema.Optimizer
    schedule: schema.Schedule
    feedback: schema.AnyFeedback = schema.NoFeedback.model_construct()
    clip: clip_schema.AnyClip = clip_schema.NoClip.model_construct()
    average: average_schema.Average = average_schema.NoAverage.model_construct()
    layers: layer_schema.Layers
    scaling: run_schema.Scaling = run_schema.Scaling.model_construct()
    model: schema.Model
    data: schema.Data
    augment: Augmentations = Field(default_factory=lambda: Augmentations.model_validate({}))
    trainer: run_schema.Trainer
    logger: logger_schema.Logger
    signals: run_schema.Signals = run_schema.Signals.model_construct()
    health: health_schema.Health
    callbacks: callback_schema.Callbacks = Field(default_factory=lambda: callback_schema.Callbacks.model_validate({}))
    scalars: Scalars = Field({})
    """Numbers besides the LR that the plan moves, by name: from, to, shape; self.planned(NAME) reads one."""
    sharpness: health_schema.Probing = health_schema.Probing.model_construct()
    """Short form of `health.sharpness`; overrides it."""
    find: find_schemas.Find = find_schemas.RangeFind.model_construct(kind="range")
    task: task_schema.Task

    name: f.FolderName | None = None
    """Name of the run in its folder and on dashboards."""
    seed: f.Seed = 0
    """Seed of Python, NumPy, torch and the order of the data."""
    output: f.FolderPath = OUTPUT
    """Folder of the run folders."""
    report: f.Switch = True
    """Write `report.html` into the folder of a run, a sweep or a range test at its end; not for each job of a sweep."""
    horizon: run_schema.HorizonOverride = run_schema.HorizonOverride.model_construct()
    against: f.Text | None = None
    """task=plan: run folder, plan.json or config file to compare with, or `last`: the newest run that has a plan."""
    resume: run_schema.Resume = Field(default_factory=run_schema.Resume.model_construct)
    trial: Trial | None = None
    """The trial of a sweep that this run is; set by the sweep."""

    _source: DictConfig = PrivateAttr()
    _choices: dict[str, str | None] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)
    _run_folder: Path | None = PrivateAttr(default=None)
    _finds_lr: bool = PrivateAttr(default=False)
    _tuned: TunedRun | None = PrivateAttr(default=None)
    _directions: Directions = PrivateAttr(default=Directions())
    _remarks: list[str] = PrivateAttr(default_factory=list)
    _doubts: list[str] = PrivateAttr(default_factory=list)

    def attach(
        self,
        source: DictConfig,
        choices: Mapping[str, str | None],
        overrides: Iterable[str],
        run_folder: Path | None,
        finds_lr: bool = False,
        directions: Directions = Directions(),  # noqa: B008  # frozen
    ) -> Config:
        """Store the origin of the config; `validate` calls this once."""
        self._source, self._choices = source, dict(choices)
        self._overrides, self._run_folder, self._finds_lr = list(overrides), run_folder, finds_lr
        self._directions = directions
        return self

    def in_folder(self, run_folder: Path) -> Config:
        """Set the run folder that a sweep assigns to this job after its config was checked, and return the config."""
        self._run_folder = run_folder
        return self

    @property
    def source(self) -> DictConfig:
        """The config with unresolved interpolations, which is saved: it only names the variables that hold secrets."""
        return self._source

    @property
    def choices(self) -> dict[str, str | None]:
        """The option of each group, such as `{"optimizer": "adamw"}`."""
        return dict(self._choices)

    @property
    def overrides(self) -> list[str]:
        """The command line's overrides."""
        return list(self._overrides)

    @property
    def run_folder(self) -> Path | None:
        """The run folder that a sweep assigned to this job; None in a single run."""
        return self._run_folder

    @property
    def remarks(self) -> list[str]:
        """Messages about the composition, one line each; printed when the job starts."""
        return self._remarks

    @property
    def doubts(self) -> list[str]:
        """Warnings about the composition, one line each; `warnings_before_start` returns them with all others."""
        return self._doubts

    @property
    def directions(self) -> Directions:
        """The metrics that the config names, and their modes."""
        return self._directions

    @property
    def finds_lr(self) -> bool:
        """Whether a range test finds the LR before training (`optimizer.lr=auto`); until then it is a placeholder."""
        return self._finds_lr

    @property
    def tuned(self) -> TunedRun | None:
        """The run that gives the LR (`optimizer.lr=from:RUN` or `scaling=transfer`); None: the config gives it."""
        return self._tuned

    def take_lr_of(self, tuned: TunedRun) -> None:
        """Set the run that gives the LR; the LR is computed once the length of this run is known."""
        self._tuned = tuned

    @property
    def moving_scalars(self) -> dict[str, Scalar]:
        """The scalars by name, without those that are switched off."""
        return {name: scalar for name, scalar in self.scalars.items() if scalar is not None}

    @property
    def planned_scalars(self) -> tuple[PlanScalar, ...]:
        """The scalars as a plan has them."""
        return tuple(scalar.planned(name) for name, scalar in self.moving_scalars.items())

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the metrics that the run's sweep optimizes; empty outside a sweep."""
        return tuple(each.name for each in self.trial.objectives) if self.trial else ()

    @property
    def monitors(self) -> dict[str, dict[str, Any]]:
        """`_target_` and arguments of each monitor by its name in `health`."""
        nodes = self.health.nodes()
        if short := {key: value for key, value in self.sharpness.plain().items() if value is not None}:
            nodes["sharpness"] = {"_target_": health_schema.Sharpness.default, **nodes.get("sharpness", {}), **short}
        return nodes

    @property
    def sharpness_every(self) -> Duration | None:
        """Interval at which the sharpness is measured; None: never."""
        own = self.health.sharpness
        return self.sharpness.every or (own.every if own else None)

    @property
    def guard(self) -> clip_schema.Clip | None:
        """What clips the gradients of a step or skips it, in either spelling; None: nothing does."""
        return clip_schema.clip_of(self.clip, self.trainer)

    @property
    def guard_choice(self) -> tuple[str, Any]:
        """The key that chose the guard, and its value: `clip` and `zclip`, or `trainer.gradient_clip_val` and 1.0."""
        if isinstance(self.clip, clip_schema.Clip):
            return "clip", self._option("clip")
        return clip_schema.LIGHTNINGS, self.trainer.gradient_clip_val

    @property
    def title(self) -> str:
        """The run's name, or one of its options: `mlp-digits-adamw-cosine`; of a recipe: `charlm-muon-cosine`."""
        if self.name is not None:
            return self.name
        recipe = self._choices.get("recipe")
        what = [recipe.replace("/", "-")] if recipe else [self._option("model"), self._option("data")]
        return "-".join([*what, self._option("optimizer"), self._option("schedule")])

    def _option(self, group: str) -> str:
        """Return the option of a group, or the class of its object without one."""
        return self._choices.get(group) or _short(getattr(self, group))


def _build() -> None:
    """Build the validators without pydantic's search for plugins in all installed packages, which takes as long."""
    name = "pydantic.plugin._loader"
    search = sys.modules.get(name)
    none = sys.modules[name] = ModuleType(name)
    vars(none)["get_plugins"] = tuple
    try:
        Config.model_rebuild()
    finally:
        del sys.modules[name]
        if search is not None:
            sys.modules[name] = search


_build()


def _short(section: Any) -> str:
    """Return the lower-case name of the class that a section builds, for sections without an option."""
    return str(getattr(section, "target", "custom")).rpartition(".")[2].lower()
