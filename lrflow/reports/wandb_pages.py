"""A workspace and a report on Weights & Biases for runs that lrflow logged there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrflow.config import Config
from lrflow.history import read_history
from lrflow.loggers.dashboard import BEST
from lrflow.loggers.wandb_history import STEP
from lrflow.loggers.wandb_run import OPTIONS
from lrflow.metric import TRAIN_LOSS, is_test, is_validation
from lrflow.runs import RunFolder, read_json
from lrflow.sweeps.results import SweepResults

SAMPLES = "samples"
"""The clock that counts examples."""

MOST_GROUPS = 12
"""Most groups that have panels of their own."""

PER_GROUP = ("grad_norm", "update_ratio", "weight_norm")
"""Series of each group that share a panel."""


@dataclass(frozen=True)
class Shown:
    """What the panels show.

    Args:
        groups: names of the groups of the plan.
        metrics: names of the metrics.
        objective: name of the metric that ranks runs.
        lowest_is_best: whether it is better if it is lower.
        keys: the swept keys.
        group: W&B's group of the runs: the sweep; None: all runs of the project.
        lr_key: the config key of the LR.
    """

    groups: tuple[str, ...]
    metrics: tuple[str, ...]
    objective: str
    lowest_is_best: bool = True
    keys: tuple[str, ...] = ()
    group: str | None = None
    lr_key: str = "optimizer.lr"

    @classmethod
    def of(cls, sweep: SweepResults) -> Shown:
        """Return what the runs of a sweep, or of any folder of runs, have in common."""
        groups: dict[str, None] = {}
        metrics: dict[str, None] = {TRAIN_LOSS: None}
        for run in sweep.runs:
            plan = read_json(RunFolder(run.folder).plan, dict) if RunFolder(run.folder).plan.exists() else {}
            groups |= dict.fromkeys(str(one["name"]) for one in plan.get("groups", ()))
            metrics |= dict.fromkeys(read_history(RunFolder(run.folder).metrics, _is_measured))
        group = sweep.folder.name if sweep.folder.parent.name == "sweeps" else None
        lr_key = sweep.lr_key or cls.lr_key
        return cls(tuple(groups), tuple(metrics), sweep.metric, sweep.mode == "min", sweep.keys, group, lr_key)


def _is_measured(column: str) -> bool:
    return is_validation(column) or is_test(column)


def _place(key: str) -> str:
    """Return where W&B's config has a swept key: the option of a group is below `options`."""
    return f"{OPTIONS}.{key}" if key in (*Config.groups, "recipe") else key


def panels_of(shown: Shown) -> dict[str, list[Any]]:
    """Return the panels by the heading of their section."""
    import wandb_workspaces.reports.v2 as wr

    column = wr.ParallelCoordinatesPlotColumn
    best = wr.SummaryMetric(f"{BEST}/{shown.objective}")
    groups = shown.groups[:MOST_GROUPS]
    rates = [wr.LinePlot(title="LR", x=STEP, y=[f"lr/{name}" for name in groups])]
    rates += [
        wr.LinePlot(title=f"LR of {name}, actual and planned", x=STEP, y=[f"lr/{name}", f"lr_planned/{name}"])
        for name in groups
    ]
    norms = [
        wr.LinePlot(title=kind.replace("_", " "), x=STEP, y=[f"{kind}/{name}" for name in groups], log_y=True)
        for kind in PER_GROUP
    ]
    sections = {
        "Metrics": [wr.LinePlot(title=name, x=STEP, y=[name]) for name in shown.metrics],
        "Learning rate": rates,
        "Best value by LR": [
            wr.ScatterPlot(title=f"{shown.objective} by LR", x=wr.Config(shown.lr_key), y=best, log_x=True),
        ],
        "Sweep": [
            wr.ParallelCoordinatesPlot(
                title="Parallel coordinates",
                columns=[
                    *(column(wr.Config(_place(key)), log=key == shown.lr_key) for key in shown.keys),
                    column(best, inverted=shown.lowest_is_best),
                ],
            ),
            wr.ParameterImportancePlot(with_respect_to=best.name),
        ],
        "Findings": [
            wr.MediaBrowser(title="Findings", media_keys=["findings/table"]),
            wr.MediaBrowser(title="Pictures", media_keys=[f"{name}/picture" for name in ("plan", "find", "sharpness")]),
        ],
        "Groups": norms,
        "By samples": [wr.LinePlot(title=f"{name} by samples", x=SAMPLES, y=[name]) for name in shown.metrics],
    }  # fmt: skip
    return sections if shown.keys else {name: panels for name, panels in sections.items() if name != "Sweep"}


def workspace_of(shown: Shown, entity: str, project: str) -> Any:
    """Return the workspace; `save()` makes it a view of the project."""
    import wandb_workspaces.workspaces as ws

    group = [ws.Metric("Group") == shown.group] if shown.group else []
    columns = [
        "config:options.schedule",
        "summary:status",
        "summary:findings/kinds",
        f"summary:{BEST}/{shown.objective}",
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"lrflow {shown.group or ''}".strip(),
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in panels_of(shown).items()],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(filters=group, pinned_columns=["run:displayName", *columns]),
    )


def report_of(shown: Shown, entity: str, project: str) -> Any:
    """Return the report; `save()` makes it a report of the project."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    filters = [ws.Metric("Group") == shown.group] if shown.group else []
    runs = wr.Runset(name=shown.group or "all runs", filters=filters)  # of the report's project
    blocks: list[Any] = []
    for name, panels in panels_of(shown).items():
        blocks += [wr.H2(text=name), wr.PanelGrid(runsets=[runs], panels=panels)]
    title = f"Learning rate: {shown.group or project}"
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")
