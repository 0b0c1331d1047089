"""Schemas of the group `health`: monitors of a run, and what it does about what they find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import Node, Section
from lrflow.schedules import Duration


class MonitorNode(Node):
    """A monitor: `_target_`, a `lrflow.health.Monitor`, and its arguments."""

    default: ClassVar[str | None] = None
    """Default of `_target_`."""

    @model_validator(mode="before")
    @classmethod
    def _with_target(cls, given: Any) -> Any:
        if cls.default is not None and isinstance(given, Mapping) and not {"_target_", "target"} & given.keys():
            return {"_target_": cls.default, **given}
        return given


Response = Literal["watch", "stop", "recover"]
"""What a run does about something that was found."""

OwnResponse = Literal["watch", "stop", "recover", "restart", "kick", "raise", "cooldown", "ignore"]
"""What a run does about the findings of one detector."""

ADJUSTMENTS: tuple[OwnResponse, ...] = ("restart", "kick", "raise")
"""Those of them that change the LR, and nothing else."""

NOTICEABLE = 1.2
"""The least factor on the LR that is worth one of them."""

OnPlateau = Literal["none", "stop", "cooldown", "restart", "kick"]
OnOverfitting = Literal["none", "stop", "cooldown"]
OnTooLow = Literal["none", "stop", "raise"]

Action = Literal["stop", "warn", "ignore"]
"""Reaction to the first value that is not finite."""


class NonFinite(MonitorNode):
    """Monitor of loss, gradients and weights that are not finite; see `lrflow.health.NonFinite`."""

    default = "lrflow.health.NonFinite"

    action: Annotated[Action, f.one_of(*get_args(Action))] = "stop"
    """Reaction to the first value that is not finite."""


class Probing(Section):
    """When and how precisely the sharpness is measured."""

    every: f.Interval | None = None
    """Interval between measurements; None: never."""
    batches: f.Count = 4
    """Number of training batches; the run measures on the same ones each time."""
    products: f.Count = 20
    """Maximum number of Hessian-vector products per measurement."""


class Sharpness(Probing, MonitorNode):
    """Monitor of how close training is to the edge of stability; see `lrflow.health.Sharpness`."""

    model_config = ConfigDict(extra="allow")

    default = "lrflow.health.Sharpness"


def _action_alone(given: Any) -> Any:
    """Expand `health.nonfinite=warn` to `health.nonfinite.action=warn`."""
    return given if given is None or isinstance(given, Mapping | NonFinite) else {"action": given}


class Detector(MonitorNode):
    """A detector of one kind of problem; see `lrflow.health.Detector`. Its arguments are those of its class."""

    model_config = ConfigDict(extra="allow")

    action: Annotated[OwnResponse, f.one_of(*get_args(OwnResponse))] | None = None
    """Response to what it finds. ignore: it does not look; None: as `health.action`, if that holds for its kind."""


class Recover(Section):
    """How a run returns to an earlier state of its own; see `lrflow.training.rollback`."""

    every: f.Interval = Duration.parse("2%")
    """Interval between two snapshots of the state."""
    keep: f.Count = 5
    """Number of snapshots to keep in memory, besides the first one; their ages grow about geometrically."""
    cut: Annotated[float, f.number(0, 1, above=True, below=True)] = 0.3
    """Factor on the LR at each rollback that is put down to it."""
    rewarm: f.Within = Duration.parse("2%")
    """Length of the warmup to the LR that was cut."""
    times: f.Count = 5
    """Most rollbacks of a run; after them it ends as diverged."""


class Restart(Section):
    """How action=restart lets the LR rise back to its planned peak; see `lrflow.health.actions`."""

    peak: f.ShareAboveZero = 1.0
    """The LR that it rises to, relative to the planned peak."""
    rewarm: f.Within = Duration.parse("2%")
    """Length of the rise; then the LR falls to the plan, which it reaches at the end of the run."""
    times: f.Count = 1
    """Most restarts of a run."""


class Kick(Section):
    """How action=kick raises the LR for a short time; see `lrflow.health.actions`."""

    factor: Annotated[float, f.number(NOTICEABLE, 1000)] = 3.0
    """Highest factor on the planned LR."""
    over: f.Interval = Duration.parse("5%")
    """Length of a kick: the factor rises over half of it, and falls over the other half."""
    times: f.Count = 3
    """Most kicks of a run."""


class Raise(Section):
    """How action=raise raises the LR for the rest of the run; see `lrflow.health.actions`."""

    most: Annotated[float, f.number(NOTICEABLE, 1000)] = 10.0
    """Highest factor of one raise; the finding says which one is enough."""
    rewarm: f.Within = Duration.parse("2%")
    """Length of the rise."""
    times: f.Count = 3
    """Most raises of a run."""


Skip = Literal["batches", "none"]
"""What becomes of the batches to which a rollback is put down."""


class Health(Section):
    """Monitors of a run by name; null switches a monitor off."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, MonitorNode | None]

    action: Annotated[Response, f.one_of(*get_args(Response))] = "watch"
    """Response to findings. watch: report them; stop: also end the run; recover: also roll back and lower the LR."""
    nonfinite: Annotated[
        NonFinite | None, BeforeValidator(_action_alone), f.Json({"enum": [*get_args(Action)]}, beside=True)
    ] = Field(default_factory=lambda: NonFinite.model_validate({}))
    """Monitor of values that are not finite."""
    sharpness: Sharpness | None = Field(default_factory=lambda: Sharpness.model_validate({}))
    """Monitor of the curvature relative to the LR."""
    diverging: Detector | None = None
    """Detector of a loss that rises and does not come back."""
    too_high: Detector | None = None
    """Detector of an LR that is too high although the loss does not diverge."""
    spiking: Detector | None = None
    """Detector of losses and gradient norms that jump and come back."""
    warmup_too_short: Detector | None = None
    """Detector of a loss that rises at the end of the warmup and takes long to come back."""
    oscillating: Detector | None = None
    """Detector of a loss that jumps to and fro at an LR that does not decay."""
    too_low: Detector | None = None
    """Detector of an LR that is far too low."""
    overfitting: Detector | None = None
    """Detector of a metric that gets worse while the training loss falls."""
    plateau: Detector | None = None
    """Detector of a run that has not improved for long."""
    dead_group: Detector | None = None
    """Detector of a group that does not move, or moves far more than the others."""
    data_stall: Detector | None = None
    """Detector of steps that wait for data."""
    recover: Recover = Field(default_factory=lambda: Recover.model_validate({}))
    """How action=recover returns to an earlier state."""
    skip: Annotated[Skip, f.one_of(*get_args(Skip))] = "batches"
    """Whether batches to which a rollback is put down are left out when they are reached again."""

    restart: Restart = Field(default_factory=lambda: Restart.model_validate({}))
    """How action=restart lets the LR rise back to its planned peak."""
    kick: Kick = Field(default_factory=lambda: Kick.model_validate({}))
    """How action=kick raises the LR for a short time."""
    raise_: Raise = Field(default_factory=lambda: Raise.model_validate({}), alias="raise")
    """How action=raise raises the LR for the rest of the run."""
    cooldown: f.Interval = Duration.parse("10%")
    """Length of the decay of the LR with which action=cooldown ends a run; a share is one of the planned run."""
    on_plateau: Annotated[OnPlateau, f.one_of(*get_args(OnPlateau))] | None = None
    """Short form of `plateau.action`; overrides it."""
    on_overfitting: Annotated[OnOverfitting, f.one_of(*get_args(OnOverfitting))] | None = None
    """Short form of `overfitting.action`; overrides it."""
    on_too_low: Annotated[OnTooLow, f.one_of(*get_args(OnTooLow))] | None = None
    """Short form of `too_low.action`; overrides it."""

    @property
    def short_actions(self) -> dict[str, OwnResponse]:
        """The actions that short forms set, by the kind of finding."""
        given = {"plateau": self.on_plateau, "overfitting": self.on_overfitting, "too_low": self.on_too_low}
        return {kind: "watch" if word == "none" else word for kind, word in given.items() if word is not None}

    def may(self, response: OwnResponse) -> bool:
        """Return whether this may be the response to a finding: it is that of `health.action` or of a monitor."""
        found = [node.get("action") for name, node in self.nodes().items() if name != "nonfinite"]
        return response in (self.action, *found)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return `_target_` and arguments of each monitor by name."""
        nodes, short = {name: node.node() for name, node in self._monitors.items()}, self.short_actions
        return {name: node | ({"action": short[name]} if name in short else {}) for name, node in nodes.items()}

    @property
    def _monitors(self) -> dict[str, MonitorNode]:
        own = {name: getattr(self, name) for name in type(self).model_fields}
        found = {**own, **(self.__pydantic_extra__ or {})}
        return {name: node for name, node in found.items() if isinstance(node, MonitorNode)}
