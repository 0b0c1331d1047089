"""Schemas of the groups that build objects: optimizer, schedule, feedback, model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag
from pydantic_core import PydanticCustomError

from lrflow.config.schemas import types as f
from lrflow.config.schemas.batch_sizes import BatchSizes
from lrflow.config.schemas.token_facts import TokenFacts
from lrflow.config.schemas.warmup_start import Start
from lrflow.errors import ConfigError, Problem, UnknownProblem, did_you_mean
from lrflow.limits import FROM
from lrflow.schedules import Curve, Duration
from lrflow.schedules.ramps import COOLDOWNS, WARMUPS
from lrflow.schedules.schedule import HELD_PARTS, SHAPE_STARTS, WARMUP_ENDS, WARMUP_MODES
from lrflow.schedules.serialization import from_spec
from lrflow.schedules.time import ROUNDINGS


class Section(BaseModel):
    """Base of the config's sections; unknown keys are an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=(), defer_build=True
    )

    def plain(self) -> dict[str, Any]:
        """Return the keys that the config gives, as plain dicts, lists and values.

        Pydantic's `model_dump` returns the same, but builds a serializer for the section first, which is slow.
        """
        return _content(self, f.as_written)

    def parsed(self) -> dict[str, Any]:
        """Return the same, with durations as `Duration`."""
        return _content(self, lambda duration: duration)


def _content(value: Any, convert: Callable[[Duration], Any]) -> Any:
    if isinstance(value, Duration):
        return convert(value)
    if isinstance(value, Section):
        fields, given = type(value).model_fields.items(), value.model_fields_set
        value = {field.alias or name: getattr(value, name) for name, field in fields if name in given} | (
            value.__pydantic_extra__ or {}
        )
    if isinstance(value, dict):
        return {key: _content(item, convert) for key, item in value.items()}
    return [_content(item, convert) for item in value] if isinstance(value, list) else value


NO_TIME = Duration(0, "steps", 0)


class Node(Section):
    """A section that builds an object: `_target_` and its arguments, which are checked against the signature."""

    model_config = ConfigDict(extra="allow")

    target: f.Text = Field(alias="_target_")
    """Dotted name of a class or function in lrflow, torch, Lightning or a package that the user trusts."""

    offered: ClassVar[frozenset[str]] = frozenset()
    """Keys that lrflow reads itself; they are passed to the target only if its signature names them."""

    def node(self) -> dict[str, Any]:
        """Return `_target_` and its arguments for `instantiate`, with durations as `Duration`."""
        content = self.parsed()
        if self.offered & content.keys():
            from lrflow.config.targets import takes

            for key in self.offered & content.keys():
                if not takes(self.target, key):
                    del content[key]
        return content


AUTO = "auto"
"""Value of `optimizer.lr` that lets a range test find it."""

OF_MODULE = "lrflow.optimizers.OfModule"
"""Target of `optimizer=module`."""


class Optimizer(Node):
    """An optimizer of `torch.optim` or a class with its interface; `lrflow.optimizers.Traits` adds further ranges."""

    offered = frozenset({"routes", "every"})

    lr: Annotated[f.PeakLR, f.Json({"anyOf": [{"const": AUTO}, f.pattern(f"{FROM}.+")]}, beside=True)]
    """Peak LR; the schedule multiplies it. auto: found by a range test; from:RUN: that of RUN, for this schedule."""
    momentum: f.BelowOne = 0.0
    """Factor of the running mean of gradients; 0: no momentum."""
    nesterov: f.Switch = False
    """Use Nesterov momentum."""
    dampening: f.Fraction = 0.0
    """Fraction of the new gradient that the momentum leaves out."""
    betas: f.Betas = (0.9, 0.999)
    """Factors of the running means of the gradient and of its square; some optimizers have a third."""
    eps: f.Eps = 1e-8
    """Term added to the denominator; a pair in Adafactor, whose first value may be null."""
    weight_decay: f.NotNegative = 0.0
    """Weight decay; decoupled or added to the gradient, depending on the optimizer."""
    amsgrad: f.Switch = False
    """Keep the running maximum of the second moment."""
    fused: f.AutoSwitch = "auto"
    """Use the fused kernel; auto: if the device has one."""
    routes: dict[f.Text, Optimizer] = Field({})
    """Other optimizers by name, to which layer rules send parameters with `route`."""

    every: f.Count = 1
    """Steps of the run per step of this optimizer; its schedule counts the optimizer's own steps."""

    @property
    def members(self) -> dict[str, Optimizer]:
        """This optimizer and those of its routes, by their config keys."""
        return {"optimizer": self, **{f"optimizer.routes.{name}": route for name, route in self.routes.items()}}

    @property
    def intervals(self) -> dict[str | None, int]:
        """Steps of the run per step of each optimizer, by its route; None is the main one."""
        return {None: self.every, **{name: route.every for name, route in self.routes.items()}}

    @property
    def of_module(self) -> bool:
        """Whether the LightningModule's own `configure_optimizers` makes the optimizer."""
        return self.target == OF_MODULE


