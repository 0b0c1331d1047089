"""The typed config: one class a group of `conf/`, every key with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from lrflow.config import fields as f


class Section(BaseModel):
    """A part of the config whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """The keys that the config gives, as plain dicts, lists and values."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Node(Section):
    """A part that builds an object: `_target_` and the arguments that it takes, checked against its signature."""

    model_config = ConfigDict(extra="allow")

    target: f.Text = Field(alias="_target_")
    """Dotted name of a class or function, from lrflow, torch and Lightning or from a package that the user trusts."""

    offered: ClassVar[frozenset[str]] = frozenset()
    """Keys that lrflow reads itself; the target is given them where its signature names them."""

    def node(self) -> dict[str, Any]:
        """`_target_` and its arguments, as `instantiate` takes them."""
        content = self.plain()
        if self.offered & content.keys():
            from lrflow.config.targets import takes

            for key in self.offered & content.keys():
                if not takes(self.target, key):
                    del content[key]
        return content


class Optimizer(Node):
    """An optimizer of `torch.optim` or a class that is called like one."""

    lr: f.PeakLR
    """Peak LR; the schedule multiplies it."""
    momentum: f.BelowOne = 0.0
    """Factor of the running mean of gradients; 0: none."""
    nesterov: f.Switch = False
    """Look-ahead momentum."""
    dampening: f.Fraction = 0.0
    """How much of the new gradient the momentum leaves out."""
    betas: f.Betas = (0.9, 0.999)
    """Factors of the running means of the gradient and of its square."""
    eps: f.Positive = 1e-8
    """Added to the denominator."""
    weight_decay: f.NotNegative = 0.0
    """Decoupled or through the gradient, as the optimizer has it."""
    amsgrad: f.Switch = False
    """Keep the running maximum of the second moment."""
    fused: f.AutoSwitch = "auto"
    """The fused kernel; auto: where the device has one."""


class Schedule(Node):
    """Warmup, shape, cooldown and floor; see `lrflow.schedules.Schedule`."""

    shape: Node | None = None
    """The curve between warmup and cooldown."""
    warmup: f.DurationText = 0
    """A duration: 500 (steps), 3 epochs, 10%."""
    warmup_start: f.Fraction | None = None
    """Fraction of the peak at step 0; None: 1 / (warmup steps + 1)."""
    cooldown: f.DurationText = 0
    """The last stretch, straight down to the floor."""
    floor: f.Fraction = 0.0
    """Fraction of the peak below which the LR never falls."""


class Rule(Section):
    """One rule of `layers.rules`; see `lrflow.layers.Rule`, which takes the same keys."""

    name: f.Text
    match: f.Texts | None = None
    type: f.Texts | None = None
    ndim: f.Numbers | None = None
    select: f.Texts | None = None
    lr: f.GroupLR | None = None
    weight_decay: f.NotNegative | None = None
    schedule: Schedule | None = None
    freeze: f.Switch = False


class Rules(Section):
    """Parameter groups by rules, in order: the first that matches a parameter claims it."""

    rules: Annotated[list[Rule], Field(min_length=1)]

    def specs(self) -> list[dict[str, Any]]:
        """The rules as `lrflow.layers.Rule.from_config` takes them."""
        return [rule.plain() for rule in self.rules]


class RuleMaker(Node):
    """Parameter groups by an object whose `rules(model)` gives the rules."""


def _kind_of_layers(value: Any) -> str:
    made = "_target_" in value if isinstance(value, Mapping) else isinstance(value, RuleMaker)
    return "<maker>" if made else "<rules>"


Layers = Annotated[
    Annotated[Rules, Tag("<rules>")] | Annotated[RuleMaker, Tag("<maker>")], Discriminator(_kind_of_layers)
]

Loss = Annotated[Literal["cross_entropy", "mse"], f.one_of("cross_entropy", "mse")]


class Model(Node):
    """A `torch.nn.Module`, or a `LightningModule` whose optimizer lrflow supplies."""

    offered = frozenset({"loss"})

    loss: Loss | None = None
    """What a plain module is trained with; a LightningModule has its own."""


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


class Checkpoint(Section):
    """When a run is saved, and what of it is kept."""

    every: f.DurationText = "1 epoch"
    """Save this often."""
    keep: f.Count | None = 1
    """How many of the latest to keep; None: all."""
    monitor: f.Text | None = "val/loss"
    """Also keep the best by this metric; None: only the latest."""
    mode: Annotated[Literal["min", "max"], f.one_of("min", "max")] = "min"
    """Whether the best is the smallest or the largest."""


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


class Trainer(Section):
    """How the run is executed: devices, precision, length, when it validates and saves."""

    accelerator: Annotated[str, f.one_of(*ACCELERATORS)] = "auto"
    devices: f.Devices = 1
    num_nodes: f.Count = 1
    strategy: f.Strategy = "auto"
    precision: Annotated[Any, f.one_of(*PRECISIONS, also=("64", "32", "bf16", "16", 64, 32, 16))] = "32-true"
    max_epochs: f.Count | None = None
    max_steps: f.Count | None = None
    """Optimizer steps; ends the run earlier than max_epochs does."""
    accumulate_grad_batches: f.Count = 1
    """Batches an optimizer step."""
    gradient_clip_val: f.Positive | None = None
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], f.one_of("norm", "value")] = "norm"
    val_every: f.DurationText = "1 epoch"
    limit_train_batches: f.Count | None = None
    limit_val_batches: f.CountOrNone | None = None
    log_every: f.Count = 50
    """Steps between two writes of the collected signals."""
    checkpoint: Checkpoint = Checkpoint()
    compile: f.Switch = False
    channels_last: f.Switch = False
    deterministic: f.Switch = False
    progress: f.AutoSwitch = "auto"


class Wandb(Section):
    """Weights & Biases."""

    project: f.Text = "lrflow"
    entity: f.Text | None = None
    group: f.Text | None = None
    tags: Annotated[list[f.Text], Field(default_factory=list)]
    mode: Annotated[str, f.one_of("auto", "online", "offline", "disabled")] = "auto"


class Logger(Section):
    """Where metrics go."""

    csv: f.Switch = True
    """metrics.csv in the run folder."""
    wandb: Wandb | None = None
    tensorboard: dict[str, Any] | None = None
    """Arguments of Lightning's TensorBoardLogger."""


