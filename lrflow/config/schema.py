"""Schemas of the groups that build objects: optimizer, schedule, layers, feedback, model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from lrflow import layers
from lrflow.config import types as f
from lrflow.errors import ConfigError
from lrflow.layers.rules import SELECTS
from lrflow.schedules import Curve, Duration
from lrflow.schedules.schedule import COOLDOWNS, WARMUPS
from lrflow.schedules.serialization import from_spec


class Section(BaseModel):
    """A part of the config whose keys are all known."""

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
    """A part that builds an object: `_target_` and the arguments that it takes, checked against its signature."""

    model_config = ConfigDict(extra="allow")

    target: f.Text = Field(alias="_target_")
    """Dotted name of a class or function, from lrflow, torch and Lightning or from a package that the user trusts."""

    offered: ClassVar[frozenset[str]] = frozenset()
    """Keys that lrflow reads itself; the target is given them where its signature names them."""

    def node(self) -> dict[str, Any]:
        """`_target_` and its arguments, as `instantiate` takes them: as the config gives them, durations parsed."""
        content = self.parsed()
        if self.offered & content.keys():
            from lrflow.config.targets import takes

            for key in self.offered & content.keys():
                if not takes(self.target, key):
                    del content[key]
        return content


class Optimizer(Node):
    """An optimizer of `torch.optim` or a class that is called like one; `lrflow.optimizers.Traits` has more ranges."""

    offered = frozenset({"routes"})

    lr: f.PeakLR
    """Peak LR; the schedule multiplies it."""
    momentum: f.BelowOne = 0.0
    """Factor of the running mean of gradients; 0: none."""
    nesterov: f.Switch = False
    """Look-ahead momentum."""
    dampening: f.Fraction = 0.0
    """How much of the new gradient the momentum leaves out."""
    betas: f.Betas = (0.9, 0.999)
    """Factors of the running means of the gradient and of its square; some optimizers have a third."""
    eps: f.Eps = 1e-8
    """Added to the denominator; a pair in Adafactor, whose first may be null."""
    weight_decay: f.NotNegative = 0.0
    """Decoupled or through the gradient, as the optimizer has it."""
    amsgrad: f.Switch = False
    """Keep the running maximum of the second moment."""
    fused: f.AutoSwitch = "auto"
    """The fused kernel; auto: where the device has one."""
    routes: dict[f.Text, Optimizer] = Field(default_factory=dict)
    """Other optimizers by name, to which layer rules send parameters with `route`."""


class ScheduledSetting(Section):
    """One entry of `schedule.also`: a setting that moves, and what moves it; `lrflow.schedules.ScheduledSetting`."""

    low: f.NotNegative = 0.0
    """The setting's value where its curve is 0."""
    high: f.NotNegative | None = None
    """Its value where the curve is 1; None: the optimizer's own."""
    inverse: f.Switch = False
    """The setting falls as the curve rises."""
    optional: f.Switch = False
    """An optimizer without the setting is left as it is."""
    shape: Node | None = None
    """The setting's own curve; None: constant, or the LR's schedule where nothing else is given either."""
    warmup: f.Time = NO_TIME
    """A duration: the way from low to where the shape starts."""
    warmup_start: f.Fraction | None = 0.0
    """Share of the way from low to high at step 0."""
    warmup_shape: Annotated[str, f.one_of(*WARMUPS)] = "linear"
    """How the warmup rises."""
    cooldown: f.Time = NO_TIME
    """The last stretch, down to low."""
    cooldown_shape: Annotated[str, f.one_of(*COOLDOWNS)] = "linear"
    """How the cooldown falls."""


class Schedule(Node):
    """Warmup, shape, cooldown and floor; see `lrflow.schedules.Schedule`."""

    shape: Node | None = None
    """The curve between warmup and cooldown."""
    warmup: f.Time = NO_TIME
    """A duration: 500 (steps), 3 epochs, 10%."""
    warmup_start: f.Fraction | None = None
    """Fraction of the peak at step 0; None: 1 / (warmup steps + 1)."""
    cooldown: f.Time = NO_TIME
    """The last stretch, down to the floor."""
    floor: f.Fraction = 0.0
    """Fraction of the peak below which the LR never falls."""
    warmup_shape: Annotated[str, f.one_of(*WARMUPS)] = "linear"
    """How the warmup rises."""
    cooldown_shape: Annotated[str, f.one_of(*COOLDOWNS)] = "linear"
    """How the cooldown falls."""
    also: dict[str, ScheduledSetting | None] | None = None
    """Other settings of the optimizer that move over the run, by name: momentum, beta1, beta2, weight_decay, ..."""
    hold: f.Time | None = None
    """The LR stays for so long before it moves, such as 1 epoch; None: it moves at each step."""

    _curve: Curve | None = PrivateAttr(None)

    def curve(self, key: str = "schedule") -> Curve:
        """The schedule itself, built when it is first asked for, which the checks of the config do.

        Args:
            key: where it stands in the config.

        Raises:
            ConfigError: everything that is wrong with it.
        """
        if self._curve is None:
            from lrflow.config.targets import locate

            self._curve = from_spec(self.node(), key, locate)
        return self._curve


