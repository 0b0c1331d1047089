"""Schemas of the group `logger`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import Node, Section

Affix = Annotated[str, f.expects("text", lambda value: isinstance(value, str))]


class Wandb(Section):
    """Weights & Biases."""

    project: f.Text = "lrflow"
    """Project of the run."""
    entity: f.Text | None = None
    """Account or team; None: the default of the API key."""
    group: f.Text | None = None
    """Group of the run; None: its sweep, if it has one."""
    job_type: f.Text | None = None
    """Kind of the run; None: its task."""
    tags: list[f.Text] = Field([])
    """Tags of the run, besides those of its recipe and its options."""
    notes: f.Text | None = None
    """Text about the run."""
    mode: Annotated[str, f.one_of("auto", "online", "offline", "disabled")] = "auto"
    """auto: online with a key in the environment, offline without."""
    artifacts: f.Switch = False
    """Upload the best and the last checkpoint, exports and the best recipe of a sweep at the end of the run."""
    settings: dict[str, Any] = Field({})
    """Settings of W&B by their names in `wandb.Settings`, but for those that lrflow gives itself."""


class TensorBoard(Section):
    """TensorBoard: arguments of Lightning's TensorBoardLogger and of its SummaryWriter."""

    log_graph: f.Switch = False
    """Log the graph of a module that has an `example_input_array`."""
    default_hp_metric: f.Switch = True
    """Log a metric `hp_metric` for the table of hyperparameters."""
    prefix: Affix = ""
    """Text before the name of each metric."""
    sub_dir: f.FolderPath | None = None
    """Folder of the events below the run folder's `tensorboard`."""
    max_queue: f.Count = 10
    """Number of events that are kept in memory before they are written."""
    flush_secs: f.Count = 120
    """Seconds between two writes of the events."""
    filename_suffix: Affix = ""
    """Text at the end of the names of the files."""


class MLflow(Section):
    """MLflow: a database in a file, or a server."""

    tracking_uri: f.Text | None = None
    """Where the runs are kept; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working directory."""
    experiment: f.Text = "lrflow"
    """Experiment of the run."""
    tags: dict[str, Any] = Field({})
    """Further tags of the run."""
    artifacts: f.Switch = False
    """Upload the best checkpoint, the config and the plan at the end of the run."""

    @property
    def file(self) -> str | None:
        """The file or folder in which the runs are kept, if the config gives one; None: a server, or MLflow's own."""
        scheme, colon, rest = (self.tracking_uri or "").partition(":")
        if colon and scheme not in ("sqlite", "file"):
            return None
        return (rest.removeprefix("///" if scheme == "sqlite" else "//") if colon else scheme) or None


class Trackio(Section):
    """Trackio: a database below Trackio's folder on this machine."""

    project: f.Text = "lrflow"
    """Project of the run."""
    group: f.Text | None = None
    """Group of the run; None: its sweep, if it has one."""


class Comet(Section):
    """Comet."""

    project: f.Text = "lrflow"
    """Project of the run."""
    workspace: f.Text | None = None
    """Workspace; None: the default of the API key."""
    tags: list[f.Text] = Field([])
    """Tags of the run, besides those of its options."""
    mode: Annotated[str, f.one_of("auto", "online", "offline")] = "auto"
    """auto: online with a key in the environment, offline without."""


class LoggerNode(Node):
    """A logger: `_target_`, a `pytorch_lightning.loggers.Logger`, and its arguments."""


class Logger(Section):
    """Loggers that receive the metrics; further ones by name, each a node with a `_target_`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LoggerNode | None]

    csv: f.Switch = True
    """Write metrics.csv in the run folder."""
    wandb: Wandb | None = None
    tensorboard: TensorBoard | None = None
    mlflow: MLflow | None = None
    trackio: Trackio | None = None
    comet: Comet | None = None

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return `_target_` and arguments of each further logger by name."""
        return {name: node.node() for name, node in (self.__pydantic_extra__ or {}).items() if node is not None}

    def receivers(self) -> dict[str, str]:
        """Return the accounts and servers to which the config sends the metrics, by key."""
        found = {
            "logger.wandb.entity": self.wandb and self.wandb.entity,
            "logger.comet.workspace": self.comet and self.comet.workspace,
            "logger.mlflow.tracking_uri": None if self.mlflow is None or self.mlflow.file else self.mlflow.tracking_uri,
        }
        return {key: value for key, value in found.items() if value}
