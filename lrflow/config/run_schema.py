"""Schemas of how a run is executed: task, trainer, checkpoints, loggers, health, batch scaling and resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from lrflow.config import types as f
from lrflow.config.schema import Node, Section
from lrflow.metric import LOSS, Metric
from lrflow.schedules import Duration


class Checkpoint(Section):
    """When a run is saved, and what of it is kept."""

    every: f.Interval = Duration.parse("1 epoch")
    """Save this often."""
    keep: f.Count | None = 1
    """How many of the latest to keep; None: all."""
    monitor: f.Text | None = LOSS
    """Also keep the best by this metric; None: only the latest."""
    mode: f.Mode | None = None
    """Whether the best is the smallest or the largest; None: as the metric has it elsewhere, or by its name."""

    @property
    def metric(self) -> Metric | None:
        """What the best is best by; None: no best one is kept."""
        return None if self.monitor is None else Metric.parse(self.monitor, self.mode)


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


class Trainer(Section):
    """How the run is executed: devices, precision, length, when it validates and saves."""

    accelerator: Annotated[str, f.one_of(*ACCELERATORS)] = "auto"
    """The kind of device; auto: the best found."""
    devices: f.Devices = 1
    """How many of them on each node, or their numbers; auto: all."""
    num_nodes: f.Count = 1
    """Machines that train together."""
    strategy: f.Strategy = "auto"
    """How devices share the work: ddp, fsdp or another strategy of Lightning's; auto: as the devices need."""
    precision: Annotated[Any, f.one_of(*PRECISIONS, also=("64", "32", "bf16", "16", 64, 32, 16))] = "32-true"
    """Of the numbers that the model computes with."""
    max_epochs: f.Count | None = None
    """Passes through the training data; None: max_steps or max_samples ends the run."""
    max_steps: f.Count | None = None
    """Optimizer steps; ends the run earlier than max_epochs does."""
    max_samples: f.Count | None = None
    """Examples, or environment steps, that all devices together see at most; ends the run earlier than the others."""
    accumulate_grad_batches: f.Count = 1
    """Batches an optimizer step."""
    gradient_clip_val: f.Positive | None = None
    """Clip the gradient's norm, or each of its values, to this."""
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], f.one_of("norm", "value")] = "norm"
    """Which of the two is clipped."""
    val_every: f.Interval = Duration.parse("1 epoch")
    """Validate this often."""
    limit_train_batches: f.Count | None = None
    """An epoch's first n batches only."""
    limit_val_batches: f.CountOrNone | None = None
    """A validation's first n batches only; 0: no validation."""
    batch_norm_batches: f.CountOrNone = 32
    """Training batches that BatchNorm is estimated from where evaluation has weights of its own; 0: as in training."""
    log_every: f.Count = 50
    """Steps between two writes of the collected signals."""
    checkpoint: Checkpoint = Checkpoint.model_construct()
    """When the run is saved."""
    compile: f.Switch = False
    """torch.compile the model and the optimizer step."""
    channels_last: f.Switch = False
    """Memory format of images."""
    deterministic: f.Switch = False
    """Torch's deterministic algorithms."""
    progress: f.AutoSwitch = "auto"
    """A progress bar; auto: on a terminal."""

    @property
    def processes(self) -> int | None:
        """How many processes train together, on all nodes; None: `devices=auto`, which the machine decides."""
        if self.devices == "auto":
            return None
        return (len(self.devices) if isinstance(self.devices, list) else int(self.devices)) * self.num_nodes

    def beyond_one_process(self, processes: int | None = None) -> tuple[str, Any, str] | None:
        """The key that has more than one process train, or a strategy wrap the model; None: no key does.

        Args:
            processes: how many train together; None: as many as the config says.

        Returns:
            The key, its value, and the value that it should have for one process without a strategy.
        """
        processes = processes or self.processes
        if self.num_nodes > 1:
            return "num_nodes", self.num_nodes, "1"
        if processes is not None and processes > 1:
            return "devices", self.devices, "1"
        if self.strategy not in ("auto", "single_device"):
            return "strategy", self.strategy, "auto"
        return None


class Wandb(Section):
    """Weights & Biases."""

    project: f.Text = "lrflow"
    """Where the run is listed."""
    entity: f.Text | None = None
    """The account or team; None: the key's own."""
    group: f.Text | None = None
    """Runs that belong together."""
    tags: Annotated[list[f.Text], Field(default_factory=list)]
    """Words to find the run by."""
    mode: Annotated[str, f.one_of("auto", "online", "offline", "disabled")] = "auto"
    """auto: online with a key in the environment, offline without."""


class Logger(Section):
    """Where metrics go."""

    csv: f.Switch = True
    """metrics.csv in the run folder."""
    wandb: Wandb | None = None
    tensorboard: dict[str, Any] | None = None
    """Arguments of Lightning's TensorBoardLogger."""


class MonitorNode(Node):
    """One monitor: `_target_`, a `lrflow.health.Monitor`, and the arguments that it takes."""

    default: ClassVar[str | None] = None
    """What is built where the node names no `_target_`."""

    @model_validator(mode="before")
    @classmethod
    def _with_target(cls, given: Any) -> Any:
        if cls.default is not None and isinstance(given, Mapping) and not {"_target_", "target"} & given.keys():
            return {"_target_": cls.default, **given}
        return given