class Rule(Section):
    """One rule of `layers.rules` as it is written; `lrflow.layers.Rule` is made of it, and says what goes together."""

    name: f.Text
    """What the group is called."""
    match: f.Patterns | None = None
    """Globs over parameter names, `head.*`, or regular expressions marked `re:`."""
    type: f.Texts | None = None
    """Classes of the modules that hold the parameters."""
    ndim: f.Numbers | None = None
    """Numbers of dimensions."""
    select: Annotated[Any, f.some_of(*SELECTS)] | None = None
    """Kinds of parameters: bias, norm, embedding, matrix."""
    lr: f.GroupLR | None = None
    """The group's peak LR, or a multiple of the run's, `10x`."""
    weight_decay: f.NotNegative | None = None
    """The group's weight decay; None: the optimizer's."""
    schedule: Schedule | None = None
    """The group's own schedule; None: the run's."""
    freeze: f.Switch = False
    """The group does not train."""
    unfreeze: f.Time | None = None
    """The group is frozen for so long, and trains from there on."""
    unfreeze_warmup: f.Time = NO_TIME
    """From there the LR rises linearly to what the schedule says."""
    freeze_statistics: f.Switch = True
    """While they are frozen, batch norms keep their running statistics and normalise by them."""
    route: f.Text | None = None
    """The optimizer that the group goes to, one of `optimizer.routes`; None: the main one."""


class Rules(Section):
    """Parameter groups by rules, in order: the first that matches a parameter claims it."""

    rules: Annotated[list[Rule], Field(min_length=1)]
    """Every parameter must find one."""

    _compiled: list[layers.Rule] | None = PrivateAttr(None)

    def compiled(self) -> list[layers.Rule]:
        """The rules themselves, made when they are first asked for, which the checks of the config do.

        Raises:
            ConfigError: everything that is wrong with them.
        """
        if self._compiled is None:
            compiled, problems = [], []
            for index, rule in enumerate(self.rules):
                key = f"layers.rules[{index}]"
                spec = rule.parsed()
                try:
                    if rule.schedule is not None:
                        spec["schedule"] = rule.schedule.curve(f"{key}.schedule")
                    compiled.append(layers.Rule.from_config(spec, key))
                except ConfigError as error:
                    problems += error.problems
            if problems:
                raise ConfigError(problems)
            self._compiled = compiled
        return self._compiled


class RuleMaker(Node):
    """Parameter groups by an object whose `rules(model)` gives the rules."""


def _kind_of_layers(value: Any) -> str:
    made = "_target_" in value if isinstance(value, Mapping) else isinstance(value, RuleMaker)
    return "<maker>" if made else "<rules>"


Layers = Annotated[
    Annotated[Rules, Tag("<rules>")] | Annotated[RuleMaker, Tag("<maker>")], Discriminator(_kind_of_layers)
]


class NoFeedback(Section):
    """The LR is the plan's."""


class Feedback(Node):
    """A factor on top of the plan: what lrflow reads of it; `lrflow.feedback.limits` has what else each kind takes."""

    monitor: f.Text | None = None
    """The metric: val/... is looked at after each validation, train/loss and what the module logs each `every`."""
    every: f.Interval | None = None
    """How often it looks; None: as the kind has it."""
    mode: f.Mode | None = None
    """Whether less of the metric is better, or more; None: as the metric has it elsewhere, or by its name."""


def _kind_of_feedback(value: Any) -> str:
    made = "_target_" in value if isinstance(value, Mapping) else isinstance(value, Feedback)
    return "<some>" if made else "<none>"


AnyFeedback = Annotated[
    Annotated[Feedback, Tag("<some>")] | Annotated[NoFeedback, Tag("<none>")], Discriminator(_kind_of_feedback)
]

Loss = Annotated[Literal["cross_entropy", "mse"], f.one_of("cross_entropy", "mse")]


class Model(Node):
    """A `torch.nn.Module`, or a `LightningModule` whose optimizer lrflow supplies."""

    offered = frozenset({"loss", "init_from", "fresh"})

    loss: Loss | None = None
    """What a plain module is trained with; a LightningModule has its own."""
    init_from: f.Text | None = None
    """Weights to start from: `last`, a run folder, a checkpoint or a file of tensors by name."""
    fresh: f.Patterns | None = None
    """Names of tensors that are not taken from there, globs or `re:`."""


class Facts(Section):
    """What is known of a data set before it is read."""

    model_config = ConfigDict(extra="allow")

    examples: f.Count | None = None
    """Examples before validation (and test, where it has none of its own) are held out."""
    shape: f.Shape | None = None
    """Of one input, without the batch."""
    outputs: f.Count | None = None
    """Classes, or values to predict."""
    loss: Loss | None = None
    """What a model of this data is trained with."""


class Data(Node):
    """A data module."""

    offered = frozenset({"facts"})

    batch_size: f.Count | None = None
    """Training examples a batch and device."""
    eval_batch_size: f.Count | None = None
    """Examples a batch in validation and test; None: as `batch_size`."""
    val_size: f.CountOrNone = 0
    """Examples held out for validation."""
    test_size: f.CountOrNone = 0
    """Examples held out for the test."""
    drop_last: f.Switch = False
    """Leave out an epoch's last, smaller batch."""
    num_workers: f.CountOrNone = 0
    """Processes that load the data; 0: none beside the run itself."""
    split_seed: f.Seed = 0
    """Which examples are held out."""
    facts: Facts | None = None
    """Lets lrflow check a run and count its steps before the data is read."""
