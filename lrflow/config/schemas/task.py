"""Schemas of the group `task`, formats of exports and predictions, and the names of tasks that use a trained run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import Section
from lrflow.plan.averaging import WIDEST
from lrflow.schedules import Duration

OF_A_RUN = ("evaluate", "export", "merge", "predict")
"""Tasks that use the config and the weights of an earlier run, `task.from`."""

EXPORTS: dict[str, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "state_dict": (),
    "torch_export": (),
    "onnx": ("onnx", "onnxscript"),
    "huggingface": ("transformers",),
}
"""Formats of `task=export`, each with the packages that it needs besides torch."""

LAWS = ("multi_power", "functional")
"""Laws that `task=forecast` fits: the multi-power law, and the one that the functional scaling law gives."""

WANDB = ("sweep", "workspace", "report")
"""What `task=analyze` makes for W&B."""

TABLES: dict[str, tuple[str, ...]] = {"csv": (), "npz": (), "parquet": ("pyarrow",)}
"""Formats of `task=predict`, each with the packages that it needs."""


class Train(Section):
    """Train the model under the plan."""

    name: Literal["train"]
    test: f.Tested = True
    """Evaluate on the test set at the end, with the best or the last weights; true: the last."""


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
    """Run folder, checkpoint, or `last`: the newest run."""
    weights: f.Text | None = None
    """`best`, `last`, or a checkpoint with the weights to evaluate; None: those of `from`, the last ones of a run."""
    split: Annotated[Literal["test", "val"], f.one_of("test", "val")] = "test"


class Merge(Section):
    """Merge checkpoints of a constant LR into the weights of a decay."""

    name: Literal["merge"]
    source: f.Text = Field("last", alias="from")
    """Run folder, checkpoint, or `last`: the newest run; the decay ends at its last step."""
    shape: f.Text = Field("1-sqrt", alias="as")
    """Shape of the decay: a `cooldown_shape` or an option of `schedule`; `average`: the average that the run kept."""
    over: f.Interval = Duration.parse("20%")
    """Length of the decay."""
    floor: f.PeakShare = 0.0
    """LR at the end of the decay, as a fraction of the peak."""
    width: Annotated[float, f.number(0, WIDEST, above=True)] | None = None
    """Width of an average of the whole run, made from those that `average=power` kept; None: a decay."""


class Export(Section):
    """Export the weights of a trained run for use without lrflow."""

    name: Literal["export"]
    source: f.Text = Field("last", alias="from")
    """Run folder, checkpoint, or `last`: the newest run."""
    weights: f.Text = "best"
    """`best`, `last`, or a checkpoint."""
    to: Annotated[str, f.one_of(*EXPORTS)] = "safetensors"
    """Format: the weights (safetensors, state_dict), the network with its preprocessing (torch_export,
    onnx), or the folder of a model of transformers (huggingface)."""


class Predict(Section):
    """Predict a part of the data, or inputs of the user's own, with a trained run."""

    name: Literal["predict"]
    source: f.Text = Field("last", alias="from")
    """Run folder, checkpoint, or `last`: the newest run."""
    weights: f.Text = "best"
    """`best`, `last`, or a checkpoint."""
    split: Annotated[str, f.one_of("train", "val", "test")] = "test"
    """Part of the data that is predicted, in its own order."""
    inputs: f.Text | None = None
    """File or folder of inputs that are predicted instead: .npy, .npz, .csv, .pt, or files as those of the data."""
    prompt: f.Text | None = None
    """Text that a language model continues, instead of predicting data."""
    tokens: f.Count = 200
    """Most tokens of the continuation; it ends before at an end of the text."""
    temperature: f.NotNegative = 0.8
    """Divisor of the logits; below 1 likely tokens are preferred, 0 always takes the likeliest."""
    draw: f.Seed = 0
    """Seed of the continuation."""
    to: Annotated[str, f.one_of(*TABLES)] = "csv"
    """Format of the predictions."""
    chunk: f.Count = 4096
    """Examples between two saves; a prediction that was killed resumes after the last one."""


class Forecast(Section):
    """Forecast the loss of a run from those of a trunk and a branch."""

    name: Literal["forecast"]
    source: f.Texts | None = Field(None, alias="from")
    """Run folders of one model, batch and optimizer with different LRs; the first one has the config of the run."""
    metric: f.Text | None = None
    """The loss; None: val/loss if the runs have enough of it, else train/loss."""
    law: Annotated[str, f.one_of(*LAWS)] = LAWS[0]
    """The law that is fitted."""
    against: f.Text | None = None
    """Run folder of a real run, whose LRs are those of the forecast; None: the schedule of the config."""
    best: f.Switch = False
    """Look for the schedule of this length and peak LR that has the lowest predicted end."""


class Analyze(Section):
    """Analyze the results of a sweep."""

    name: Literal["analyze"]
    source: f.Text = Field("last", alias="from")
    """Sweep folder, any folder of run folders, or `last`: the newest sweep."""
    metric: f.Texts | None = None
    """Metric by which trials are ranked, or a list of several objectives; None: the sweep's."""
    mode: Annotated[Any, f.some_of("min", "max")] | None = None
    """min or max, or a list for several objectives; None: the sweep's mode, or guessed by the metric's name."""
    rank_ended_early: f.Switch | None = None
    """Rank trials that ended early like those that finished; None: the sweep's setting."""
    margin: f.Margin = "5%"
    """Width of the good basin: a fraction of the improvement by training, or a difference of the metric."""
    trial: f.CountOrNone | None = None
    """Trial to write as `recipe/trial-NUMBER.yaml`; None: write only the best, as `recipe/best.yaml`."""
    wandb: Annotated[Any, f.some_of(*WANDB)] | None = None
    """What to make for W&B of the sweep: its search as `wandb-sweep.yaml`, a workspace or a report, or a list."""
    write: f.Switch = False
    """Write `recipe/best.yaml` even if trials are ranked by another metric than the sweep's."""


Task = Annotated[
    Annotated[Train, Tag("<train>")]
    | Annotated[PlanTask, Tag("<plan>")]
    | Annotated[FindTask, Tag("<find>")]
    | Annotated[Evaluate, Tag("<evaluate>")]
    | Annotated[Merge, Tag("<merge>")]
    | Annotated[Export, Tag("<export>")]
    | Annotated[Predict, Tag("<predict>")]
    | Annotated[Forecast, Tag("<forecast>")]
    | Annotated[Analyze, Tag("<analyze>")],
    f.by("name"),
]