class ShapeNode(Node):
    """A curve between warmup and cooldown: `_target_`, a `lrflow.schedules.Shape` or a function, and its arguments."""


SHAPES = {
    name.lower(): f"lrflow.schedules.{name}" for name in ["Constant", "Linear", "Cosine", "Polynomial", "Rex", "Tanh"]
}
"""Targets of the shapes that can be given by name: they need no argument."""


def _named_shape(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in SHAPES:
        return {"_target_": SHAPES[value]}
    sentence = f"{', '.join(SHAPES)}, or a mapping with a _target_, such as lrflow.schedules.Step"
    hint = did_you_mean(value, SHAPES)
    raise PydanticCustomError(
        "expected", "expected {sentence}", {"sentence": f"{sentence}; {hint}" if hint else sentence}
    )


class MovingValue(Section):
    """The schedule of a value other than the LR."""

    shape: Annotated[ShapeNode | None, f.BeforeValidator(_named_shape), f.Json({"enum": [*SHAPES]}, beside=True)] = None
    """Curve of the value, by its name or as a node; None: the usual one."""
    warmup: f.Time = NO_TIME
    """Duration of the rise from the value at 0 to the start of the shape."""
    warmup_shape: Annotated[str, f.one_of(*WARMUPS)] = "linear"
    """Curve of the warmup."""
    cooldown: f.Time = NO_TIME
    """Duration of the final fall to the value at 0."""
    cooldown_shape: Annotated[str, f.one_of(*COOLDOWNS)] = "linear"
    """Curve of the cooldown."""


class ScheduledSetting(MovingValue):
    """An entry of `schedule.also`, the schedule of another setting; see `lrflow.schedules.ScheduledSetting`."""

    low: f.NotNegative = 0.0
    """Value of the setting where its curve is 0."""
    high: f.NotNegative | None = None
    """Value of the setting where its curve is 1; None: the optimizer's value."""
    inverse: f.Switch = False
    """Lower the setting as the curve rises."""
    optional: f.Switch = False
    """Ignore the entry if the optimizer lacks the setting."""
    warmup_start: f.PeakShare | None = 0.0
    """Fraction of the way from low to high at step 0."""


class Schedule(Node):
    """Warmup, shape, cooldown and floor; see `lrflow.schedules.Schedule`."""

    offered = frozenset({"batch", "batch_by"})

    shape: ShapeNode | None = None
    """The curve between warmup and cooldown."""
    warmup: f.Time = NO_TIME
    """Duration of the warmup, such as 500 (steps), 3 epochs or 10%."""
    warmup_start: Start | None = None
    """Fraction of the peak at step 0, or an LR such as 1e-6 lr; above 1, the warmup falls; None: 1 / (steps + 1)."""
    cooldown: f.Time = NO_TIME
    """Duration of the final fall to the floor."""
    floor: f.Level = 0.0
    """Fraction of the peak below which the LR never falls, or an LR such as 1e-6 lr."""
    warmup_shape: Annotated[str, f.one_of(*WARMUPS)] = "linear"
    """Curve of the warmup."""
    cooldown_shape: Annotated[str, f.one_of(*COOLDOWNS)] = "linear"
    """Curve of the cooldown."""
    also: dict[str, ScheduledSetting | None] | None = None
    """Other scheduled settings of the optimizer by name: momentum, beta1, beta2, weight_decay, ..."""
    hold: f.Time | None = None
    """Interval between changes of the LR, such as 1 epoch; None: the LR changes at each step."""
    hold_part: Annotated[str, f.one_of(*HELD_PARTS)] = "all"
    """What hold holds; shape: everything but the warmup."""
    shape_from: Annotated[str, f.one_of(*SHAPE_STARTS)] = "warmup_end"
    """Where the shape begins; start: at step 0, below the warmup."""
    shape_length: f.Interval | None = None
    """Duration from there to the end of the shape, also of more than the run; None: to the cooldown or the end."""
    warmup_mode: Annotated[str, f.one_of(*WARMUP_MODES)] = "meet"
    """What the warmup is to a shape from the start: it meets the shape, overrides it, is a factor, or leads into it."""
    warmup_ends_at: Annotated[str, f.one_of(*WARMUP_ENDS)] = "next_step"
    """Step at which the warmup reaches its end: the first one after it, or its last one."""
    count_from: Annotated[
        int, f.expects("0 or 1", lambda number: number in (0, 1) and type(number) is int, {"enum": [0, 1]})
    ] = 0
    """Number of the first step."""
    rounding: Annotated[str, f.one_of(*ROUNDINGS)] = "nearest"
    """How durations of the schedule become whole steps."""
    delay: f.Time = NO_TIME
    """Duration before the clock of the schedule begins, until when it has its first value."""
    batch: BatchSizes | None = None
    """Samples per optimizer step on all devices, each size from a duration on: [[0, 64], [100_000 samples, 256]]."""
    batch_by: Annotated[str, f.one_of("auto", "accumulation", "loader")] = "auto"
    """How a step gets its batch: of accumulated batches of data.batch_size, or of a loader whose batches change."""

    _curve: Curve | None = PrivateAttr(None)

    @classmethod
    def spec_of(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return what makes the curve of a schedule, as an option file or a config.yaml has it: without the batches."""
        return {key: value for key, value in content.items() if key not in cls.offered}

    @property
    def sizes(self) -> list[int]:
        """The sizes of `batch`; none if the batch does not change."""
        return [size for _, size in self.batches]

    @property
    def batches(self) -> list[tuple[Duration, int]]:
        """The sizes of `batch`, each with the duration after which it begins; none if the batch does not change."""
        return [(duration, size) for duration, size in self.batch or ()]

    @property
    def of_module(self) -> bool:
        """Whether it is the scheduler of the LightningModule's own `configure_optimizers`."""
        return self.target == "lrflow.schedules.OfModule"

    def curve(self, key: str = "schedule") -> Curve:
        """Return the schedule object; the first call, by the checks of the config, builds it.

        Args:
            key: config key of the schedule.

        Raises:
            ConfigError: every problem of the schedule.
        """
        if self._curve is None:
            from lrflow.config.targets import locate

            try:
                self._curve = from_spec(self.node(), key, locate)
            except ConfigError as error:
                raise ConfigError([self._with_offered(problem, key) for problem in error.problems]) from None
        return self._curve

    def _with_offered(self, problem: Problem, key: str) -> Problem:
        """Return a problem; that of an unknown argument with all keys that the schedule may have."""
        if not isinstance(problem, UnknownProblem) or problem.key.rpartition(".")[0] != key:
            return problem
        return replace(problem, known=(*problem.known, *sorted(self.offered)))


class NoFeedback(Section):
    """No feedback: the LR follows the plan."""


class Feedback(Node):
    """Feedback that multiplies the planned LR by a factor; `lrflow.feedback.limits` lists the keys of each kind."""

    monitor: f.Text | None = None
    """Metric: val/... is read after each validation, train/loss and metrics that the module logs at each `every`."""
    every: f.Interval | None = None
    """Interval between readings; None: the default of the kind."""
    mode: f.Mode | None = None
    """Whether a lower or a higher value is better; None: the mode set elsewhere for the metric, or guessed by name."""


def _kind_of_feedback(value: Any) -> str:
    has_target = "_target_" in value if isinstance(value, Mapping) else isinstance(value, Feedback)
    return "<some>" if has_target else "<none>"


AnyFeedback = Annotated[
    Annotated[Feedback, Tag("<some>")] | Annotated[NoFeedback, Tag("<none>")], Discriminator(_kind_of_feedback)
]


class Model(Node):
    """A `torch.nn.Module`, or a `LightningModule` whose optimizer lrflow supplies."""

    offered = frozenset({"loss", "metrics", "init_from", "fresh"})

    loss: f.Loss | None = None
    """Loss of a plain module, by name or with arguments; see `lrflow.objectives`. A LightningModule has its own."""
    metrics: f.Metrics | None = None
    """Metrics of torchmetrics that a plain module logs too: names, or arguments by name."""
    init_from: f.Text | None = None
    """Source of the initial weights: `last`, a run folder, a checkpoint or a file of tensors by name."""
    fresh: f.Patterns | None = None
    """Names of tensors that are not loaded from it, as globs or with the prefix `re:`."""


class Facts(TokenFacts, Section):
    """Facts about a data set that are known before it is read."""

    model_config = ConfigDict(extra="allow")

    examples: f.Count | None = None
    """Number of examples before those for validation, and for the test without a test set, are held out."""
    shape: f.Shape | None = None
    """Shape of one input, without the batch dimension."""
    outputs: f.Count | None = None
    """Number of classes, or of values to predict."""
    loss: f.Loss | None = None
    """Training loss for models of this data."""
    cardinalities: Annotated[list[f.Count], Field(max_length=100_000)] | None = None
    """Number of indices of each category, if the last inputs are such indices."""
    units: f.Units | None = None
    """Mean and standard deviation of numeric targets: the loss compares them scaled, metrics as they are."""


class Loader(Section):
    """Settings of the loaders of any data module; None: as the module makes them."""

    num_workers: f.Workers | None = None
    """Processes that load the data, for each loader of each device; 0: the run's own process loads it."""
    pin_memory: f.Switch | None = None
    """Copy batches into page-locked memory, from which they reach a GPU faster; no effect on a CPU."""
    prefetch_factor: f.Count | None = None
    """Batches that each process fetches ahead; None: as the loader, else 2."""
    persistent_workers: f.Switch | None = None
    """Keep the processes from epoch to epoch."""


class Data(Node):
    """A data module."""

    offered = frozenset({"effective_batch_size", "facts", "loader", "sampler"})

    batch_size: f.Count | None = None
    """Training examples per batch and device."""
    effective_batch_size: f.Count | None = None
    """Training examples per optimizer step on all devices; None: batch_size x devices x accumulated batches."""
    eval_batch_size: f.Count | None = None
    """Examples per batch in validation and test; None: `batch_size`."""
    val_size: f.PartSize = 0
    """Number of examples held out for validation."""
    test_size: f.PartSize = 0
    """Number of examples held out for the test."""
    drop_last: f.Switch = False
    """Drop the last batch of an epoch if it is smaller."""
    num_workers: f.Workers = 0
    """Number of processes that load the data; 0: the run's own process loads it."""
    split_seed: f.Seed = 0
    """Seed of the choice of the examples that are held out."""
    sampler: Annotated[str, f.one_of("sequential", "shuffled", "balanced", "weighted")] | None = None
    """How the training examples are drawn; None: as the module orders them."""
    facts: Facts | None = None
    """Facts by which lrflow checks a run and counts its steps before the data is read."""
    loader: Loader = Loader.model_construct()
    """Settings that replace those of the module's loaders."""