Action = Literal["stop", "warn", "ignore"]
"""What happens at the first value that is not finite."""


class NonFinite(MonitorNode):
    """Loss, gradients and weights that are not finite; see `lrflow.health.NonFinite`."""

    default = "lrflow.health.NonFinite"

    action: Annotated[Action, f.one_of(*get_args(Action))] = "stop"
    """What happens then."""


class Probing(Section):
    """When the sharpness is measured, and how exactly."""

    every: f.Interval | None = None
    """Measure this often; None: never."""
    batches: f.Count = 4
    """Of training data, the same ones throughout the run."""
    products: f.Count = 20
    """Hessian-vector products of a measurement at most."""


class Sharpness(Probing, MonitorNode):
    """How close a run is to the edge of stability, measured as it trains; see `lrflow.health.Sharpness`."""

    model_config = ConfigDict(extra="allow")

    default = "lrflow.health.Sharpness"


def _action_alone(given: Any) -> Any:
    """`health.nonfinite=warn` is short for `health.nonfinite.action=warn`."""
    return given if given is None or isinstance(given, Mapping | NonFinite) else {"action": given}


class Health(Section):
    """The monitors that watch a run, by name; null: none of the name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, MonitorNode | None]

    nonfinite: Annotated[NonFinite | None, BeforeValidator(_action_alone)] = Field(
        default_factory=lambda: NonFinite.model_validate({})
    )
    """What is no longer finite."""
    sharpness: Sharpness | None = Field(default_factory=lambda: Sharpness.model_validate({}))
    """The curvature, against the LR."""

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`_target_` and arguments of each monitor, by its name."""
        found = {"nonfinite": self.nonfinite, "sharpness": self.sharpness, **(self.__pydantic_extra__ or {})}
        return {name: node.node() for name, node in found.items() if node is not None}


class Scaling(Section):
    """How the peak LR follows the batch of an optimizer step; see `lrflow.plan.batch_scaling`."""

    rule: Annotated[Literal["none", "linear", "sqrt"], f.one_of("none", "linear", "sqrt")] = "none"
    """linear: batch / reference; sqrt: its square root; none: the peak is what the config says."""
    reference: f.Count | None = None
    """Examples of an optimizer step for which the LRs of the config are right."""
    batch: f.Count | None = None
    """Examples of an optimizer step; None: batch_size x devices x nodes x accumulated batches."""


class Train(Section):
    """Train the model under the plan."""

    name: Literal["train"]
    test: f.Tested = True
    """Evaluate the test set at the end, with the best weights or the last; true: the last."""


class PlanTask(Section):
    """Print, draw and check the plan."""

    name: Literal["plan"]


class FindTask(Section):
    """Find the LR."""

    name: Literal["find"]


class Evaluate(Section):
    """Evaluate a trained run."""

    name: Literal["evaluate"]
    source: f.Text = Field("last", alias="from")
    """A run folder, a checkpoint, or `last`: the newest run."""
    weights: f.Text | None = None
    """`best`, `last`, or a checkpoint whose weights the run takes; None: as `from` says, of a run its last."""
    split: Annotated[Literal["test", "val"], f.one_of("test", "val")] = "test"


class Analyze(Section):
    """Say what a sweep found."""

    name: Literal["analyze"]
    source: f.Text = Field("last", alias="from")
    """A sweep folder, any folder of run folders, or `last`: the newest sweep."""
    metric: f.Texts | None = None
    """What trials are judged by, or a list of several objectives; None: the sweep's own."""
    mode: Annotated[Any, f.some_of("min", "max")] | None = None
    """Whether less of it is better, or more, or a list for several; None: the sweep's own, or by the metric's name."""
    rank_ended_early: f.Switch | None = None
    """Whether trials that ended early are judged as those that finished; None: the sweep's own."""
    margin: f.Margin = "5%"
    """How much worse within the good basin: a share of what training gains, or a difference of the metric."""
    trial: f.CountOrNone | None = None
    """A trial to write as `recipe/trial-NUMBER.yaml`; None: the best alone is written, as `recipe/best.yaml`."""
    write: f.Switch = False
    """Whether `recipe/best.yaml` is written also where trials are judged by another metric than the sweep's own."""


def _name_of_task(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return f"<{name}>"


Task = Annotated[
    Annotated[Train, Tag("<train>")]
    | Annotated[PlanTask, Tag("<plan>")]
    | Annotated[FindTask, Tag("<find>")]
    | Annotated[Evaluate, Tag("<evaluate>")]
    | Annotated[Analyze, Tag("<analyze>")],
    Discriminator(_name_of_task),
]


class HorizonOverride(Section):
    """How long the run is, where it is not to be read from the data."""

    steps: f.Count | None = None
    """Optimizer steps of the run."""
    steps_per_epoch: f.Count | None = None
    """Optimizer steps an epoch."""
    samples_per_step: f.Positive | None = None
    """What an optimizer step sees on all devices together: examples, or environment steps."""


class Resume(Section):
    """Continue an interrupted run."""

    source: f.Text | None = Field(None, alias="from")
    """`last`, a run folder or a checkpoint."""
    horizon: (
        Annotated[
            Literal["keep", "rescale", "extend", "decay_now", "branch"],
            f.one_of("keep", "rescale", "extend", "decay_now", "branch"),
        ]
        | None
    ) = None
    """What becomes of the plan when the run's length changed."""