class Health(Section):
    """What is watched during a run."""

    nonfinite: Annotated[Literal["stop", "warn", "ignore"], f.one_of("stop", "warn", "ignore")] = "stop"
    """What happens when the loss is no longer finite."""


class Train(Section):
    """Train the model under the plan."""

    name: Literal["train"]
    test: f.Switch = True
    """Evaluate the test set at the end."""


class PlanTask(Section):
    """Print, draw and check the plan."""

    name: Literal["plan"]


class Evaluate(Section):
    """Evaluate a trained run."""

    name: Literal["evaluate"]
    source: f.Text = Field("last", alias="from")
    """A run folder, a checkpoint, or `last`: the newest run."""
    split: Annotated[Literal["test", "val"], f.one_of("test", "val")] = "test"


def _name_of_task(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return f"<{name}>"


Task = Annotated[
    Annotated[Train, Tag("<train>")] | Annotated[PlanTask, Tag("<plan>")] | Annotated[Evaluate, Tag("<evaluate>")],
    Discriminator(_name_of_task),
]


class HorizonOverride(Section):
    """How long the run is, where it is not to be read from the data."""

    steps: f.Count | None = None
    """Optimizer steps of the run."""
    steps_per_epoch: f.Count | None = None
    """Optimizer steps an epoch."""


class Resume(Section):
    """Continue an interrupted run."""

    source: f.Text | None = Field(None, alias="from")
    """`last`, a run folder or a checkpoint."""
    horizon: (
        Annotated[Literal["keep", "rescale", "extend", "decay_now"], f.one_of("keep", "rescale", "extend", "decay_now")]
        | None
    ) = None
    """What becomes of the plan when the run's length changed."""
