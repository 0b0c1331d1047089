"""Schemas of how a run is executed: trainer, checkpoints, signals, batch scaling and resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from lrflow.config.checkpoint_names import NamePattern
from lrflow.config.schemas import types as f
from lrflow.config.schemas.callbacks import End
from lrflow.config.schemas.objects import Node, Section
from lrflow.metric import LOSS, Metric
from lrflow.plan.transfer import EXPONENT, PARTS
from lrflow.schedules import Duration


class Checkpoint(Section):
    """When checkpoints are saved, and which are kept."""

    every: f.Interval = Duration.parse("1 epoch")
    """Interval between checkpoints."""
    keep: f.Count | None = 2
    """Number of latest checkpoints to keep; None: all."""
    monitor: f.Text | None = LOSS
    """Metric by which the best checkpoint is also kept; None: keep only the latest."""
    mode: f.Mode | None = None
    """Whether a lower or a higher value is better; None: the mode set elsewhere for the metric, or guessed by name."""
    best: f.Count = 1
    """Number of best checkpoints to keep, beside the latest."""
    name: Annotated[str, f.parsed_by(NamePattern.parse)] | None = None
    """Pattern of the names of the best checkpoints; None: best-STEP if several are kept, else only best.ckpt."""

    @property
    def metric(self) -> Metric | None:
        """Metric of the best checkpoint; None: no best checkpoint is kept."""
        return None if self.monitor is None else Metric.parse(self.monitor, self.mode)

    @property
    def pattern(self) -> NamePattern | None:
        """Pattern of the names of the best checkpoints, as the config gives it."""
        return None if self.name is None else NamePattern.parse(self.name)


AnyStrategy = Annotated[
    Annotated[f.Strategy, Tag("<name>")] | Annotated[Node, Tag("<node>")],
    Discriminator(lambda value: "<node>" if isinstance(value, Mapping | Node) else "<name>"),
]

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


class Trainer(Section):
    """How the run is executed: devices, precision, length, validation and checkpoints."""

    accelerator: Annotated[str, f.one_of(*ACCELERATORS)] = "auto"
    """Kind of device; auto: the best one available."""
    devices: f.Devices = 1
    """Number of devices per node, or a list of their indices; auto: all."""
    num_nodes: f.Count = 1
    """Number of machines that train together."""
    strategy: AnyStrategy = "auto"
    """Strategy of Lightning's, such as ddp, or a node with `_target_` and arguments; auto: chosen by the devices."""
    timeout: f.ClockTime = "30 min"
    """How long a process of a data-parallel run waits for the others before it ends the run."""
    precision: Annotated[Any, f.one_of(*PRECISIONS, also=("64", "32", "bf16", "16", 64, 32, 16))] = "32-true"
    """Precision of the model's computations."""
    max_epochs: f.Count | None = None
    """Maximum number of epochs; None: max_steps or max_samples ends the run."""
    max_steps: f.Steps | None = None
    """Maximum number of optimizer steps; the first limit reached ends the run."""
    max_samples: f.Count | None = None
    """Maximum number of examples or environment steps over all devices; the first limit reached ends the run."""
    min_epochs: f.Count | None = None
    """Number of epochs before which no callback ends the run; None: any may."""
    min_steps: f.Steps | None = None
    """Number of optimizer steps before which no callback ends the run; None: any may."""
    max_time: f.ClockTime | None = None
    """Time of training over all resumes, after which the run ends even if its plan does not; None: no limit."""
    at_max_time: Annotated[End, f.one_of(*get_args(End))] = "cooldown"
    """How max_time ends the run: with a cooldown of the LR that still fits into it, or at once."""
    max_time_cooldown: f.Interval = Duration.parse("10%")
    """Length of the cooldown with which max_time ends the run."""
    accumulate_grad_batches: Annotated[f.Count, f.Json({"type": "null"}, beside=True)] = 1  # null: filled in before
    """Batches per optimizer step."""
    gradient_clip_val: f.Positive | None = None
    """Limit to which the gradient is clipped; None: no clipping."""
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], f.one_of("norm", "value")] = "norm"
    """Whether the gradient's norm or each of its values is clipped."""
    val_every: f.Interval = Duration.parse("1 epoch")
    """Interval between validations."""
    limit_train_batches: f.Count | None = None
    """Maximum number of batches per epoch."""
    limit_val_batches: f.CountOrNone | None = None
    """Maximum number of batches per validation; 0: no validation."""
    overfit_batches: f.CountOrShare | None = None
    """Number or share of the batches of an epoch on which alone the run trains and validates; None: all data."""
    fast_dev_run: f.Switch = False
    """Run one batch of training, validation and test, and write no files."""
    batch_norm_batches: f.CountOrNone = 32
    """Training batches for BatchNorm statistics of evaluation weights; 0: keep the statistics of training."""
    log_every: f.LogInterval = 50
    """Steps between two writes of the collected signals."""
    checkpoint: Checkpoint = Checkpoint.model_construct()
    """When checkpoints are saved, and which are kept."""
    loop: Annotated[Literal["auto", "lean", "lightning"], f.one_of("auto", "lean", "lightning")] = "auto"
    """Loop over the batches: the lean one, or Lightning's, which trains the same with more overhead per step."""
    compile: f.Switch = False
    """Apply torch.compile to the model and the optimizer step."""
    channels_last: f.Switch = False
    """Store images in the memory format channels_last."""
    deterministic: f.Switch = False
    """Use torch's deterministic algorithms."""
    progress: f.AutoSwitch = "auto"
    """Show a progress bar; auto: on a terminal."""
    benchmark: f.Switch = False
    """Let cuDNN try its algorithms and take the fastest."""
    detect_anomaly: f.Switch = False
    """End the run where a backward pass computes NaN, with the forward operation that caused it; slow."""
    sync_batchnorm: f.Switch = False
    """Compute the statistics of BatchNorm over all GPUs of a data-parallel run."""
    profiler: Annotated[Literal["simple", "advanced", "pytorch"], f.one_of("simple", "advanced", "pytorch")] | None = (
        None
    )
    """Profiler of Lightning's that measures the run and writes into its folder; None: none."""
    plugins: list[Node] = Field([])
    """Plugins of Lightning's, each with `_target_` and arguments: precision, cluster environment."""
    lightning: dict[str, Any] = Field({})
    """Further arguments of Lightning's Trainer."""

    @property
    def train_limit(self) -> int | float | None:
        """Most batches of an epoch, or a share of them; None: all."""
        return self.limit_train_batches if self.overfit_batches is None else self.overfit_batches

    @property
    def strategy_name(self) -> str:
        """Name of the strategy; of a node, that of its class: `ddp` of DDPStrategy."""
        if isinstance(self.strategy, Node):
            return self.strategy.target.rpartition(".")[2].removesuffix("Strategy").lower()
        return self.strategy

    @property
    def processes(self) -> int | None:
        """Number of processes on all nodes; None if `devices=auto`, where the machine determines it."""
        if self.devices == "auto":
            return None
        return (len(self.devices) if isinstance(self.devices, list) else int(self.devices)) * self.num_nodes

    def beyond_one_process(self, processes: int | None = None) -> tuple[str, Any, str] | None:
        """Return the key that sets several processes or a strategy that wraps the model, or None.

        Args:
            processes: number of processes; None: as the config sets it.

        Returns:
            The key, its value, and its value for one process without a strategy.
        """
        processes = processes or self.processes
        if self.num_nodes > 1:
            return "num_nodes", self.num_nodes, "1"
        if processes is not None and processes > 1:
            return "devices", self.devices, "1"
        if self.strategy_name not in ("auto", "single_device", "singledevice"):
            return "strategy", self.strategy_name, "auto"
        return None


class Signals(Section):
    """What a run measures besides loss, LRs and step times; see `lrflow.training.signals`."""

    every: f.Interval | None = None
    """Interval between measurements of the norms of gradients, weights and updates; None: never."""
    half_batches: f.Interval | None = None
    """Interval between measurements of the gradient noise by half of a batch, if a step has only one; None: never."""
    machine: f.Switch = False
    """Whether to log throughput, the time that steps wait for data, and memory."""
    peak_flops: f.Positive | None = None
    """Operations per second that one device can do at the run's precision, for MFU; None: as Lightning knows it."""


class Scaling(Section):
    """How the peak LR scales with the batch, or that of a tuned run; see `lrflow.plan.batch_scaling`, `.transfer`."""

    rule: Annotated[Literal["none", "linear", "sqrt", "transfer"], f.one_of("none", "linear", "sqrt", "transfer")] = (
        "none"
    )
    """Factor on the peak LR. linear: batch / reference; sqrt: its root; transfer: from a tuned run; none: 1."""
    reference: f.Count | None = None
    """Examples per optimizer step for which the LRs of the config were chosen."""
    batch: f.Count | None = None
    """Examples per optimizer step; None: batch_size x devices x nodes x accumulated batches."""
    source: f.Text | None = Field(None, alias="from")
    """transfer: folder of the tuned run."""
    exponent: f.NotNegative = EXPONENT
    """transfer: power of the samples by which the best LR falls."""
    without: Annotated[Any, f.some_of(*PARTS)] | None = None
    """transfer: what stays as it is in the tuned run, one part or a list; None: nothing."""
    found: dict[str, Any] | None = None
    """How the LR was taken from another run; written by lrflow, with the LR as a number in `optimizer.lr`."""

    def transfers(self, part: str) -> bool:
        """Whether `scaling=transfer` adapts a part, one of `PARTS`."""
        return part not in ([self.without] if isinstance(self.without, str) else self.without or ())


class HorizonOverride(Section):
    """Length of the run, if it is not determined by the data."""

    steps: f.Steps | None = None
    """Optimizer steps of the run."""
    steps_per_epoch: f.Steps | None = None
    """Optimizer steps per epoch."""
    samples_per_step: f.Positive | None = None
    """Examples or environment steps per optimizer step over all devices."""


class Resume(Section):
    """Resume an interrupted run."""

    source: f.Text | None = Field(None, alias="from")
    """`last`, a run folder or a checkpoint; None: start a new run."""
    horizon: (
        Annotated[
            Literal["keep", "rescale", "extend", "decay_now", "rewarm", "branch"],
            f.one_of("keep", "rescale", "extend", "decay_now", "rewarm", "branch"),
        ]
        | None
    ) = None
    """How the plan changes if the length of the run changed."""
    requeue: f.AutoSwitch = "auto"
    """Whether a run that SIGUSR1 stops lets Slurm start its job again; auto: with resume=auto."""
